"""Event files of TensorBoard: each folder with event files is a run, its scalars are series."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuneu.core.errors import DataError
from neuneu.core.extras import require
from neuneu.data.importers.checkpoint_names import CheckpointName
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score
from neuneu.data.importers.series import import_series

_EVENTS: Final = "*tfevents*"


class TensorBoardEvents:
    """A folder of event files, at any depth."""

    name = "tensorboard"
    expects = "a folder with TensorBoard event files (*tfevents*)"

    def recognises(self, path: Path) -> str | None:
        """Look for event files by their names."""
        found = next(path.rglob(_EVENTS), None) if path.is_dir() else None
        return None if found is None else f"{found.name} is an event file"

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read the scalars of all folders.

        Raises:
            UserError: the package tensorboard is not installed, or there are no accuracies.
        """
        require("--format tensorboard", "tensorboard", extra="tensorboard")
        points: list[Score] = []
        for folder in sorted({found.parent for found in path.rglob(_EVENTS)}):
            inner = folder.relative_to(path).as_posix()
            run = path.resolve().name if inner == "." else inner
            points += _scalars(folder, run)
        return import_series(points, options, name=str(path))


def _scalars(folder: Path, run: str) -> Iterator[Score]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps every event; else long series are thinned out.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    try:
        events.Reload()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: event files not readable ({error}).") from error
    found = [(tag, e, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            # TensorFlow 2 writes scalars as tensors of no dimension.
            if not event.tensor_proto.tensor_shape.dim and event.tensor_proto.float_val:
                found.append((tag, event, event.tensor_proto.float_val[0]))
    for tag, event, value in found:
        yield Score(
            checkpoint=CheckpointName(run=run, identity=run, step=int(event.step)),
            task=tag,
            metric="",
            value=float(value),
            written=float(event.wall_time),
            source=str(folder),
        )
