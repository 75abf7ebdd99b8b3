"""What a table of accuracies may leave out, and what is then taken for it.

Required are run, task, value and one of step, tokens and flops (docs/data-contract.md).
"""

from typing import Final

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.cells import as_type, listed
from neuneu.data.row_checks import check_position, check_present
from neuneu.data.schemas import ACCURACIES, known_columns

FAMILY: Final = "unknown"
SUITE: Final = "table"
METRIC: Final = "acc"
FLOPS_PER_PARAMETER_TOKEN: Final = 6.0
"""Training FLOPs are 6 x parameters x tokens (Kaplan et al. 2020, arXiv 2001.08361)."""

REQUIRED: Final = ("run", "task", "value")
POSITIONS: Final = ("tokens", "flops", "step")
_UNKNOWN: Final = ("params", "flops")


def fill_defaults(
    table: pa.Table, *, name: str, schema: pa.Schema = ACCURACIES
) -> tuple[pa.Table, list[str]]:
    """Adds the columns of `schema` that a table leaves out.

    Forecasts read distances in ln tokens, so that steps can stand for tokens, and FLOPs for
    tokens where the parameters are not given.

    Args:
        table: any; columns that are there stay as they are.
        name: what to call it in messages.
        schema: `schemas.ACCURACIES` or `schemas.LOSSES`.

    Returns:
        The table, and what was assumed, one line each.

    Raises:
        DataError: no row, a column that is not of the contract, no run, task or value, neither
            step nor tokens nor flops, or one of these that is not a number.
    """
    table = known_columns(table, schema, name=name)
    required = [column for column in REQUIRED if column in schema.names]
    if table.num_rows == 0:
        raise DataError(
            f"{name}: expected at least one row of evaluations, found none; add rows of "
            f"{', '.join(required)} and one of {', '.join(POSITIONS)}."
        )
    missing = [column for column in required if column not in table.column_names]
    if missing:
        raise DataError(
            f"{name}: missing column{'s' if len(missing) > 1 else ''} {listed(missing)}; found "
            f"{listed(table.column_names)}. Add what is missing: a row is one evaluation."
        )
    empty = {c for c in table.column_names if table.column(c).null_count == table.num_rows}
    given = {c for c in table.column_names if c in required or c not in empty}
    whole = given >= set(schema.names) - {"stderr", "planned_tokens"}
    if whole and not table.column("flops").null_count:
        return table, []
    if not given.intersection(POSITIONS):
        raise DataError(
            f"{name}: missing a column step, tokens or flops, which says where in its training a "
            f"run was measured; found {listed(sorted(given))}. Add one."
        )
    columns = {c: table.column(c) for c in table.column_names if c in given}
    notes = []
    plain = {"family": FAMILY, "suite": SUITE, "metric": METRIC, "num_fewshot": 0}
    for column, value in plain.items():
        if column not in given:
            columns[column] = pa.array([value] * table.num_rows)
    numbers = {
        column: _numbers(table, column, name)
        for column in ("params", *POSITIONS)
        if column in given
    }
    params = numbers.get("params")
    if "tokens" not in given:
        columns["tokens"], note = _tokens(numbers, name)
        notes.append(note)
    tokens = numbers.get("tokens", columns["tokens"])
    if "step" not in given:
        columns["step"] = pa.array(_steps(tokens))
    size = np.full(len(tokens), np.nan) if params is None else params
    flops = numbers.get("flops", np.full(len(tokens), np.nan))
    flops = np.where(np.isnan(flops), FLOPS_PER_PARAMETER_TOKEN * size * tokens, flops)
    columns["flops"] = pa.array(flops, from_pandas=True)
    if params is None:
        columns["params"] = pa.nulls(table.num_rows, pa.float64())
        notes.append(f"{name}: no column params; sizes of models are taken for unknown")
    elif np.isnan(flops).any():
        runs = pa.array(columns["run"].to_pylist()).filter(pa.array(np.isnan(flops)))
        unknown = listed(runs.unique().to_pylist())
        notes.append(f"{name}: neither params nor FLOPs known of runs {unknown}")
    return pa.table(columns), notes


def _tokens(numbers: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, str]:
    if "flops" not in numbers:
        return numbers["step"], f"{name}: no column tokens; steps stand for them, also in --until"
    check_present(pa.table({"flops": numbers["flops"]}), "flops", name=name)
    if "params" not in numbers:
        return numbers["flops"], f"{name}: no column tokens; flops stand for them"
    check_present(pa.table({"params": numbers["params"]}), "params", name=name)
    tokens = numbers["flops"] / (FLOPS_PER_PARAMETER_TOKEN * numbers["params"])
    return tokens, f"{name}: no column tokens; taken as flops / (6 params)"


def _steps(tokens: np.ndarray) -> np.ndarray:
    """Whole numbers that grow with tokens: millions of tokens where those tell all apart."""
    for unit in (1e6, 1e3, 1.0, 1e12, 1e18):
        steps = np.round(tokens / unit)
        told_apart = len(np.unique(steps)) == len(np.unique(tokens))
        if told_apart and ((steps > 0) == (tokens > 0)).all() and steps.max() < 2**53:
            return np.asarray(steps, dtype=np.int64)
    ranks = np.searchsorted(np.unique(tokens[tokens > 0]), tokens) + (tokens > 0)
    return np.asarray(ranks, dtype=np.int64)


def _numbers(table: pa.Table, column: str, name: str) -> np.ndarray:
    found = as_type(table.column(column), pa.float64(), title=column, name=name)
    numbers = pa.table({column: found})
    if column not in _UNKNOWN:
        check_present(numbers, column, name=name)
    check_position(numbers, column, name=name)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.float64)
