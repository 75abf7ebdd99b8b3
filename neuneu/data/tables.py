"""What users hand over as a table: a path, pyarrow, pandas, columns or rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from neuneu.core.errors import DataError, UserError
from neuneu.data.defaults import fill_defaults
from neuneu.data.schemas import LOSSES, TASKS, validate
from neuneu.data.store.store import Store
from neuneu.data.table_files import TableFile, check_store, is_folder, read_file
from neuneu.data.trajectories import TokenLossTable, Trajectory, build_trajectories

Table = Any
"""A path (local or s3://) to a .parquet or .csv file or store; a pyarrow table; a pandas DataFrame;
a mapping of column names to sequences or NumPy arrays; a sequence of row mappings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What a question is answered from: runs asked about, further references, token losses.

    `items` is the number of questions of a (task, metric), where the task table tells. `notes` says
    what was assumed where the tables left it out.
    """

    trajectories: list[Trajectory]
    references: list[Trajectory]
    token_losses: TokenLossTable | None
    items: Mapping[tuple[str, str], int]
    notes: tuple[str, ...]


def read_known(
    accuracies: Table,
    *,
    losses: Table | None = None,
    tasks: Table | None = None,
    reference: Table | None = None,
    reference_losses: Table | None = None,
    token_losses: str | Path | None = None,
) -> Known:
    """Reads tables, fills in what they leave out, and checks them.

    Args:
        accuracies: of the runs asked about.
        losses: their validation losses; a store brings its own.
        tasks: the task table: chance, base tasks, groups; a store brings its own.
        reference: accuracies of finished runs to compare with.
        reference_losses: losses of those.
        token_losses: a store that has losses word by word.

    Raises:
        UserError: tables that cannot be read or break the contract.
    """
    mine = _read(accuracies, losses, tasks, "accuracies")
    others = None
    if reference is not None:
        others = _read(reference, reference_losses, tasks, "reference")
    elif reference_losses is not None:
        raise UserError("reference_losses: expected a reference table beside it, found none.")
    words = mine.token_losses
    if token_losses is not None:
        words = TokenLossTable.from_table(Store(token_losses).token_losses())
        if words is None:
            raise UserError(f"{token_losses}: expected a store with token losses, found none.")
    notes = [*mine.notes, *(() if others is None else others.notes)]
    return replace(
        mine,
        references=[] if others is None else others.trajectories,
        token_losses=words,
        notes=tuple(dict.fromkeys(notes)),
    )


def _read(accuracies: Table, losses: Table | None, tasks: Table | None, name: str) -> Known:
    notes: list[str] = []
    loss_table = None if losses is None else _checked(losses, LOSSES, "losses", notes)
    task_table = None if tasks is None else _checked(tasks, TASKS, "tasks", notes)
    words = None
    if isinstance(accuracies, str | Path) and is_folder(accuracies):
        name = str(accuracies)
        check_store(accuracies)
        store = Store(accuracies)
        loss_table = store.losses() if loss_table is None else loss_table
        task_table = store.tasks() if task_table is None else task_table
        words = TokenLossTable.from_table(store.token_losses())
        table = store.accuracies()
    else:
        file = read_plain(accuracies, name=name)
        name = file.name
        table, assumed = fill_defaults(file.table, name=name)
        notes += [*file.notes, *assumed]
    rows = [] if task_table is None else task_table.to_pylist()
    return Known(
        trajectories=build_trajectories(table, loss_table, task_table, name=name),
        references=[],
        token_losses=words,
        items={(r["task"], r["metric"]): r["n_items"] for r in rows if r["n_items"]},
        notes=tuple(notes),
    )


def _checked(table: Table, schema: pa.Schema, name: str, notes: list[str]) -> pa.Table:
    file = read_plain(table, name=name)
    notes += file.notes
    return validate(file.table, schema, name=file.name)


def read_plain(table: Table, *, name: str) -> TableFile:
    """A path's table, or one from memory, as it is.

    Raises:
        UserError: a file that cannot be read, or something that is no table.
    """
    if isinstance(table, str | Path):
        return read_file(table)
    return TableFile(table=as_table(table, name=name), name=name)


def as_table(table: Table, *, name: str) -> pa.Table:
    """A pyarrow table of what a user holds in memory.

    Raises:
        DataError: something else, or columns of different lengths.
    """
    try:
        if isinstance(table, pa.Table):
            return table
        if hasattr(table, "to_dict") and hasattr(table, "columns"):
            return pa.Table.from_pandas(table, preserve_index=False)
        if isinstance(table, Mapping):
            return pa.table(dict(table))
        if isinstance(table, Sequence) and table and isinstance(table[0], Mapping):
            return pa.Table.from_pylist([dict(row) for row in table])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{name}: not readable as a table ({error}).") from error
    raise DataError(
        f"{name}: expected a path, a pyarrow table, a pandas DataFrame, a mapping of columns or a "
        f"list of rows, found {type(table).__name__}."
    )
