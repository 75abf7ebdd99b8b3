"""Arrays of the paper's code: <run>/<task>.npy, steps above accuracies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from neuneu.core.errors import DataError
from neuneu.data.importers.checkpoint_names import CheckpointName
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score, as_imported, task_row

_LOSSES: Final = "avg_losses_by_step"
_MEAN_LOSS: Final = "mean_loss"
"""That code averages any losses in a checkpoint's folder, of tokens or of words."""


class PaperArrays:
    """A folder of one run, or of folders of runs, with an array of shape (2, steps) a task."""

    name = "paper"
    expects = "<run>/<task>.npy with steps and accuracies, of the paper's code"

    def recognises(self, path: Path) -> str | None:
        """Look for an array of two rows, the first of whole numbers."""
        for found in _arrays(path):
            try:
                _read(found)
            except DataError:
                continue
            return f"{found.name} has steps above values, as the paper's code writes them"
        return None

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all tasks of all runs, including the untrained model (step 0)."""
        scores: list[Score] = []
        losses: list[Score] = []
        tasks = []
        for found in _arrays(path):
            steps, values = _read(found)
            folder = found.resolve().parent
            is_loss = found.stem == _LOSSES
            (losses if is_loss else scores).extend(
                Score(
                    checkpoint=CheckpointName(
                        run=folder.name, identity=str(folder), step=int(step)
                    ),
                    task=found.stem,
                    metric=_MEAN_LOSS if is_loss else "acc",
                    value=float(value),
                    written=found.stat().st_mtime,
                    source=str(found),
                )
                for step, value in zip(steps, values, strict=True)
            )
            tasks.append(task_row(found.stem, "acc"))
        return as_imported(scores, options, name=str(path), losses=losses, tasks=tasks)


def _arrays(path: Path) -> Iterator[Path]:
    """Yield the arrays of runs; those in a checkpoint's folder hold losses word by word."""
    if path.is_file():
        if path.suffix == ".npy":
            yield path
        return
    for found in sorted([*path.glob("*.npy"), *path.glob("*/*.npy")]):
        if not found.stem.startswith(("word_losses", "eval_losses")):
            yield found


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, both of shape (steps,).

    Raises:
        DataError: another kind of array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not readable as an array ({error}).") from error
    if array.ndim != 2 or len(array) != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: expected numbers of shape (2, steps), found {array.dtype} of shape "
            f"{array.shape}."
        )
    steps = array[0]
    if not (np.isfinite(steps).all() and (steps == np.round(steps)).all() and (steps >= 0).all()):
        raise DataError(f"{path}: expected whole steps in the first row, found {steps[:5]}.")
    return steps.astype(np.int64), array[1]
