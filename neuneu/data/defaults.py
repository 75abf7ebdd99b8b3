"""Defaults for the columns that a table of accuracies may leave out.

Required are run, task, value and one of step, tokens and flops (docs/data-contract.md).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.cells import as_floats, listed
from neuneu.data.checks import check_count, check_present
from neuneu.data.schemas import ACCURACIES, conform
from neuneu.data.sizes import read_sizes

FLOPS_PER_PARAMETER_TOKEN: Final = 6.0
"""Training FLOPs are 6 x parameters x tokens (Kaplan et al. 2020, arXiv 2001.08361)."""

REQUIRED: Final = ("run", "task", "value")
POSITIONS: Final = ("tokens", "flops", "step")
_CONSTANTS: Final = {"family": "unknown", "suite": "table", "metric": "acc", "num_fewshot": 0}


def fill_defaults(
    table: pa.Table, *, name: str, schema: pa.Schema = ACCURACIES
) -> tuple[pa.Table, list[str]]:
    """Cast a table to `schema` and add the columns that it leaves out.

    Forecasts read distances in ln tokens, so steps can stand for tokens, and FLOPs can where the
    parameters are unknown. Parameters are read from the names of runs (`sizes`) where no row of a
    run has them.

    Args:
        table: any table.
        name: what messages call it.
        schema: `schemas.ACCURACIES` or `schemas.LOSSES`.

    Returns:
        The table, and what was assumed, one line each.

    Raises:
        DataError: no rows, an unknown column, no run, task or value, neither step nor tokens nor
            flops, or a cell that does not fit its column.
    """
    table = conform(table, schema, name=name, partial=True)
    count, found = table.num_rows, table.column_names
    required = [column for column in REQUIRED if column in schema.names]
    if count == 0:
        raise DataError(
            f"{name}: expected at least one row of evaluations, found none; add rows of "
            f"{', '.join(required)} and one of {', '.join(POSITIONS)}."
        )
    if missing := [column for column in required if column not in found]:
        raise DataError(
            f"{name}: missing column{'s' * (len(missing) > 1)} {listed(missing)}; found "
            f"{listed(found)}. Add what is missing: each row is one evaluation."
        )
    notes: list[str] = []
    if schema is ACCURACIES:
        table, notes = read_sizes(table, name=name)
        found = table.column_names
    columns = {
        c: table.column(c) for c in found if c in required or table.column(c).null_count < count
    }
    is_whole = columns.keys() >= set(schema.names) - {"stderr", "planned_tokens"}
    if is_whole and not columns["flops"].null_count:
        return table, notes
    positions = [column for column in POSITIONS if column in columns]
    if not positions:
        raise DataError(
            f"{name}: missing a column step, tokens or flops, which says where in its training a "
            f"run was measured; found {listed(sorted(columns))}. Add one."
        )
    numbers: dict[str, FloatArray] = {}
    for column in ("params", *positions):
        if column in columns:
            if column not in {"params", "flops"}:
                check_present(table, column, name=name)
            check_count(table, column, name=name)
            numbers[column] = as_floats(columns[column]).to_numpy()
    if "tokens" not in numbers:
        numbers["tokens"], note = _tokens(table, numbers, name)
        notes.append(f"{name}: no column tokens; {note}")
    tokens, unknown = numbers["tokens"], np.full(count, np.nan)
    flops = numbers.get("flops", unknown)
    derived = FLOPS_PER_PARAMETER_TOKEN * numbers.get("params", unknown) * tokens
    flops = np.where(np.isnan(flops), derived, flops)
    filled = {column: pa.repeat(value, count) for column, value in _CONSTANTS.items()}
    filled |= {
        "params": pa.nulls(count, pa.float64()),
        "tokens": tokens,
        "step": derived_steps(tokens),
    }
    filled |= columns | {"flops": pa.array(flops, from_pandas=True)}
    if "params" not in numbers:
        notes.append(f"{name}: no column params; model sizes are unknown")
    elif np.isnan(flops).any():
        runs = columns["run"].filter(pa.array(np.isnan(flops))).unique().to_pylist()
        notes.append(f"{name}: neither params nor FLOPs known of runs {listed(runs)}")
    return pa.table(filled), notes


def _tokens(
    table: pa.Table, numbers: Mapping[str, FloatArray], name: str
) -> tuple[FloatArray, str]:
    """Return what stands for tokens, and a note that says so."""
    if "flops" not in numbers:
        return numbers["step"], "steps stand for them, also in --until"
    check_present(table, "flops", name=name)
    if "params" not in numbers:
        return numbers["flops"], "flops stand for them"
    check_present(table, "params", name=name)
    tokens = numbers["flops"] / (FLOPS_PER_PARAMETER_TOKEN * numbers["params"])
    return tokens, "taken as flops / (6 params)"


def derived_steps(tokens: FloatArray) -> IntArray:
    """Whole numbers that grow with tokens: millions of tokens where those are all different."""
    different = np.unique(tokens)
    for unit in (1e6, 1e3, 1.0, 1e12, 1e18):
        steps = np.round(tokens / unit)
        is_one_to_one = len(np.unique(steps)) == len(different)
        if is_one_to_one and ((steps > 0) == (tokens > 0)).all() and steps.max() < 2**53:
            return np.asarray(steps, dtype=np.int64)
    ranks = np.searchsorted(different[different > 0], tokens) + (tokens > 0)
    return np.asarray(ranks, dtype=np.int64)
