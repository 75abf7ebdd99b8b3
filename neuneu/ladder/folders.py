"""Where things lie in a suite's output folder, and folders written whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SuiteFolder:
    """The layout of one suite's output: what readers use on top, training's own under `train`."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """`<run>/step-<N>/`, ordinary Hugging Face checkpoints."""
        return self.root / "checkpoints"

    @property
    def text(self) -> Path:
        """The prepared text (`neuneu.ladder.text.TextFolder`)."""
        return self.root / "text"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer shared by all runs."""
        return self.root / "tokenizer"

    @property
    def training_losses(self) -> Path:
        """CSV with columns run, step, tokens, loss_nats."""
        return self.root / "training_losses.csv"

    @property
    def record(self) -> Path:
        """JSON that says what the suite was made from, by which a rerun is recognised."""
        return self.root / "suite.json"

    @property
    def train(self) -> Path:
        """Training's own files."""
        return self.root / "train"

    def tokens(self, recipe: str) -> Path:
        """The token stream of a recipe."""
        return self.train / "tokens" / f"{recipe}.npy"

    def checkpoint(self, run: str, step: int) -> Path:
        """One checkpoint."""
        return self.checkpoints / run / f"step-{step:06d}"

    def state(self, run: str) -> Path:
        """Step, weights, optimiser and losses at the latest checkpoint of a run."""
        return self.train / run / "state.pt"

    def progress(self, run: str) -> Path:
        """JSON with step, tokens and, after step 0, loss_nats: how far a run is now."""
        return self.train / run / "progress.json"

    def losses(self, run: str) -> Path:
        """CSV with columns step, tokens, loss_nats up to the latest checkpoint."""
        return self.train / run / "losses.csv"

    def failure(self, run: str) -> Path:
        """Why a run failed in the latest attempt; absent if it did not."""
        return self.train / run / "failure.txt"

    def scratch(self, run: str) -> Path:
        """Unfinished checkpoints; outside `checkpoints`, so that no reader meets them."""
        return self.train / run / "unfinished"


@contextmanager
def atomic_folder(target: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """Yields an empty temporary folder; renames it to `target` on success.

    A complete folder that another process put at `target` meanwhile is kept.

    Args:
        target: the folder to make.
        scratch: where to put the temporary folder, on the same file system; None means beside
            the target.
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
