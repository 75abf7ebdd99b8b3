"""Noise of a run's evaluations: how far single scores lie from the run's course.

A score is compared with the line between its neighbours in ln tokens. For noise of variance v that
is alike and independent at all checkpoints, the residual of a score between neighbours with weights
w and 1 - w has the variance v (1 + w^2 + (1 - w)^2).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query

RECENT: Final = 12
"""Scores whose residuals count: the latest, because a course is bent most at its beginning."""

PRIOR: Final = 3.0
"""Residuals of its own at which a task's noise counts as much as that of all tasks of the run."""


def evaluation_noise(queries: Sequence[Query]) -> FloatArray:
    """(N,) standard deviation of the noise of each query's scores; 0 where nothing tells.

    A task with few checkpoints borrows from its siblings: the variance is the mean of its own
    residuals and of those of all tasks of the run, the latter as `PRIOR` residuals.
    """
    found: dict[int, tuple[float, int]] = {}

    def residuals(t: Trajectory) -> tuple[float, int]:
        if id(t) not in found:
            found[id(t)] = _squared_residuals(t)
        return found[id(t)]

    noise = np.zeros(len(queries))
    for i, query in enumerate(queries):
        total, count = residuals(query.context)
        several = [(total, count), *(residuals(t) for t in query.siblings)]
        everyone = sum(n for _, n in several)
        if everyone:
            mean = sum(of for of, _ in several) / everyone
            noise[i] = np.sqrt((total + PRIOR * mean) / (count + PRIOR))
    return noise


def _squared_residuals(t: Trajectory) -> tuple[float, int]:
    """The sum of the latest squared residuals in units of noise variance, and their number."""
    kept = t.tokens > 0
    x, y = np.log(t.tokens[kept])[-RECENT - 2 :], t.values[kept][-RECENT - 2 :]
    if len(x) < 3:
        return 0.0, 0
    before = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
    middle = before * y[:-2] + (1.0 - before) * y[2:]
    squared = (y[1:-1] - middle) ** 2 / (1.0 + before**2 + (1.0 - before) ** 2)
    return float(squared.sum()), len(squared)
