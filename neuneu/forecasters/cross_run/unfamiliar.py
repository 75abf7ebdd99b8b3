"""Runs of a family that was not learnt from: more cautious answers.

Three things were chosen on dev runs, each family forecast by networks that had learnt from the
other: the general network answers (it was trained without absolute sizes and on made-up curves,
too); where no run of the asked family is there to compare with, the median moves towards the
run's own power law, the more the longer its past; and bands are wider.
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
"""A past of so many checkpoints counts as much as the network."""

SPREAD: Final = 1.6
"""How much wider bands are."""

_NORMAL_80: Final = 2.563
"""The 0.1 to 0.9 band of a normal distribution, in standard deviations."""


def in_company(query: Query, compared: Sequence[Trajectory]) -> bool:
    """Whether any of the trajectories that a query is compared with is of its family."""
    return any(t.family == query.context.family for t in compared)


def cautious(
    query: Query, answer: FloatArray, levels: Sequence[float], *, compared: bool
) -> FloatArray:
    """The quantiles (h, Q) of an unfamiliar run from those of the general network.

    The mixture of network and law has the mean of both, by weight, and besides the network's
    variance that of their disagreement: w (1 - w) d^2.
    """
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
