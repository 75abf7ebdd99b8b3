"""Any table of scores: long (a row a score) or wide (a column a task)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError, UserError
from neuneu.data.importers.delimited import is_delimited, read_delimited, read_header
from neuneu.data.importers.places import find_place
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.tags import read_tag
from neuneu.data.importers.wandb import is_export
from neuneu.data.schemas import ACCURACIES

_SYNONYMS: Final = {
    "run": ("run", "model", "model_name", "run_name", "name"),
    "step": (
        "step", "steps", "global_step", "training_step", "train_step", "checkpoint", "iteration",
    ),
    "tokens": ("tokens", "tokens_seen", "train_tokens", "training_tokens", "total_tokens"),
    "flops": ("flops", "train_flops", "compute"),
    "params": ("params", "parameters", "n_params", "num_params", "model_size"),
    "task": ("task", "task_name", "benchmark", "dataset", "eval"),
    "metric": ("metric", "metric_name"),
    "value": ("value", "score", "accuracy", "acc", "result"),
    "stderr": ("stderr", "standard_error", "acc_stderr", "se"),
    "num_fewshot": ("num_fewshot", "shots", "num_shots", "n_shot", "fewshot", "n_shots"),
    "family": ("family", "model_family"),
    "suite": ("suite",),
    "planned_tokens": ("planned_tokens",),
}  # fmt: skip
"""Ours, and theirs: spelt in any case, with spaces or hyphens for underscores."""
_NUMBERS: Final = (
    "step", "tokens", "flops", "params", "value", "stderr", "num_fewshot", "planned_tokens",
)  # fmt: skip
_NO_SCORES: Final = re.compile(
    r"|lr|learning_rate|epochs?|seed|index|unnamed.*|time|runtime|wall_time|batch_size|grad_norm|rank"
    r"|.*(?:loss|perplexity|ppl|stderr|_se)",
    re.IGNORECASE,
)
"""Columns of a wide table that are no tasks."""
_POSITIONS: Final = ("step", "tokens", "flops")


class Columns:
    """A CSV, TSV or parquet file."""

    name = "csv"
    expects = "a .csv, .tsv or .parquet table"

    def recognises(self, path: Path) -> str | None:
        """A table that is no export of another known program."""
        if not is_delimited(path) or is_export(header := read_header(path)):
            return None
        return f"a table with columns {', '.join(header[:6])}{', ...' if len(header) > 6 else ''}"

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """All rows; columns are found by `--column` and by their usual names."""
        theirs = read_delimited(path)
        if not theirs.num_rows:
            raise DataError(f"{path}: expected rows of scores, found none.")
        found = _matched(theirs.column_names, options.columns, path)
        wide = options.wide or "value" not in found
        if wide:
            for column in ("value", "task", "metric"):
                if column not in options.columns:
                    found.pop(column, None)
        table = _renamed(theirs, found, options, path)
        table, notes = _with_places(table, path)
        others = [name for name in theirs.column_names if name not in found.values()]
        if wide:
            table, said = _melted(table, theirs, others, options, path)
            return Imported(accuracies=table, notes=(*_renaming(found), *notes, *said))
        if "task" not in table.column_names:
            raise UserError(
                f"{path}: expected a column task beside {found['value']!r}, found "
                f"{theirs.column_names}; give --column task=NAME, or --wide for a column a task."
            )
        empty = table.column("value").null_count
        if 0 < empty < table.num_rows:
            table = table.filter(pc.is_valid(table.column("value")))
            notes.append(f"rows without a value left out: {empty}")
        if others:
            _check_told_apart(table, others, path)
            notes.append(f"columns left out: {', '.join(others)}")
        return Imported(accuracies=table, notes=(*_renaming(found), *notes))


def _check_told_apart(table: pa.Table, others: Sequence[str], path: Path) -> None:
    """Raises DataError where only columns that are left out tell rows apart."""
    keys = [name for name in ("run", "task", "metric", "num_fewshot") if name in table.column_names]
    keys += [name for name in _POSITIONS if name in table.column_names]
    counts = table.group_by(keys).aggregate([([], "count_all")])
    several = counts.filter(pc.greater(counts.column("count_all"), 1)).select(keys).to_pylist()
    if several:
        raise DataError(
            f"{path}: expected one value of each checkpoint, found several of {several[0]}; only "
            f"columns left out ({', '.join(others)}) may tell them apart. Keep the rows of one, or "
            "make such a column part of the run's name."
        )


def _renaming(found: Mapping[str, str]) -> list[str]:
    pairs = [f"{ours} from {theirs!r}" for ours, theirs in found.items() if ours != theirs]
    return [f"columns: {', '.join(pairs)}"] if pairs else []


def _matched(names: Sequence[str], given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Their column for ours.

    Raises:
        UserError: a mapping of a column that is not there, or to one that we do not have.
    """
    for ours, theirs in given.items():
        if ours not in ACCURACIES.names:
            raise UserError(
                f"--column {ours}={theirs}: expected one of {', '.join(ACCURACIES.names)} before "
                f"the equals sign, found {ours!r}."
            )
        if theirs not in names:
            raise UserError(
                f"--column {ours}={theirs}: {path} has no {theirs!r}, only {list(names)}."
            )
    found = dict(given)
    spelt: dict[str, str] = {}
    for name in names:
        spelt.setdefault(name.strip().lower().replace(" ", "_").replace("-", "_"), name)
    for ours, synonyms in _SYNONYMS.items():
        free = [spelt[s] for s in synonyms if s in spelt and spelt[s] not in found.values()]
        if ours not in found and free:
            found[ours] = free[0]
    return found


def _renamed(
    theirs: pa.Table, found: Mapping[str, str], options: ImportOptions, path: Path
) -> pa.Table:
    columns: dict[str, Any] = {}
    for ours, name in found.items():
        column = theirs.column(name)
        if ours in _NUMBERS and not (ours == "step" and _is_text(column)):
            columns[ours] = _numbers(column, name, path, percent=options.percent)
        elif ours != "step":
            columns[ours] = column.cast(pa.string())
        else:
            columns[ours] = column
    if "run" not in columns:
        run = options.run or path.name.split(".")[0]
        columns["run"] = pa.array([run] * theirs.num_rows)
    for column in ("step", "num_fewshot"):
        if column in columns and not _is_text(columns[column]):
            columns[column] = _whole(columns[column], found[column], path)
    return pa.table(columns)


def _with_places(table: pa.Table, path: Path) -> tuple[pa.Table, list[str]]:
    """Steps out of text such as checkpoint-500, else out of the names of runs."""
    names = table.column("run").to_pylist()
    if "step" in table.column_names and _is_text(table.column("step")):
        texts = [str(text or "") for text in table.column("step").to_pylist()]
        places = [find_place(revision=_as_step(text)) for text in texts]
        if any(place.step is None for place in places):
            bad = next(
                text for text, place in zip(texts, places, strict=True) if place.step is None
            )
            raise DataError(f"{path}: column step: expected a number or step1000, found {bad!r}.")
        table = table.drop_columns(["step"])
    elif any(column in table.column_names for column in _POSITIONS):
        return table, []
    else:
        places = [find_place(model=str(name)) for name in names]
        if any(place.step is None for place in places):
            raise UserError(
                f"{path}: expected a column step, tokens or flops, or steps in the names of runs, "
                f"found {table.column_names}; give --column step=NAME."
            )
        names = [place.run for place in places]
    columns = {name: table.column(name) for name in table.column_names}
    columns |= {"run": pa.array(names), "step": pa.array([place.step for place in places])}
    if "tokens" not in columns and all(place.tokens is not None for place in places):
        columns["tokens"] = pa.array([place.tokens for place in places])
    return pa.table(columns), ["steps are taken out of names"]


def _as_step(text: str) -> str:
    return f"step{text}" if text.strip().isdigit() else text


def _melted(
    table: pa.Table, theirs: pa.Table, others: Sequence[str], options: ImportOptions, path: Path
) -> tuple[pa.Table, list[str]]:
    """A row a score of a table that has a column a task; empty cells are left out."""
    parts, skipped = [], []
    top = 100.0 if options.percent else 1.0
    for name in others:
        tag, column = read_tag(name), theirs.column(name)
        if _NO_SCORES.fullmatch(name) or (_is_text(column) and not options.percent):
            skipped.append(name)
            continue
        values = _numbers(column, name, path, percent=options.percent)
        numbers = values.to_numpy(zero_copy_only=False)
        if np.nanmax(numbers, initial=0.0) > 100.0 or np.nanmin(numbers, initial=0.0) < 0.0:
            skipped.append(name)
            continue
        if np.nanmax(numbers, initial=0.0) > top:
            raise DataError(
                f"{path}: column {name!r}: expected accuracies in [0, 1], found "
                f"{np.nanmax(numbers):g}; give --percent, or take the column out."
            )
        rows = np.flatnonzero(np.isfinite(numbers))
        part = table.take(pa.array(rows))
        part = part.append_column("task", pa.array([tag.subject if tag else name] * len(rows)))
        part = part.append_column("metric", pa.array([tag.metric if tag else "acc"] * len(rows)))
        parts.append(part.append_column("value", values.take(pa.array(rows))))
    if not any(part.num_rows for part in parts):
        raise UserError(
            f"{path}: expected a column value (--column value=NAME) or one column of numbers a "
            f"task, found {theirs.column_names}."
        )
    notes = [f"one column a task: {', '.join(n for n in others if n not in skipped)}"]
    if skipped:
        notes.append(f"columns left out: {', '.join(skipped)}")
    return pa.concat_tables(parts), notes


def _is_text(column: Any) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _numbers(column: Any, name: str, path: Path, *, percent: bool) -> pa.Array:
    """Floats; text is read as numbers, with a percent sign only where percentages are expected."""
    if not _is_text(column):
        if pa.types.is_boolean(column.type):
            raise DataError(f"{path}: column {name!r}: expected numbers, found true and false.")
        try:
            values = column.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{path}: column {name!r}: expected numbers, found {error}.") from error
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    numbers = []
    for row, text in enumerate(column.to_pylist(), start=1):
        plain = (text or "").strip()
        try:
            numbers.append(float(plain.removesuffix("%") if percent else plain) if plain else None)
        except ValueError as error:
            hint = "; give --percent" if plain.endswith("%") else ""
            raise DataError(
                f"{path}: column {name!r}, row {row}: expected a number, found {text!r}{hint}."
            ) from error
    return pa.array(numbers, pa.float64())


def _whole(column: pa.Array, name: str, path: Path) -> pa.Array:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: column {name!r}: expected whole numbers ({error}).") from error
