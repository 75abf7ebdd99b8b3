"""A stager with short waits, and checkpoints for it."""

from pathlib import Path

from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.staging import Stager


def ref_of(uri: str | Path, revision: str | None = None) -> CheckpointRef:
    return CheckpointRef(
        family="f", suite="s", run="r", params=1.0, step=1, tokens=1.0, flops=6.0,
        planned_tokens=None, uri=str(uri), revision=revision,
    )  # fmt: skip


def stager(folder: Path, *, budget_bytes: int = 10**9, **changes: float) -> Stager:
    settings = {"attempts": 3, "wait_s": 0.01, "space_timeout_s": 0.0} | changes
    return Stager(folder / "staging", budget_bytes=budget_bytes, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
