"""Nearest analogue: what the most similar finished run did on the same task, shifted.

The forecast is the run's present level plus the other run's change between the same two numbers
of training tokens; where the other run ended earlier, its last value counts.
"""

from collections.abc import Sequence

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.own_past import LAST
from neuneu.forecasters.cross_run.curves import Codes, Curves, at, build_curves
from neuneu.forecasters.cross_run.references import (
    NONE,
    candidates,
    distances,
    index_references,
    nearest,
)
from neuneu.forecasters.protocol import Query, Sees


class NearestAnalogue:
    """Adds the change of the closest finished run (suite, size, length) to the present level."""

    name = "nearest-analogue"
    sees: Sees = "reference"
    levels = (0.5,)

    def __init__(self) -> None:
        """An analogue without references, which answers nothing yet."""
        self._codes = Codes()
        self._library: Curves = build_curves([], self._codes)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Keeps finished runs."""
        usable = [t for t in references if len(t.without_step_zero())]
        self._library = build_curves(usable, self._codes)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within [0, 1]; NaN where no other run has the task."""
        answers = [np.full((len(query.target_steps), 1), np.nan) for query in queries]
        answerable = [
            i for i, query in enumerate(queries) if len(query.context.without_step_zero())
        ]
        if not answerable or not len(self._library):
            return answers
        contexts = build_curves([queries[i].context for i in answerable], self._codes)
        rows = np.arange(len(answerable))
        found = candidates(index_references(self._library), contexts, rows)
        best = nearest(found, distances(self._library, found, contexts, rows), 1)[:, 0]
        for row, i in enumerate(answerable):
            if best[row] == NONE:
                continue
            level = queries[i].context.values[-LAST:].mean()
            then, now = np.log(queries[i].target_tokens), contexts.last[row]
            change = at(self._library.grid, best[row], then) - at(
                self._library.grid, best[row], now
            )
            answers[i] = np.clip(level + change, 0.0, 1.0)[:, None]
        return answers
