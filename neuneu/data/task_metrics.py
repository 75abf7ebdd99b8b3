"""Metrics of single tasks in a loss table, as rows to forecast.

Sources that log bits per byte, gold losses or soft accuracies of a task keep them beside validation
losses: the name is the task's, alone or with the metric behind it (`arc_easy_rc_5shot_bpb`).
"""

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import UserError
from neuneu.data.cells import listed
from neuneu.data.defaults import fill_defaults
from neuneu.data.schemas import ACCURACIES, validate

_ENDINGS: Final = ("_bpb", "_gold")
_FACTS: Final = ("family", "params", "planned_tokens")


def with_task_metric(
    accuracies: pa.Table, losses: pa.Table | None, metric: str | None, *, name: str
) -> pa.Table:
    """Add the rows of a metric that only the loss table has.

    Args:
        accuracies: `schemas.ACCURACIES`, checked.
        losses: `schemas.LOSSES`.
        metric: wanted; None adds nothing.
        name: what messages call the accuracies.

    Returns:
        The accuracies with further rows, checked and sorted.

    Raises:
        UserError: neither table has the metric, or rows that break the contract.
    """
    known = set(pc.unique(accuracies.column("metric")).to_pylist())
    if metric is None or metric in known:
        return accuracies
    found = None if losses is None else losses.filter(
        pc.and_(pc.equal(losses.column("metric"), metric), pc.is_valid(losses.column("value")))
    )  # fmt: skip
    if found is None or not found.num_rows:
        others = set() if losses is None else set(pc.unique(losses.column("metric")).to_pylist())
        raise UserError(
            f"{name}: expected rows of metric {metric!r}, found {listed(sorted(known | others))}; "
            "choose one of these, or give --losses."
        )
    columns = {
        column: found.column(column)
        for column in ACCURACIES.names
        if column in found.column_names and column != "task"
    }
    columns["task"] = pa.array([_task(text, metric) for text in found.column("name").to_pylist()])
    columns["num_fewshot"] = pc.fill_null(columns["num_fewshot"], 0)
    rows = _with_runs(pa.table(columns), accuracies)
    filled, _ = fill_defaults(rows, name=f"{metric} of the losses")
    rows = validate(filled, ACCURACIES, name=f"{metric} of the losses")
    return validate(pa.concat_tables([accuracies, rows]), ACCURACIES, name=name)


def _task(name: str, metric: str) -> str:
    for ending in (f"_{metric}", *_ENDINGS):
        name = name.removesuffix(ending)
    return name


def _with_runs(rows: pa.Table, accuracies: pa.Table) -> pa.Table:
    """Rows with family, parameters and planned tokens as the accuracies of the same run have them.

    Columns that one table lacks would else make two runs of one.
    """
    known = dict(zip(_keys(accuracies), _cells(accuracies, _FACTS), strict=True))
    facts = [
        known.get(key, (*own, None))
        for key, own in zip(_keys(rows), _cells(rows, _FACTS[:-1]), strict=True)
    ]
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    for name, cells in zip(_FACTS, zip(*facts, strict=True), strict=True):
        columns[name] = pa.array(cells, ACCURACIES.field(name).type)
    return pa.table(columns)


def _keys(table: pa.Table) -> list[tuple[Any, ...]]:
    return _cells(table, ("suite", "run"))


def _cells(table: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))
