"""Forecasts as a table, after the answers are checked against the contract of `Forecaster`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN, column
from neuneu.data.schemas import FORECASTS
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Forecaster, Query


def identity_columns(
    queries: Sequence[Query], truths: Sequence[Trajectory], protocol: str
) -> dict[str, pa.Array]:
    """The columns that all forecasters share, one row per target."""
    contexts = [query.context for query in queries]
    owner = pa.array(np.repeat(np.arange(len(truths)), [len(truth) for truth in truths]))

    def spread(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(owner)

    def joined(name: str) -> pa.Array:
        values = np.concatenate([getattr(truth, name) for truth in truths])
        return pa.array(values, from_pandas=True)  # NaN means unknown: null

    names = ("family", "suite", "run", "task", "metric")
    columns = {name: spread([getattr(c, name) for c in contexts], pa.string()) for name in names}
    columns["num_fewshot"] = spread([c.num_fewshot for c in contexts], pa.int32())
    columns["protocol"] = spread([protocol] * len(contexts), pa.string())
    steps = [int(c.steps[-1]) if len(c) else 0 for c in contexts]
    tokens = [float(c.tokens[-1]) if len(c) else 0.0 for c in contexts]
    columns["context_step"] = spread(steps, pa.int64())
    columns["context_tokens"] = spread(tokens, pa.float64())
    columns |= {"step": joined("steps"), "tokens": joined("tokens"), "flops": joined("flops")}
    columns["y"] = joined("values")
    columns["calibration_group"] = pa.nulls(len(owner), pa.string())
    return columns


def check_answers(
    forecaster: Forecaster, answers: Sequence[FloatArray], queries: Sequence[Query]
) -> FloatArray:
    """Checks answers against the contract of `Forecaster`; returns (N, Q) quantiles of all targets.

    Raises:
        DataError: unknown levels, arrays of another shape, NaN in a part of a query, values
            outside the bounds of the metric, or quantiles that decrease with their level.
    """
    levels = forecaster.levels
    unknown = set(levels) - set(FORECAST_LEVELS)
    if unknown or MEDIAN not in levels or list(levels) != sorted(set(levels)):
        raise DataError(
            f"forecaster {forecaster.name!r}: expected increasing levels out of {FORECAST_LEVELS} "
            f"with 0.5, found {levels}."
        )
    expected = [(len(query.target_steps), len(levels)) for query in queries]
    found = [np.shape(answer) for answer in answers]
    if found != expected:
        raise DataError(
            f"forecaster {forecaster.name!r}: expected one (h, {len(levels)}) array a query, "
            f"{len(expected)} in all; found {len(found)}, such as {found[:1]}."
        )
    quantiles = np.concatenate([np.asarray(answer, dtype=np.float64) for answer in answers])
    owner = np.repeat(np.arange(len(expected)), [h for h, _ in expected])
    missing = np.isnan(quantiles).any(axis=1)
    n_missing = np.bincount(owner, weights=missing, minlength=len(expected))
    partly = (n_missing > 0) & (n_missing < [h for h, _ in expected])
    given = quantiles[~missing]
    scales = [query.context.scale for query in queries]
    limits = np.array([(scale.low, scale.high) for scale in scales]).reshape(-1, 2)
    low, high = (of[:, None] for of in limits[owner[~missing]].T)
    outside = (given < low) | (given > high)
    problem = None
    if partly.any() or not np.isnan(quantiles[missing]).all():
        problem = "NaN in a part of a query (NaN throughout means unanswered)"
    elif outside.any():
        row = int(np.argmax(outside.any(axis=1)))
        what = f"[{low[row, 0]:g}, {high[row, 0]:g}]"
        problem = f"values outside {what}, such as {given[row][outside[row]][0]:g}"
    elif (np.diff(given, axis=1) < 0.0).any():
        problem = "quantiles that decrease with their level"
    if problem:
        raise DataError(f"forecaster {forecaster.name!r} breaks its protocol: it gave {problem}.")
    return quantiles


def forecast_table(
    forecaster: Forecaster, common: Mapping[str, pa.Array], quantiles: FloatArray
) -> pa.Table:
    """The rows of one forecaster as `schemas.FORECASTS`; levels that it lacks are null."""
    n = len(quantiles)
    columns = dict(common)
    columns["forecaster"] = pa.repeat(pa.scalar(forecaster.name, pa.string()), n)
    columns["sees"] = pa.repeat(pa.scalar(forecaster.sees, pa.string()), n)
    at = {level: index for index, level in enumerate(forecaster.levels)}
    for level in FORECAST_LEVELS:
        columns[column(level)] = (
            pa.array(quantiles[:, at[level]], from_pandas=True)
            if level in at
            else pa.nulls(n, pa.float64())
        )
    return pa.Table.from_arrays([columns[name] for name in FORECASTS.names], schema=FORECASTS)
