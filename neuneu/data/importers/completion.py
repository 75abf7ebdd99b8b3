"""From what a source says to whole tables: what the user adds, defaults, validation."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError, UserError
from neuneu.data.defaults import fill_defaults
from neuneu.data.importers.protocol import Imported, ImportOptions
from neuneu.data.schemas import ACCURACIES, LOSSES, TASKS, conform, validate_accuracies

_SUITE: Final = "import"


def complete(imported: Imported, options: ImportOptions, *, name: str) -> Imported:
    """Adds what the options say and what defaults fill in, and validates everything.

    Args:
        imported: of an importer.
        options: of the import.
        name: what to call the source in messages.

    Raises:
        DataError: tables that break the contract.
    """
    notes = list(imported.notes)
    table = _checked_values(imported.accuracies, options, name)
    table, said = _whole(table, options, name)
    notes += said
    accuracies = validate_accuracies(table, name=name)
    losses = imported.losses
    if losses is not None:
        losses = conform(_whole(losses, options, f"{name} (losses)", LOSSES)[0], LOSSES, name=name)
    tasks = None if imported.tasks is None else conform(imported.tasks, TASKS, name=name)
    return Imported(
        accuracies=accuracies, losses=losses, tasks=tasks, notes=tuple(dict.fromkeys(notes))
    )


def _checked_values(table: pa.Table, options: ImportOptions, name: str) -> pa.Table:
    """Values as fractions.

    Raises:
        DataError: no numbers, or percentages although `percent` is not set, or the reverse.
    """
    value = _numbers(table, "value", name)
    if not np.isfinite(value).any():
        raise DataError(f"{name}: expected accuracies, found no number among the values.")
    if options.percent:
        if np.nanmax(value, initial=0.0) <= 1.0:
            raise UserError(
                f"{name}: --percent: expected values up to 100, found none over 1; leave it out."
            )
        for column in ("value", "stderr"):
            if column in table.column_names:
                at = table.column_names.index(column)
                scaled = pa.array(_numbers(table, column, name) / 100.0, from_pandas=True)
                table = table.set_column(at, column, scaled)
        value = value / 100.0
    bad = np.flatnonzero((value > 1.0) | (value < 0.0))
    if len(bad):
        row = int(bad[0])
        hint = "" if value.min() < 0 or value.max() > 100 else "; give --percent if they are of 100"
        shown = value[row] * (100.0 if options.percent else 1.0)
        where = {
            k: table.column(k)[row].as_py() for k in ("run", "task") if k in table.schema.names
        }
        raise DataError(
            f"{name}: row {row + 1} {where}: value is {shown:g}; "
            f"expected accuracies in [0, 1]{hint}."
        )
    return table


def _whole(
    table: pa.Table, options: ImportOptions, name: str, schema: pa.Schema = ACCURACIES
) -> tuple[pa.Table, list[str]]:
    notes: list[str] = []
    for column, value in _given(options).items():
        table = _with(table, column, pa.array([value] * table.num_rows))
    if "suite" not in table.column_names:
        table = _with(table, "suite", pa.array([_SUITE] * table.num_rows))
    if options.tokens_per_step is not None:
        table = _with_tokens(table, options.tokens_per_step, name)
    table, said = _told_apart(table, name)
    notes += said
    for column in ("tokens", "step"):
        if column in table.column_names and 0 < table.column(column).null_count < table.num_rows:
            row = pc.index(pc.is_null(table.column(column)), True).as_py()
            run = table.column("run")[row].as_py()
            raise DataError(
                f"{name}: {column} of run {run!r} are not known at every checkpoint; give "
                "--tokens-per-step, or --step-from for all runs."
            )
    table, said = fill_defaults(table, name=name, schema=schema)
    return table, [*notes, *said]


def _given(options: ImportOptions) -> dict[str, Any]:
    given = {"run": options.run, "family": options.family, "params": options.params}
    return {column: value for column, value in given.items() if value is not None}


def _with_tokens(table: pa.Table, per_step: float, name: str) -> pa.Table:
    """Tokens as steps times a number, in place of any others.

    Raises:
        UserError: no steps to multiply.
    """
    if "step" not in table.column_names or table.column("step").null_count == table.num_rows:
        raise UserError(f"{name}: --tokens-per-step: expected steps, found none.")
    return _with(
        table, "tokens", pa.array(_numbers(table, "step", name) * per_step, from_pandas=True)
    )


def _told_apart(table: pa.Table, name: str) -> tuple[pa.Table, list[str]]:
    """Tokens in proportion to steps, where they are missing or do not tell checkpoints apart.

    Tokens of names are rounded (4B), and a log may begin before the first of them.
    """
    if not {"step", "tokens", "run"} <= set(table.column_names):
        return table, []
    steps, tokens = _numbers(table, "step", name), _numbers(table, "tokens", name).copy()
    runs = np.array(table.column("run").to_pylist(), dtype=object)
    repaired = []
    for run in dict.fromkeys(runs):
        mine = np.flatnonzero((runs == run) & np.isfinite(steps))
        known = mine[np.isfinite(tokens[mine])]
        step, first = np.unique(steps[known], return_index=True)
        at_step = tokens[known][first]
        rises = np.diff(at_step)
        # Tokens that fall are neither rounded nor missing: the validation names the row.
        whole = (rises > 0).all() and len(known) == len(mine)
        if whole or (rises < 0).any() or not len(step) or not step[-1] or not at_step[-1]:
            continue
        tokens[mine] = steps[mine] * (at_step[-1] / step[-1])
        repaired.append(str(run))
    if not repaired:
        return table, []
    note = f"tokens do not tell all checkpoints apart, taken in proportion to steps: {repaired}"
    return _with(table, "tokens", pa.array(tokens, from_pandas=True)), [note]


def _with(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    if column in table.column_names:
        return table.set_column(table.column_names.index(column), column, values)
    return table.append_column(column, values)


def _numbers(table: pa.Table, column: str, name: str) -> np.ndarray:
    try:
        return np.asarray(table.column(column).cast(pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name}: column {column!r}: expected numbers, found {error}.") from error
