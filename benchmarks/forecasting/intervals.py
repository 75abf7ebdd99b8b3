"""Intervals for point forecasters from their errors on dev, by horizon.

Shapes: N rows of a forecasts table, Q levels.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN, column

HORIZONS: Final = (1.0, 2.5)
"""Edges between near, middle and far, in ln(target tokens / context tokens)."""

_SIDE: Final = np.sign(np.array(FORECAST_LEVELS) - MEDIAN)


def is_point(table: pa.Table) -> bool:
    """Return whether the table has medians only."""
    return all(
        table[column(level)].null_count == table.num_rows
        for level in FORECAST_LEVELS
        if level != MEDIAN
    )


def measure(table: pa.Table) -> list[list[float]]:
    """Return offsets (horizons, Q) of the quantiles from the median, over rows with outcomes."""
    error = table["y"].to_numpy() - _median(table)
    horizon = _horizon(table)
    known = np.isfinite(error)
    offsets = []
    for index in range(len(HORIZONS) + 1):
        chosen = error[known & (horizon == index)]
        row = np.quantile(chosen if len(chosen) else error[known], FORECAST_LEVELS)
        # Clipped at 0, so that every interval contains the forecaster's own median.
        offsets.append((_SIDE * np.maximum(_SIDE * row, 0.0)).tolist())
    return offsets


def with_intervals(table: pa.Table, offsets: Sequence[Sequence[float]]) -> pa.Table:
    """Return the table with quantiles around its median, in [0, 1]."""
    moved_NQ = _median(table)[:, None] + np.array(offsets)[_horizon(table)]
    for i, level in enumerate(FORECAST_LEVELS):
        name = column(level)
        values = np.clip(moved_NQ[:, i], 0.0, 1.0)
        index = table.schema.get_field_index(name)
        filled = pa.array(values, table.schema.field(name).type, mask=~np.isfinite(values))
        table = table.set_column(index, table.schema.field(name), filled)
    return table


def with_missing_intervals(
    tables: Mapping[str, pa.Table], residuals: Mapping[str, Sequence[Sequence[float]]]
) -> list[pa.Table]:
    """Return all tables; those of point forecasters get intervals."""
    return [
        with_intervals(table, residuals[name]) if is_point(table) else table
        for name, table in tables.items()
    ]


def _median(table: pa.Table) -> npt.NDArray[np.float64]:
    return np.asarray(table[column(MEDIAN)].to_numpy(), dtype=np.float64)


def _horizon(table: pa.Table) -> npt.NDArray[np.int64]:
    ahead = np.log(table["tokens"].to_numpy() / table["context_tokens"].to_numpy())
    return np.searchsorted(HORIZONS, ahead).astype(np.int64)
