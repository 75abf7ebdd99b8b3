"""Layout of the output folder of a suite, and folders that are written atomically."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SuiteFolder:
    """Paths in the output of a suite: results at the top, files of training itself in `train`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # `<run>/step-<N>/`, ordinary Hugging Face checkpoints.
        self.checkpoints = root / "checkpoints"
        # The prepared text (`neuneu.ladder.text.TextFolder`).
        self.text = root / "text"
        # The tokenizer that all runs share.
        self.tokenizer = root / "tokenizer"
        # CSV with columns run, step, tokens, loss_nats.
        self.training_losses = root / "training_losses.csv"
        # JSON that describes what the suite was made from, by which a rerun recognises it.
        self.record = root / "suite.json"
        # Files that only training reads.
        self.train = root / "train"

    def tokens(self, recipe: str) -> Path:
        """The token stream of a recipe."""
        return self.train / "tokens" / f"{recipe}.npy"

    def checkpoint(self, run: str, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.checkpoints / run / f"step-{step:06d}"

    def state(self, run: str) -> Path:
        """Step, weights, optimizer state and losses at the latest checkpoint of a run."""
        return self.train / run / "state.pt"

    def progress(self, run: str) -> Path:
        """JSON with the current step, tokens and, after step 0, loss_nats of a run."""
        return self.train / run / "progress.json"

    def losses(self, run: str) -> Path:
        """CSV with columns step, tokens, loss_nats up to the latest checkpoint."""
        return self.train / run / "losses.csv"

    def failure(self, run: str) -> Path:
        """Why a run failed in the latest attempt; absent if it did not."""
        return self.train / run / "failure.txt"

    def scratch(self, run: str) -> Path:
        """Unfinished checkpoints, outside `checkpoints` so that no reader sees them."""
        return self.train / run / "unfinished"


@contextmanager
def atomic_folder(target: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that is renamed to `target` on success.

    A folder that another process completed in the meantime is kept.

    Args:
        target: Folder to create.
        scratch: Parent of the temporary folder, on the same file system; None uses the parent of
            `target`.
    """
    scratch = scratch or target.parent
    temporary = scratch / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as written:
                os.fsync(written.fileno())
        if not target.exists():
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
