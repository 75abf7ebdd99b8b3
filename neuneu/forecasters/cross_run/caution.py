"""More cautious answers for runs of a family that was not trained on.

Three things were chosen on development runs, each family forecast by networks trained on the
other: the general network answers (it was trained without absolute sizes, and on synthetic curves
too); without a reference of the same family, the median moves towards the run's own power law,
the more the longer its context; and intervals are wider.
Shapes: h targets, Q levels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import FloatArray, Trajectory
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.protocol import Query

LAW_POINTS: Final = 12.0
"""Number of checkpoints at which the power law counts as much as the network."""

SPREAD: Final = 1.6
"""Factor by which intervals are wider."""

_NORMAL_80: Final = 2.563
"""Width of the 0.1 to 0.9 interval of a normal distribution, in standard deviations."""


def cautious(
    query: Query, answer: FloatArray, levels: Sequence[float], references: Sequence[Trajectory]
) -> FloatArray:
    """The quantiles (h, Q) of a run of an unseen family from those of the general network.

    The mixture of network and power law has the weighted mean of both, and, besides the network's
    variance, that of their disagreement d: w (1 - w) d^2.
    """
    compared = any(t.family == query.context.family for t in references)
    middle = list(levels).index(MEDIAN)
    median = answer[:, [middle]]
    if compared:
        return np.clip(median + SPREAD * (answer - median), 0.0, 1.0)
    trained = query.context.without_step_zero()
    (law,) = PowerLaw().predict([replace(query, context=trained)])
    weight = len(trained) / (len(trained) + LAW_POINTS)
    apart = law - median
    low, high = (int(np.argmin(np.abs(np.array(levels) - level))) for level in (0.1, 0.9))
    deviation = np.maximum((answer[:, [high]] - answer[:, [low]]) / _NORMAL_80, 1e-4)
    wider = SPREAD * np.sqrt(1.0 + weight * (1.0 - weight) * (apart / deviation) ** 2)
    moved = median + weight * apart + wider * (answer - median)
    return np.clip(moved, 0.0, 1.0)
