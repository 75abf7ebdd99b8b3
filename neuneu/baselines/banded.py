"""Bands for a point forecaster: how far it was off on other runs, by how far it looked ahead.

Shapes: N targets, Q levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.forecaster import Forecaster, Query, Sees
from neuneu.quantiles import FORECAST_LEVELS, MEDIAN
from neuneu.trajectories import FloatArray, IntArray, Trajectory

HORIZONS: Final = (1.0, 2.5)
"""Edges in ln(target tokens / context tokens) between near, middle and far."""


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """Quantiles of outcome minus forecast: `offsets` (horizons, Q), 0 at the median."""

    offsets: tuple[tuple[float, ...], ...]


def measure_residuals(
    forecaster: Forecaster, queries: Sequence[Query], truths: Sequence[Trajectory]
) -> Residuals:
    """Learns bands from what came of a forecaster's answers; unanswered queries do not count.

    A horizon without an answer takes the offsets of all.
    """
    middle = forecaster.levels.index(MEDIAN)
    errors, places = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for query, truth, answer in zip(queries, truths, forecaster.predict(queries), strict=True):
        if not np.isnan(answer).any():
            errors.append(truth.values - answer[:, middle])
            places.append(_horizon(query))
    error, place = np.concatenate(errors), np.concatenate(places)
    offsets = []
    for horizon in range(len(HORIZONS) + 1):
        chosen = error[place == horizon]
        chosen = chosen if len(chosen) else error
        row = np.quantile(chosen, FORECAST_LEVELS) if len(chosen) else np.zeros(_LEVELS)
        # The median stays the forecaster's own, so no band ends on the wrong side of it.
        side = np.sign(np.array(FORECAST_LEVELS) - MEDIAN)
        offsets.append(tuple((side * np.maximum(side * row, 0.0)).tolist()))
    return Residuals(offsets=tuple(offsets))


class Banded:
    """A point forecaster with bands of its residuals around its median."""

    levels = FORECAST_LEVELS

    def __init__(self, forecaster: Forecaster, residuals: Residuals) -> None:
        """Wraps a forecaster; its own bands, if it has any, are dropped."""
        self._inner, self._residuals = forecaster, residuals
        self.name = forecaster.name
        self.sees: Sees = forecaster.sees

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Fits the wrapped forecaster."""
        self._inner.fit(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1] around the wrapped forecaster's median."""
        offsets = np.array(self._residuals.offsets)
        middle = self._inner.levels.index(MEDIAN)
        return [
            np.clip(answer[:, [middle]] + offsets[_horizon(query)], 0.0, 1.0)
            for query, answer in zip(queries, self._inner.predict(queries), strict=True)
        ]


_LEVELS: Final = len(FORECAST_LEVELS)


def _horizon(query: Query) -> IntArray:
    ahead = np.log(query.target_tokens / query.context.tokens[-1])
    return np.searchsorted(HORIZONS, ahead).astype(np.int64)
