"""What a backtest reads: a store or tables, and which runs are held out together."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError, UserError
from neuneu.data.defaults import fill_defaults
from neuneu.data.schemas import ACCURACIES, LOSSES, TASKS, validate
from neuneu.data.store.store import Store
from neuneu.data.table_files import check_store, is_folder, read_file
from neuneu.data.trajectories import TokenLossTable, Trajectory, build_trajectories

_log = logging.getLogger(__name__)

RunGroup = tuple[str, str]
"""(family, run)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """Everything known of some runs, and a short hash that names it."""

    trajectories: list[Trajectory]
    losses: pa.Table | None
    token_losses: TokenLossTable | None
    digest: str


def read_observations(
    accuracies: str | Path, losses: str | Path | None = None, tasks: str | Path | None = None
) -> Observations:
    """Reads trajectories from a store folder, or from parquet or CSV tables; local or `s3://`.

    Args:
        accuracies: a store folder, or a `.parquet` / `.csv` file of `schemas.ACCURACIES`.
        losses: a file of `schemas.LOSSES`; a store brings its own unless one is given.
        tasks: a file of `schemas.TASKS`; likewise.

    Raises:
        UserError: unreadable files, or tables that break the contract.
    """
    token_losses = None
    if is_folder(accuracies):
        check_store(accuracies)
        store = Store(accuracies)
        accuracy_table = store.accuracies()
        loss_table = store.losses() if losses is None else read_table(losses, LOSSES)
        task_table = store.tasks() if tasks is None else read_table(tasks, TASKS)
        token_losses = TokenLossTable.from_table(store.token_losses())
    else:
        accuracy_table = read_table(accuracies, ACCURACIES)
        loss_table = None if losses is None else read_table(losses, LOSSES)
        task_table = None if tasks is None else read_table(tasks, TASKS)
    trajectories = build_trajectories(accuracy_table, loss_table, task_table, name=str(accuracies))
    return Observations(
        trajectories=trajectories,
        losses=loss_table,
        token_losses=token_losses,
        digest=content_digest(trajectories),
    )


def read_table(address: str | Path, schema: pa.Schema) -> pa.Table:
    """A file as a table of `schema`, with defaults filled in; see `read_file`.

    What was recognised or assumed is logged.

    Raises:
        UserError: no such file, another kind of file, or a table that breaks the contract.
    """
    file = read_file(address)
    table, notes = file.table, list(file.notes)
    if schema is ACCURACIES:
        table, assumed = fill_defaults(table, name=file.name)
        notes += assumed
    table = validate(table, schema, name=file.name)
    for note in notes:
        _log.warning(note)
    return table


def content_digest(trajectories: list[Trajectory]) -> str:
    """Sixteen hex digits of every value, so that a summary says which data it scores."""
    digest = hashlib.sha256()
    for trajectory in trajectories:
        digest.update(repr((trajectory.family, *trajectory.key)).encode())
        for array in (trajectory.steps, trajectory.tokens, trajectory.values):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def merge_token_losses(
    first: TokenLossTable | None, second: TokenLossTable | None
) -> TokenLossTable | None:
    """Rows of both tables; the first wins where both have a checkpoint.

    Raises:
        DataError: losses of different texts or units.
    """
    if first is None or second is None:
        return first or second
    kinds = {(t.corpus_hash, t.unit, t.matrix.shape[1]) for t in (first, second)}
    if len(kinds) != 1:
        raise DataError(
            f"token losses: expected one corpus, unit and length in both stores, found "
            f"{sorted(kinds)}; score both on the same corpus."
        )
    offset = len(first.matrix)
    shifted = {key: row + offset for key, row in second.rows.items()}
    return replace(
        first,
        matrix=np.concatenate([first.matrix, second.matrix]),
        rows=shifted | dict(first.rows),
    )


def deal_by_size(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Folds that hold out all runs of a size together, as the next size up will be new.

    The sizes of each family (parameters to two digits), in order, are dealt round-robin. Where a
    family has fewer sizes than there are folds, its runs are dealt as by `deal_folds`.

    Raises:
        UserError: fewer run groups than folds.
    """
    folds: list[list[RunGroup]] = [[] for _ in range(n_folds)]
    rest: list[Trajectory] = []
    for family in sorted({t.family for t in trajectories}):
        members = [t for t in trajectories if t.family == family]
        size = {t.run_group: float(f"{t.params:.1e}") for t in members}
        sizes = sorted(set(size.values()))
        if len(sizes) < n_folds:
            rest += members
            continue
        for group, params in sorted(size.items()):
            folds[sizes.index(params) % n_folds].append(group)
    if rest:
        for fold, groups in zip(folds, deal_folds(rest, n_folds, seed), strict=True):
            fold.extend(groups)
    return tuple(tuple(sorted(fold)) for fold in folds)


def deal_folds(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Deals run groups round-robin from a seeded shuffle of each family.

    Every fold holds runs of every family that has at least as many runs as there are folds.

    Raises:
        UserError: fewer run groups than folds.
    """
    groups = sorted({trajectory.run_group for trajectory in trajectories})
    if len(groups) < n_folds:
        raise UserError(
            f"folds: {n_folds} folds need as many runs, found {len(groups)}; "
            f"set folds={max(len(groups), 2)} or name held_out runs."
        )
    generator = np.random.default_rng(seed)
    dealt: list[RunGroup] = []
    for family in sorted({family for family, _ in groups}):
        members = [group for group in groups if group[0] == family]
        dealt += [members[index] for index in generator.permutation(len(members))]
    return tuple(tuple(sorted(dealt[fold::n_folds])) for fold in range(n_folds))
