"""A forecasts table as aligned arrays: the same items in the same order for every forecaster."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.quantiles import FORECAST_LEVELS, column
from neuneu.data.schemas import FORECASTS, TRAJECTORY_KEY, conform

_IDENTITY = ("family", *TRAJECTORY_KEY)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationTable:
    """N items of T trajectories, in trajectory and token order, with each forecaster's quantiles.

    `trajectories`: T identity rows (family, suite, run, num_fewshot, task, metric, context_step,
    context_tokens). `starts`, `stops`: their slices of the items, (T,). `tokens`, `y`: (N,).
    `quantiles`: forecaster -> (N, Q) for its own `levels`, NaN where it did not answer. `sees`:
    forecaster -> what it reads.
    """

    protocol: str
    trajectories: list[dict[str, object]]
    starts: IntArray
    stops: IntArray
    tokens: FloatArray
    y: FloatArray
    quantiles: Mapping[str, FloatArray]
    levels: Mapping[str, tuple[float, ...]]
    sees: Mapping[str, str]

    @property
    def item_trajectory(self) -> IntArray:
        """The trajectory of each item, (N,)."""
        return np.repeat(np.arange(len(self.starts)), self.stops - self.starts)

    @property
    def context_tokens(self) -> FloatArray:
        """Training tokens at the end of each context, (T,)."""
        return np.array([row["context_tokens"] for row in self.trajectories], dtype=np.float64)

    def codes(self, *keys: str) -> tuple[list[tuple[object, ...]], IntArray]:
        """Return the sorted distinct values of the keys, and each trajectory's code, (T,)."""
        values = [tuple(row[key] for key in keys) for row in self.trajectories]
        known = sorted(set(values), key=lambda value: tuple(map(str, value)))
        index = {value: code for code, value in enumerate(known)}
        return known, np.array([index[value] for value in values], dtype=np.int64)


def read_evaluation(table: pa.Table, *, name: str = "forecasts") -> EvaluationTable:
    """Align a forecasts table with known outcomes.

    Args:
        table: `schemas.FORECASTS`, rows in any order.
        name: name of the table in messages.

    Raises:
        DataError: no rows, several protocols, an unknown outcome, a forecaster whose `sees`
            differs between rows, or forecasters with different targets.
    """
    table = conform(table, FORECASTS, name=name)
    if table.num_rows == 0:
        raise DataError(f"{name}: expected forecasts to score, found no rows.")
    protocols = sorted(pc.unique(table.column("protocol")).to_pylist())
    if len(protocols) != 1:
        raise DataError(f"{name}: expected one protocol, found {protocols}; score each alone.")
    unknown = table.column("y").null_count
    if unknown:
        raise DataError(f"{name}: {unknown} rows have no outcome y yet; drop them to score.")
    key = np.zeros(table.num_rows, dtype=np.int64)
    for field in _IDENTITY:
        codes, size = _codes(table.column(field))
        key = key * size + codes
    forecaster_codes, _ = _codes(table.column("forecaster"))
    step = table.column("step").to_numpy()
    forecasters = pc.unique(table.column("forecaster")).to_pylist()
    order = np.lexsort((step, key, forecaster_codes))
    per_forecaster = np.split(order, np.flatnonzero(np.diff(forecaster_codes[order])) + 1)
    blocks = {table.column("forecaster")[int(rows[0])].as_py(): rows for rows in per_forecaster}
    first = blocks[forecasters[0]]
    for forecaster, rows in blocks.items():
        if not (np.array_equal(key[rows], key[first]) and np.array_equal(step[rows], step[first])):
            raise DataError(
                f"{name}: {forecaster!r} and {forecasters[0]!r} have different targets "
                f"({len(rows)} and {len(first)} rows); forecast the same targets with both."
            )
    if (repeated := (np.diff(key[first]) == 0) & (np.diff(step[first]) == 0)).any():
        row = int(first[int(np.argmax(repeated)) + 1])
        raise DataError(f"{name}: row {row} repeats a forecast; give each checkpoint once.")
    starts = np.flatnonzero(np.diff(key[first], prepend=-1))
    quantiles, levels, sees = {}, {}, {}
    for forecaster in forecasters:
        part = table.take(pa.array(blocks[forecaster]))
        given = tuple(q for q in FORECAST_LEVELS if part[column(q)].null_count < part.num_rows)
        levels[forecaster] = given or (0.5,)
        quantiles[forecaster] = np.stack(
            [part[column(q)].to_numpy() for q in levels[forecaster]], axis=1
        )
        seen = sorted(pc.unique(part["sees"]).to_pylist())
        if len(seen) != 1:
            raise DataError(f"{name}: {forecaster!r}: expected one value of sees, found {seen}.")
        sees[forecaster] = seen[0]
    common = table.take(pa.array(first))
    identity = common.take(pa.array(starts)).select([*_IDENTITY, "context_step", "context_tokens"])
    return EvaluationTable(
        protocol=protocols[0],
        trajectories=identity.to_pylist(),
        starts=starts.astype(np.int64),
        stops=np.append(starts[1:], len(first)).astype(np.int64),
        tokens=common["tokens"].to_numpy(),
        y=np.array(common["y"].to_numpy()),  # torch wants writable memory
        quantiles=quantiles,
        levels=levels,
        sees=sees,
    )


def _codes(values: pa.ChunkedArray) -> tuple[IntArray, int]:
    encoded = pc.dictionary_encode(values.combine_chunks(), null_encoding="encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, max(len(encoded.dictionary), 1)
