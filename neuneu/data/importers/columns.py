"""Tables of scores: long (one row per score) or wide (one column per task)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError, UserError
from neuneu.data.cells import as_type, is_text
from neuneu.data.importers.checkpoint_names import parse_checkpoint
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.importers.series import read_tag
from neuneu.data.importers.wandb import is_export
from neuneu.data.schemas import ACCURACIES, SYNONYMS, plain_name
from neuneu.data.table_files import read_header, read_local

_NO_SCORES: Final = re.compile(
    r"|lr|learning_rate|epochs?|seed|index|unnamed.*|time|runtime|wall_time|batch_size|grad_norm|rank"
    r"|.*(?:loss|perplexity|ppl|stderr|_se)",
    re.IGNORECASE,
)
"""Columns of a wide table that are not tasks."""
_POSITIONS: Final = ("step", "tokens", "flops")
_SUFFIXES: Final = (".csv", ".tsv", ".parquet")


class Columns:
    """A CSV, TSV or parquet file."""

    name = "csv"
    expects = "a .csv, .tsv or .parquet table"

    def recognises(self, path: Path) -> str | None:
        """Look for a table that no other known program exported."""
        suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
        if not path.is_file() or suffix not in _SUFFIXES or is_export(header := read_header(path)):
            return None
        return f"a table with columns {', '.join(header[:6])}{', ...' if len(header) > 6 else ''}"

    def read(self, path: Path, options: ImportOptions) -> Imported:
        """Read all rows; columns are found by `--column` and by their usual names."""
        file = read_local(path, name=str(path), limited=False)
        theirs = file.table
        if not theirs.num_rows:
            raise DataError(f"{path}: expected rows of scores, found none.")
        found = _matched(theirs.column_names, options.columns, path)
        wide = options.wide or "value" not in found
        if wide:
            for column in ("value", "task", "metric"):
                if column not in options.columns:
                    found.pop(column, None)
        table = _renamed(theirs, found, options, path, file.name)
        table, notes = _with_positions(table, path)
        others = [name for name in theirs.column_names if name not in found.values()]
        if wide:
            table, said = _melted(table, theirs, others, options, file.name)
            return Imported(accuracies=table, notes=(*_renaming(found), *notes, *said))
        if "task" not in table.column_names:
            raise UserError(
                f"{path}: expected a column task beside {found['value']!r}, found "
                f"{theirs.column_names}; give --column task=NAME, or --wide."
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
    """Raises DataError if only columns that are left out distinguish rows."""
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
    """Map our columns to theirs.

    Raises:
        UserError: a mapping from a column that the table lacks, or to one that we do not have.
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
        spelt.setdefault(plain_name(name), name)
    for ours, synonyms in SYNONYMS.items():
        free = [spelt[s] for s in synonyms.split() if s in spelt and spelt[s] not in found.values()]
        if ours not in found and free:
            found[ours] = free[0]
    return found


def _renamed(
    theirs: pa.Table, found: Mapping[str, str], options: ImportOptions, path: Path, name: str
) -> pa.Table:
    columns: dict[str, Any] = {}
    for ours, title in found.items():
        column, kind = theirs.column(title), ACCURACIES.field(ours).type
        if ours in {"value", "stderr"} and options.percent:
            column = _without_percent(column)
        try:
            columns[ours] = as_type(column, kind, title=title, name=name)
        except DataError:
            if ours != "step" or not is_text(column.type):
                raise
            columns[ours] = column
    if "run" not in columns:
        columns["run"] = pa.repeat(options.run or path.name.split(".")[0], theirs.num_rows)
    return pa.table(columns)


def _with_positions(table: pa.Table, path: Path) -> tuple[pa.Table, list[str]]:
    """Parse steps from text such as checkpoint-500, else from the names of runs."""
    names = table.column("run").to_pylist()
    if "step" in table.column_names and is_text(table.schema.field("step").type):
        texts = [str(text or "") for text in table.column("step").to_pylist()]
        parsed = [parse_checkpoint(revision=_as_step(text)) for text in texts]
        for text, checkpoint in zip(texts, parsed, strict=True):
            if checkpoint.step is None:
                raise DataError(
                    f"{path}: column step: expected a number or step1000, found {text!r}."
                )
        table = table.drop_columns(["step"])
    elif any(column in table.column_names for column in _POSITIONS):
        return table, []
    else:
        parsed = [parse_checkpoint(model=str(name)) for name in names]
        if any(checkpoint.step is None for checkpoint in parsed):
            raise UserError(
                f"{path}: expected a column step, tokens or flops, or steps in the names of runs, "
                f"found {table.column_names}; give --column step=NAME."
            )
        names = [checkpoint.run for checkpoint in parsed]
    columns = {name: table.column(name) for name in table.column_names}
    columns |= {"run": pa.array(names), "step": pa.array([c.step for c in parsed])}
    if "tokens" not in columns and all(c.tokens is not None for c in parsed):
        columns["tokens"] = pa.array([c.tokens for c in parsed])
    return pa.table(columns), ["steps are parsed from names"]


def _as_step(text: str) -> str:
    return f"step{text}" if text.strip().isdigit() else text


def _melted(
    table: pa.Table, theirs: pa.Table, others: Sequence[str], options: ImportOptions, name: str
) -> tuple[pa.Table, list[str]]:
    """Make a row per score of a table with one column per task; empty cells are left out."""
    parts, skipped = [], []
    top = 100.0 if options.percent else 1.0
    for title in others:
        column = theirs.column(title)
        try:
            column = _without_percent(column) if options.percent else column
            values = as_type(column, pa.float64(), title=title, name=name)
        except DataError:
            if _mostly_numbers(column):  # a typo in scores, not a column of something else
                raise
            values = pa.nulls(0, pa.float64())
        numbers = values.to_numpy(zero_copy_only=False)
        largest = np.nanmax(numbers, initial=0.0)
        no_score = _NO_SCORES.fullmatch(title) or len(numbers) < theirs.num_rows
        if no_score or largest > 100.0 or np.nanmin(numbers, initial=0.0) < 0.0:
            skipped.append(title)
            continue
        if largest > top:
            raise DataError(
                f"{name}: column {title!r}: expected accuracies in [0, 1], found {largest:g}; give "
                "--percent, or take the column out."
            )
        rows = pa.array(np.flatnonzero(np.isfinite(numbers)))
        tag = read_tag(title)
        task, metric = (tag.subject, tag.metric) if tag else (title, "acc")
        part = table.take(rows).append_column("task", pa.repeat(task, len(rows)))
        part = part.append_column("metric", pa.repeat(metric, len(rows)))
        parts.append(part.append_column("value", values.take(rows)))
    if not any(part.num_rows for part in parts):
        raise UserError(
            f"{name}: expected a column value (--column value=NAME) or one column of numbers "
            f"per task, found {theirs.column_names}."
        )
    notes = [f"one column per task: {', '.join(n for n in others if n not in skipped)}"]
    if skipped:
        notes.append(f"columns left out: {', '.join(skipped)}")
    return pa.concat_tables(parts), notes


def _without_percent(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_rtrim(column, "%") if pa.types.is_string(column.type) else column


def _mostly_numbers(column: pa.ChunkedArray) -> bool:
    """Whether more than half of the filled cells of a text column are numbers."""
    cells = [str(cell).strip() for cell in column.to_pylist() if cell]
    return 2 * sum(map(_is_number, cells)) > len(cells)


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True
