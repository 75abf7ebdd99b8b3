"""Baselines that extrapolate the run's own past.

Persistence (the last value stays) is the baseline that no study may skip.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query, Sees

LAST: Final = 3
"""Number of last values to average: less noise than one, hardly more lag."""

LINE_POINTS: Final = 8
"""Number of last points that the line is fitted to."""


class RecentMean:
    """Forecasts the mean of the last values for every later checkpoint; of one: persistence."""

    sees: Sees = "own"
    levels = (0.5,)

    def __init__(self, name: str = "recent-mean", *, last: int = LAST) -> None:
        """`last` values are averaged."""
        self.name, self._last = name, last

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Does nothing."""

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query; an empty context is unanswered (NaN)."""
        return [
            np.full(
                (len(query.target_steps), 1),
                query.context.values[-self._last :].mean() if len(query.context) else np.nan,
            )
            for query in queries
        ]


class LogTokenLine:
    """Extrapolates the least-squares line of the last eight values in ln tokens."""

    name = "log-token-line"
    sees: Sees = "own"
    levels = (0.5,)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Does nothing: the line is fitted on each query's own context."""

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within bounds; one point is repeated, none is NaN."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        context = query.context
        if len(context) < 2:
            last = context.values[-1] if len(context) else np.nan
            return np.full((len(query.target_steps), 1), last)
        x = np.log(context.tokens[-LINE_POINTS:])
        y = context.values[-LINE_POINTS:]
        slope, level = np.polyfit(x - x[-1], y, 1)
        line = level + slope * (np.log(query.target_tokens) - x[-1])
        return context.scale.clip(line)[:, None]
