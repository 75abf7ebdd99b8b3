"""Event files of TensorBoard: each folder that has some is a run, scalars are its series."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError
from neuneu.core.extras import require
from neuneu.data.importers.places import Place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.series import Point, as_imported_series

_EVENTS: Final = "*tfevents*"


class TensorBoardEvents:
    """A folder of event files, at any depth."""

    name = "tensorboard"
    expects = "a folder with TensorBoard event files (*tfevents*)"

    def recognises(self, path: Path) -> str | None:
        """Event files by their names."""
        found = next(path.rglob(_EVENTS), None) if path.is_dir() else None
        return None if found is None else f"{found.name} is an event file"

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """The scalars of all folders.

        Raises:
            UserError: the package tensorboard is not installed, or there are no accuracies.
        """
        require("--format tensorboard", "tensorboard", extra="tensorboard")
        points: list[Point] = []
        for folder in sorted({found.parent for found in path.rglob(_EVENTS)}):
            inner = folder.relative_to(path).as_posix()
            run = path.resolve().name if inner == "." else inner
            points += _scalars(folder, run)
        return as_imported_series(points, options, name=str(path))


def _scalars(folder: Path, run: str) -> Iterator[Point]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps every event; else long series are thinned out.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    try:
        events.Reload()
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: event files not readable ({error}).") from error
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            yield _point(run, tag, event, float(event.value), folder)
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            # TensorFlow 2 writes scalars as tensors of no dimension.
            if not event.tensor_proto.tensor_shape.dim and event.tensor_proto.float_val:
                yield _point(run, tag, event, float(event.tensor_proto.float_val[0]), folder)


def _point(run: str, tag: str, event: Any, value: float, folder: Path) -> Point:
    place = Place(run=run, identity=run, step=int(event.step))
    return Point(
        place=place, tag=tag, value=value, written=float(event.wall_time), source=str(folder)
    )
