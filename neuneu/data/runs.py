"""Facts about whole runs: size, planned tokens, recipe, learning-rate schedule.

They stand in a table of runs (`schemas.RUNS`), one row per run, or in the same columns of the
accuracy table. A row about a run without a single evaluation describes a planned run.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.cells import as_floats, as_type, listed, quoted, row_name, without_nan
from neuneu.data.checks import check_count, check_present
from neuneu.data.schemas import RUNS, check_repeated, conform, plain_name
from neuneu.data.table_files import TableFile

SCHEDULES: Final = ("cosine", "linear", "wsd", "constant")
"""Learning-rate schedules: decays over the whole run, a late decay (warmup-stable-decay), none."""

WSD_DECAY: Final = 0.8
"""Share of the planned tokens after which a WSD run decays, where its table does not say."""

_INDEX: Final = re.compile(r"__index_level_\d+__|unnamed:_\d+")

FACTS: Final = ("recipe", "schedule", "decay_start_tokens")
"""Columns about a run that may also stand in the accuracy table."""

_FILLED: Final = ("params", "planned_tokens")
_NAMES: Final = {"family": "unknown", "suite": "table"}
"""What the names of a run are where no table has them, as in `data.defaults`."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a table says of one run; None or "" where it does not.

    `recipe` names the data mix or the change under test; `schedule` is one of `SCHEDULES`;
    `decay_start` is in tokens.
    """

    run: str
    family: str | None = None
    suite: str | None = None
    params: float | None = None
    planned_tokens: float | None = None
    recipe: str = ""
    schedule: str = ""
    decay_start: float | None = None

    def about(self, who: Mapping[str, Any]) -> bool:
        """Whether it describes the run of these columns; an empty family or suite is any."""
        return self.run == who["run"] and all(
            mine is None or mine == who[key]
            for key, mine in (("family", self.family), ("suite", self.suite))
        )

    def completed(self, other: "RunFacts") -> "RunFacts":
        """These facts, and those of another row where it has more."""
        return replace(self, **{k: v for k, v in vars(other).items() if v and not getattr(self, k)})

    @property
    def decay_begins(self) -> float | None:
        """Tokens at which the learning rate begins to fall to its end; None where unknown."""
        if self.schedule != "wsd" or self.decay_start is not None:
            return self.decay_start
        return None if self.planned_tokens is None else WSD_DECAY * self.planned_tokens


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """Facts about runs, looked up by name; rows given first win."""

    rows: tuple[RunFacts, ...] = ()

    def __add__(self, other: "RunTable") -> "RunTable":
        """Both tables; the facts of the first win."""
        return RunTable(rows=self.rows + other.rows)

    def of(self, who: Mapping[str, Any]) -> RunFacts:
        """The facts of a run, given as `family`, `suite` and `run`."""
        found = RunFacts(run=who["run"])
        for row in self._named.get(who["run"], ()):
            if row.about(who):
                found = found.completed(row)
        return found

    def fill(self, table: pa.Table, *, name: str) -> pa.Table:
        """Puts `family`, `suite`, `params` and `planned_tokens` where an accuracy table has none.

        Args:
            table: accuracies, unchecked.
            name: what messages call it.

        Raises:
            DataError: a family or suite that only the table of runs has, but in several rows.
        """
        if not self.rows or "run" not in table.column_names:
            return table
        owners = _owners(table, name)
        for column in (c for c in _NAMES if _is_absent(table, c)):
            told = pa.array([self._only(who["run"], column, name) for who in owners.values])
            table = _put(table, column, told.take(owners.index))
        facts = [self.of(who) for who in _owners(table, name).values]
        for column in _FILLED:
            if all(getattr(fact, column) is None for fact in facts):
                continue
            told = pa.array([getattr(f, column) for f in facts], pa.float64()).take(owners.index)
            if column in table.column_names:
                own = as_type(table.column(column), pa.float64(), title=column, name=name)
                told = pc.coalesce(without_nan(as_floats(own)), told)
            table = _put(table, column, told)
        return table

    def _only(self, run: str, column: str, name: str) -> str:
        """The family or suite of a run whose accuracy table does not say it."""
        told = sorted({v for row in self._named.get(run, ()) if (v := getattr(row, column))})
        if len(told) > 1:
            raise DataError(
                f"{name}: no column {column}, and the table of runs has run {quoted(run)} in "
                f"{listed(told)}; add the column to {name}."
            )
        return told[0] if told else _NAMES[column]

    def unmeasured(self, measured: Sequence[Mapping[str, Any]]) -> list[RunFacts]:
        """The planned runs: rows about none of the runs that were evaluated."""
        names = {who["run"] for who in measured}
        return [
            row
            for row in self.rows
            if row.run not in names or not any(row.about(who) for who in measured)
        ]

    @cached_property
    def _named(self) -> Mapping[str, list[RunFacts]]:
        found: dict[str, list[RunFacts]] = {}
        for row in self.rows:
            found.setdefault(row.run, []).append(row)
        return found


@dataclass(frozen=True, kw_only=True)
class _Owners:
    values: list[dict[str, Any]]
    index: pa.Array


def _owners(table: pa.Table, name: str) -> _Owners:
    """The distinct runs of an accuracy table, and which of them each row belongs to."""
    code = np.zeros(table.num_rows, dtype=np.int64)
    cells = {}
    for key in (*_NAMES, "run"):
        if key != "run" and _is_absent(table, key):
            cells[key] = pa.array([_NAMES[key]] * table.num_rows, pa.string())
            continue
        cells[key] = as_type(table.column(key), pa.string(), title=key, name=name)
        encoded = cells[key].dictionary_encode(null_encoding="encode")
        code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        code = np.unique(code, return_inverse=True)[1]
    _, first, index = np.unique(code, return_index=True, return_inverse=True)
    return _Owners(
        values=pa.table({key: cells[key].take(pa.array(first)) for key in cells}).to_pylist(),
        index=pa.array(index),
    )


def _is_absent(table: pa.Table, column: str) -> bool:
    return column not in table.column_names or table.column(column).null_count == table.num_rows


def _put(table: pa.Table, column: str, cells: pa.Array) -> pa.Table:
    if column not in table.column_names:
        return table.append_column(column, cells)
    return table.set_column(table.column_names.index(column), column, cells)


def read_runs(file: TableFile) -> tuple[RunTable, tuple[str, ...]]:
    """Reads a table of runs; returns it and what was noticed.

    Other columns, such as a learning rate, are left out with a note.

    Raises:
        DataError: no column `run`, a run given twice, or a cell that cannot be, with the row.
    """
    table, name = file.table, file.name
    table = table.rename_columns([plain_name(column) for column in table.column_names])
    check_repeated(table.column_names, name=name)
    if "run" not in table.column_names:
        raise DataError(
            f"{name}: missing column 'run'; found {listed(table.column_names)}. A table of runs "
            f"has one row per run: {', '.join(RUNS.names)}."
        )
    further = [column for column in table.column_names if column not in RUNS.names]
    table = conform(table.drop_columns(further), RUNS, name=name)
    unread = [column for column in further if not _INDEX.fullmatch(column)]
    one = len(unread) == 1
    notes = (
        (f"{name}: column{'s' * (not one)} {listed(unread)} {'is' if one else 'are'} not read",)
        if unread
        else ()
    )
    check_present(table, "run", name=name)
    for column in ("params", "planned_tokens", "decay_start_tokens"):
        check_count(table, column, name=name)
    found: dict[tuple[str | None, ...], int] = {}
    rows = []
    for index, row in enumerate(table.to_pylist()):
        who = (row["family"] or None, row["suite"] or None, row["run"])
        if who in found:
            raise DataError(
                f"{name}: {row_name(name, index)}: run {quoted(row['run'])} is in "
                f"{row_name(name, found[who])} already; expected each run once. Drop one."
            )
        found[who] = index
        rows.append(make_facts(row, f"{name}: {row_name(name, index)}"))
    return RunTable(rows=tuple(rows)), (*file.notes, *notes)


def make_facts(row: Mapping[str, Any], where: str) -> RunFacts:
    """The facts in a row of `schemas.RUNS`, whose numbers are checked.

    Raises:
        DataError: an unknown schedule, or a decay that cannot be; `where` names the row.
    """
    known = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }
    schedule = (known["schedule"] or "").strip().lower()
    if schedule and schedule not in SCHEDULES:
        raise DataError(
            f"{where}: schedule is {quoted(known['schedule'])}; expected one of "
            f"{', '.join(SCHEDULES)}, or nothing where it is unknown."
        )
    start, planned = known["decay_start_tokens"], known["planned_tokens"]
    check_decay(start, planned, where)
    if start is not None and schedule == "constant":
        raise DataError(
            f"{where}: schedule is 'constant' and decay_start_tokens {start:g}; expected none, or "
            "schedule wsd."
        )
    return RunFacts(
        run=row["run"], family=known["family"] or None, suite=known["suite"] or None,
        params=known["params"], planned_tokens=planned,
        recipe=(known["recipe"] or "").strip(), schedule=schedule, decay_start=start,
    )  # fmt: skip


def check_decay(start: float | None, planned: float | None, where: str) -> None:
    """Checks that a decay begins before the planned end, both in tokens, where both are known.

    Raises:
        DataError: it begins later; `where` names the run or its row.
    """
    if start is not None and planned is not None and start >= planned:
        raise DataError(
            f"{where}: decay_start_tokens is {start:g}, planned_tokens {planned:g}; expected a "
            "decay that begins before the planned end."
        )


def take_facts(file: TableFile) -> tuple[TableFile, RunTable]:
    """Separates the columns `FACTS` from an accuracy table.

    Raises:
        DataError: a run of which the rows disagree, or a cell that cannot be.
    """
    table = file.table
    there = [column for column in FACTS if column in table.column_names]
    if not there or "run" not in table.column_names:
        return file, RunTable()
    rest = replace(file, table=table.drop_columns(there))
    owners = _owners(table, file.name)
    keys = [column for column in ("family", "suite", "run") if column in table.column_names]
    told = table.select([*keys, *there]).append_column("_owner", owners.index)
    for column in there:
        kind = RUNS.field(column).type
        cells = as_type(told.column(column), kind, title=column, name=file.name)
        if kind == pa.string():
            cells = pc.utf8_trim_whitespace(cells)
            cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, kind), cells)
        else:
            cells = without_nan(cells)
        told = told.set_column(told.column_names.index(column), column, cells)
    distinct = told.group_by("_owner").aggregate(
        [(column, "count_distinct") for column in there] + [(column, "max") for column in there]
    )
    for column in there:
        several = pc.greater(distinct.column(f"{column}_count_distinct"), 1)
        if pc.any(several).as_py():
            owner = distinct.column("_owner").filter(several)[0].as_py()
            raise DataError(
                f"{file.name}: run {quoted(owners.values[owner]['run'])} has several values of "
                f"{column}; expected one per run. Correct them or tell the runs apart."
            )
    rows = [
        dict.fromkeys(RUNS.names)
        | {key: owners.values[row["_owner"]][key] for key in keys}
        | {column: row[f"{column}_max"] for column in there}
        for row in distinct.sort_by("_owner").to_pylist()
    ]
    found = tuple(
        make_facts(row, f"{file.name}: run {quoted(row['run'])}") for row in rows if row["run"]
    )
    return rest, RunTable(rows=found)
