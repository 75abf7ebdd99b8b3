"""Loading of tables and stores as trajectories, for commands, jobs and the Python API alike."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from neuneu.core.errors import DataError, UserError
from neuneu.data.cells import listed, quoted
from neuneu.data.defaults import fill_defaults
from neuneu.data.evidence import read_evidence, with_choices
from neuneu.data.fingerprints import data_digest
from neuneu.data.runs import RunFacts, RunTable, check_decay, read_runs, take_facts
from neuneu.data.schemas import ACCURACIES, LOSSES, TASKS, validate
from neuneu.data.store.store import Store
from neuneu.data.table_files import TableFile, check_store, is_folder, read_file
from neuneu.data.task_metrics import with_task_metric
from neuneu.data.trajectories import TokenLossTable, Trajectory, build_trajectories

_log = logging.getLogger(__name__)

Table = Any
"""A path (local or s3://) to a .parquet or .csv file or store; a pyarrow table; a pandas DataFrame;
a mapping of column names to sequences or NumPy arrays; a sequence of row mappings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Trajectories with their losses, items and reference runs.

    `losses` is the loss table (`schemas.LOSSES`). `items` maps (task, metric) to its number of
    items, where the task table gives it. `reference` holds further finished runs. `notes` list
    what was recognised in the tables, and what was assumed where they left something out.
    `planned` are runs of the table of runs without an evaluation. `corpus` names the validation
    text of `token_loss_store` whose token losses are read.
    """

    trajectories: list[Trajectory]
    losses: pa.Table | None
    items: Mapping[tuple[str, str], int]
    notes: tuple[str, ...]
    planned: tuple[RunFacts, ...] = ()
    reference: "Dataset | None" = None
    token_loss_store: Store | None = None
    corpus: str | None = None

    @property
    def references(self) -> list[Trajectory]:
        """Trajectories of the reference runs."""
        return [] if self.reference is None else self.reference.trajectories

    def of_metric(self, metric: str | None) -> "Dataset":
        """Keep the trajectories of one metric, those of reference runs included; None keeps all."""
        if metric is None:
            return self
        others = self.reference
        return replace(
            self,
            trajectories=[t for t in self.trajectories if t.metric == metric],
            reference=None if others is None else others.of_metric(metric),
        )

    @cached_property
    def token_losses(self) -> TokenLossTable | None:
        """Losses per word or token, read from their store on first use.

        Of several validation texts they are those of `corpus`, by default the store's first.
        """
        if self.token_loss_store is None:
            return None
        store = self.token_loss_store
        return TokenLossTable.from_table(store.token_losses(self.corpus or store.main_corpus()))

    @cached_property
    def digest(self) -> str:
        """Hash that identifies the trajectories in results."""
        return data_digest(self.trajectories)


def load_dataset(
    accuracies: Table | Store,
    *,
    losses: Table | None = None,
    tasks: Table | None = None,
    run_table: Table | None = None,
    reference: Table | None = None,
    reference_losses: Table | None = None,
    token_losses: str | Path | None = None,
    corpus: str | None = None,
    choices: str | Path | None = None,
    reference_choices: str | Path | None = None,
    metric: str | None = None,
    log_notes: bool = True,
) -> Dataset:
    """Read tables or stores, fill in what they leave out, and check them.

    Args:
        accuracies: evaluations, one per row (`schemas.ACCURACIES`), or a store.
        losses: validation losses of these runs; a store brings its own.
        tasks: the task table (chance, base tasks, groups, items); a store brings its own.
        run_table: facts about the runs (`schemas.RUNS`), those of `reference` included.
        reference: accuracies of further finished runs.
        reference_losses: validation losses of the reference runs.
        token_losses: a store with losses per word; by default that of `accuracies`.
        corpus: which of the validation texts of that store to read; by default its first.
        choices: scored choices of these runs, for forecasts item by item: a file that `neuneu
            import` wrote, or a store.
        reference_choices: those of the reference runs; by default they are looked for in
            `choices`, too.
        metric: one that is to be forecast; where only a loss table has it, its rows become
            trajectories (`data.task_metrics`).
        log_notes: whether to log the notes as warnings.

    Raises:
        UserError: tables that cannot be read or break the contract.
    """
    runs = RunTable()
    run_notes: tuple[str, ...] = ()
    if run_table is not None:
        runs, run_notes = read_runs(read_table(run_table, name="run_table"))
    data = _load(accuracies, losses, tasks, runs, "accuracies", metric=metric)
    if reference is not None:
        others = _load(reference, reference_losses, tasks, runs, "reference", metric=metric)
        notes = tuple(dict.fromkeys((*data.notes, *others.notes)))
        planned = tuple(run for run in data.planned if run in others.planned)
        data = replace(data, reference=others, notes=notes, planned=planned)
    elif reference_losses is not None:
        raise UserError("reference_losses: expected a reference table beside it, found none.")
    data = replace(data, notes=(*data.notes, *run_notes, *_mismatch_note(data)))
    if token_losses is not None:
        data = replace(data, token_loss_store=Store(token_losses))
    if corpus is not None:
        data = _of_text(data, corpus)
    if token_losses is not None and data.token_losses is None:
        raise UserError(f"{token_losses}: expected a store with token losses, found none.")
    data = join_choices(data, choices, reference_choices)
    for note in data.notes if log_notes else ():
        _log.warning(note)
    return data


def _of_text(data: Dataset, corpus: str) -> Dataset:
    """Read the token losses of one validation text, those of the reference runs included."""
    store = data.token_loss_store
    if store is None:
        raise UserError(
            f"corpus={corpus}: expected a store with the token losses of this text, found none; "
            "give a store as accuracies or token_losses."
        )
    if corpus not in (texts := store.texts()):
        raise UserError(
            f"corpus={corpus}: expected a validation text of {store.folder}, which has "
            f"{listed(texts)}; choose one of them, or extract this one."
        )
    others = data.reference
    if others is not None and others.token_loss_store is not None:
        others = _of_text(others, corpus)
    return replace(data, corpus=corpus, reference=others)


def join_choices(
    data: Dataset, choices: str | Path | None, reference_choices: str | Path | None
) -> Dataset:
    """Join scored choices, if any, with the trajectories of a dataset and its reference runs.

    Raises:
        UserError: files that cannot be read or fit no trajectory; choices of reference runs alone.
    """
    if choices is None:
        if reference_choices is not None:
            raise UserError("reference_choices: expected choices beside them, found none.")
        return data
    everyone = [*data.trajectories, *data.references]
    found = read_evidence(choices, everyone if reference_choices is None else data.trajectories)
    trajectories, note = with_choices(data.trajectories, found, name=str(choices))
    others = data.reference
    if others is not None and reference_choices is not None:
        found = read_evidence(reference_choices, others.trajectories)
        joined, _ = with_choices(others.trajectories, found, name=str(reference_choices))
        others = replace(others, trajectories=joined)
    elif others is not None and {of.run for of in found} & {t.run for t in others.trajectories}:
        joined, _ = with_choices(others.trajectories, found, name=str(choices))
        others = replace(others, trajectories=joined)
    return replace(data, trajectories=trajectories, reference=others, notes=(*data.notes, note))


def _mismatch_note(data: Dataset) -> list[str]:
    """A note on planned runs that bear the name of an evaluated one, as a typo would make them."""
    measured = {t.run for t in (*data.trajectories, *data.references)}
    names = [run.run for run in data.planned if run.run in measured]
    if not names:
        return []
    return [
        f"run_table: {listed(names)}: taken as planned, because the run of this name that was "
        "evaluated has another family or suite"
    ]


def _load(
    accuracies: Table | Store,
    losses: Table | None,
    tasks: Table | None,
    runs: RunTable,
    name: str,
    *,
    metric: str | None,
) -> Dataset:
    loss_file = None if losses is None else load_table(losses, LOSSES, name="losses")
    task_file = None if tasks is None else load_table(tasks, TASKS, name="tasks")
    loss_table = None if loss_file is None else loss_file.table
    task_table = None if task_file is None else task_file.table
    if isinstance(accuracies, str | Path) and is_folder(accuracies):
        check_store(accuracies)
        accuracies = Store(accuracies)
    notes = [n for f in (loss_file, task_file) if f is not None for n in f.notes]
    if isinstance(accuracies, Store):
        store = accuracies
        loss_table = store.losses() if loss_table is None else loss_table
        task_table = store.tasks() if task_table is None else task_table
        table = store.accuracies()
        if runs.rows:  # FLOPs follow from parameters
            file = TableFile(table=runs.fill(table, name=name), name=name)
            table = _checked(file, ACCURACIES).table
    else:
        store = None
        file, own = take_facts(read_table(accuracies, name=name))
        runs = own + runs
        file = _checked(replace(file, table=runs.fill(file.table, name=file.name)), ACCURACIES)
        table = file.table
        notes += file.notes
    table = with_task_metric(table, loss_table, metric, name=name)
    rows = [] if task_table is None else task_table.to_pylist()
    trajectories = build_trajectories(table, loss_table, task_table, runs)
    for t in trajectories:
        check_decay(t.decay_start, t.planned_tokens, f"{name}: run {quoted(t.run)}")
    given = {row["task"] for row in rows if row["chance"] is not None}
    if assumed := sorted({t.task for t in trajectories if t.chance is not None} - given):
        several = len(assumed) > 1
        what = f"levels of {len(assumed)} known tasks" if several else "level of a known task"
        notes.append(f"chance {what} assumed, such as {quoted(assumed[0])}")
    return Dataset(
        trajectories=trajectories,
        planned=tuple(runs.unmeasured(_runs(table))),
        losses=loss_table,
        items={(r["task"], r["metric"]): r["n_items"] for r in rows if r["n_items"]},
        notes=tuple(notes),
        token_loss_store=store,
    )


def _runs(table: pa.Table) -> list[dict[str, Any]]:
    """The runs of an accuracy table, as family, suite and run."""
    return list(table.group_by(["family", "suite", "run"]).aggregate([]).to_pylist())


def load_table(table: Table, schema: pa.Schema, *, name: str) -> TableFile:
    """Read a table, fill in what an accuracy table leaves out, and check it.

    Args:
        table: see `Table`, but not a store.
        schema: `schemas.ACCURACIES`, `LOSSES` or `TASKS`.
        name: what messages call a table from memory.

    Raises:
        UserError: a file that cannot be read, or a table that breaks the contract.
    """
    return _checked(read_table(table, name=name), schema)


def _checked(file: TableFile, schema: pa.Schema) -> TableFile:
    if schema is ACCURACIES:
        filled, assumed = fill_defaults(file.table, name=file.name)
        file = replace(file, table=filled, notes=(*file.notes, *assumed))
    return replace(file, table=validate(file.table, schema, name=file.name))


def read_table(table: Table, *, name: str) -> TableFile:
    """Read a file, or convert a table from memory, without checking its columns.

    Raises:
        UserError: a file that cannot be read, or something that is not a table.
    """
    if isinstance(table, str | Path):
        return read_file(table)
    return TableFile(table=as_table(table, name=name), name=name)


def as_table(table: Table, *, name: str) -> pa.Table:
    """Converts a table in memory to pyarrow.

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
            # Not pa.Table.from_pylist, which knows the columns of the first row only.
            columns = dict.fromkeys(key for row in table for key in row)
            return pa.table({key: [row.get(key) for row in table] for key in columns})
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{name}: not readable as a table ({error}).") from error
    raise DataError(
        f"{name}: expected a path, a pyarrow table, a pandas DataFrame, a mapping of columns or a "
        f"list of rows, found {type(table).__name__}."
    )
