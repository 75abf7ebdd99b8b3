"""What Weights & Biases gives out: CSV exports of its charts, histories as JSON lines."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import DataError, UserError
from neuneu.data.importers.delimited import is_delimited, read_delimited, read_header
from neuneu.data.importers.json_files import files_under, read_json_lines
from neuneu.data.importers.places import Place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.series import Point, as_imported_series

_SEPARATOR: Final = " - "
_SPREAD: Final = ("__MIN", "__MAX")
_HISTORY_STEP: Final = "_step"
_STEPS: Final = ("train/global_step", "trainer/global_step", "global_step", _HISTORY_STEP)
"""The first that a history has counts: wandb's own counter is one of calls to log."""
_TOKENS: Final = re.compile(
    r"(?:^|[/_.])(?:total_tokens|tokens_seen|num_tokens|tokens|num_input_tokens_seen)$",
    re.IGNORECASE,
)


class WandbExport:
    """A CSV file that a chart exports, a history (.jsonl), or a folder of these."""

    name = "wandb"
    expects = "CSV exports with columns 'RUN - METRIC', or run histories as .jsonl with _step"

    def recognises(self, path: Path) -> str | None:
        """Columns of the web page's export, or history rows."""
        for found in files_under(path, ".csv", ".jsonl"):
            if _is_csv_export(found):
                return f"{found.name} has columns such as {read_header(found)[1]!r}"
            if _is_history(found):
                return f"{found.name} has rows with {_HISTORY_STEP} as wandb's history"
        return None

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """All exports and histories; each history is a run of its file's name."""
        points: list[Point] = []
        notes: list[str] = []
        for found in files_under(path, ".csv", ".jsonl"):
            if _is_csv_export(found):
                points += _exported(found)
            elif _is_history(found):
                rows = read_json_lines(found)
                step = next(key for key in _STEPS if any(key in row for row in rows))
                if step == _HISTORY_STEP:
                    notes.append("wandb's own counter of calls to log stands for steps")
                points += _logged(rows, step, found)
        return as_imported_series(points, options, name=str(path), notes=notes)


def is_export(header: Sequence[str]) -> bool:
    """Whether a header is an axis and columns 'RUN - METRIC'."""
    return len(header) > 1 and all(_SEPARATOR in name for name in header[1:])


def _is_csv_export(path: Path) -> bool:
    return is_delimited(path) and path.suffix == ".csv" and is_export(read_header(path))


def _is_history(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        first = "".join(itertools.islice(lines, 1))
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and _HISTORY_STEP in row


def _exported(path: Path) -> Iterator[Point]:
    table = read_delimited(path)
    axis, *names = table.column_names
    if "time" in axis.lower():
        raise UserError(
            f"{path}: expected the axis Step or one of tokens, found {axis!r}; export the "
            "chart over steps."
        )
    tokens = "token" in axis.lower()
    places = table.column(axis).to_pylist()
    for name in names:
        run, _, tag = name.rpartition(_SEPARATOR)
        if name.endswith(_SPREAD) or tag == _HISTORY_STEP:
            continue
        for at, value in zip(places, table.column(name).to_pylist(), strict=True):
            if value is None or at is None:
                continue
            where = _number(at, axis, path)
            place = Place(
                run=run,
                identity=run,
                step=None if tokens else round(where),
                tokens=where if tokens else None,
            )
            yield Point(place=place, tag=tag, value=_number(value, name, path), source=str(path))


def _logged(rows: Sequence[dict[str, Any]], step: str, path: Path) -> Iterator[Point]:
    """Points of a history; a row's tokens are the last that were logged up to it."""
    tokens: float | None = None
    steps: float | None = None
    for order, row in enumerate(rows):
        steps = row[step] if _is_number(row.get(step)) else steps
        logged = [value for key, value in row.items() if _TOKENS.search(key) and _is_number(value)]
        tokens = max(logged) if logged else tokens
        if steps is None:
            continue
        place = Place(run=path.stem, identity=path.stem, step=round(steps), tokens=tokens)
        for key, value in row.items():
            positional = key.startswith("_") or key in _STEPS or _TOKENS.search(key)
            if not positional and _is_number(value):
                yield Point(
                    place=place, tag=key, value=float(value), written=order, source=str(path)
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any, name: str, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: column {name!r}: expected numbers, found {value!r}; export it again."
        ) from error
