"""What Weights & Biases gives out: CSV exports of its charts, histories as JSON lines."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from neuneu.core.errors import UserError
from neuneu.data.cells import as_type
from neuneu.data.importers.checkpoint_names import CheckpointName
from neuneu.data.importers.files import files_under, number, read_json_lines
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.scores import Score
from neuneu.data.importers.series import import_series
from neuneu.data.table_files import read_header, read_local

_SEPARATOR: Final = " - "
_SPREAD: Final = ("__MIN", "__MAX")
_HISTORY_STEP: Final = "_step"
_STEPS: Final = ("train/global_step", "trainer/global_step", "global_step", _HISTORY_STEP)
"""The first one in a history counts: wandb's own counter counts calls to log."""
_TOKENS: Final = re.compile(
    r"(?:^|[/_.])(?:total_tokens|tokens_seen|num_tokens|tokens|num_input_tokens_seen)$",
    re.IGNORECASE,
)


class WandbExport:
    """A CSV file that a chart exports, a history (.jsonl), or a folder of these."""

    name = "wandb"
    expects = "CSV exports with columns 'RUN - METRIC', or run histories as .jsonl with _step"

    def recognises(self, path: Path) -> str | None:
        """Look for columns of the web page's export, or for history rows."""
        for found in files_under(path, ".csv", ".jsonl"):
            if _is_csv_export(found):
                return f"{found.name} has columns such as {read_header(found)[1]!r}"
            if _is_history(found):
                return f"{found.name} has rows with {_HISTORY_STEP} as wandb's history"
        return None

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all exports and histories; a history is a run with its file's name."""
        points: list[Score] = []
        notes: list[str] = []
        for found in files_under(path, ".csv", ".jsonl"):
            if _is_csv_export(found):
                points += _exported(found)
            elif _is_history(found):
                rows = read_json_lines(found)
                step = next(key for key in _STEPS if any(key in row for row in rows))
                if step == _HISTORY_STEP:
                    notes.append("wandb's own counter of calls to log is used as steps")
                points += _logged(rows, step, found)
        return import_series(points, options, name=str(path), notes=notes)


def is_export(header: Sequence[str]) -> bool:
    """Whether a header is an axis and columns 'RUN - METRIC'."""
    return len(header) > 1 and all(_SEPARATOR in name for name in header[1:])


def _is_csv_export(path: Path) -> bool:
    return path.suffix == ".csv" and is_export(read_header(path))


def _is_history(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = next(lines, "")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and _HISTORY_STEP in row


def _exported(path: Path) -> Iterator[Score]:
    file = read_local(path, name=str(path), limited=False)
    axis, *names = file.table.column_names
    if "time" in axis.lower():
        raise UserError(
            f"{path}: expected the axis Step or one of tokens, found {axis!r}; export the "
            "chart over steps."
        )
    kept = {
        name: name.rpartition(_SEPARATOR)
        for name in names
        if not name.endswith((*_SPREAD, f"{_SEPARATOR}{_HISTORY_STEP}"))
    }
    numbers = {
        name: as_type(file.table.column(name), pa.float64(), title=name, name=file.name).to_pylist()
        for name in (axis, *kept)
    }
    is_tokens = "token" in axis.lower()
    for name, (run, _, tag) in kept.items():
        for position, value in zip(numbers[axis], numbers[name], strict=True):
            if value is None or position is None:
                continue
            checkpoint = CheckpointName(
                run=run,
                identity=run,
                step=None if is_tokens else round(position),
                tokens=position if is_tokens else None,
            )
            yield Score(checkpoint=checkpoint, task=tag, metric="", value=value, source=str(path))


def _logged(rows: Sequence[dict[str, Any]], step: str, path: Path) -> Iterator[Score]:
    """Yield the numbers of a history; a row's tokens are the last that were logged up to it."""
    tokens: float | None = None
    steps: float | None = None
    for order, row in enumerate(rows):
        found = {key: value for key in row if (value := number(row[key])) is not None}
        steps = found.get(step, steps)
        tokens = max((found[key] for key in found if _TOKENS.search(key)), default=tokens)
        if steps is None:
            continue
        name = CheckpointName(run=path.stem, identity=path.stem, step=round(steps), tokens=tokens)
        for key, value in found.items():
            if not (key.startswith("_") or key in _STEPS or _TOKENS.search(key)):
                yield Score(
                    checkpoint=name, task=key, metric="", value=value, written=order,
                    source=str(path),
                )  # fmt: skip
