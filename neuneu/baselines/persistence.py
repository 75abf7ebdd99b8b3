"""Persistence: the last observed accuracy stays. The baseline that no paper may skip."""

from collections.abc import Sequence

import numpy as np

from neuneu.forecaster import Query, Sees
from neuneu.trajectories import FloatArray, Trajectory


class Persistence:
    """Forecasts the last value of the context for every later checkpoint."""

    name = "persistence"
    sees: Sees = "own"
    levels = (0.5,)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Learns nothing: persistence looks at the run itself only."""

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query; an empty context is unanswered (NaN)."""
        return [
            np.full(
                (len(query.target_steps), 1),
                query.context.values[-1] if len(query.context) else np.nan,
            )
            for query in queries
        ]
