"""Whether a run should go on: will it reach a target or beat a rival, and what does the rest buy?

Shapes: S samples.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from neuneu.data.trajectories import FloatArray

THRESHOLD: Final = 0.1
"""A run whose probability of success is below this should be stopped, unless told otherwise."""

Advice = Literal["stop", "go on"]


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What going on promises.

    `success` is the probability of reaching the target or beating the rival at the end. `gain`
    is the accuracy that the rest of the training is expected to add, `gain_low` and `gain_high`
    its 80 % band.
    """

    success: float
    gain: float
    gain_low: float
    gain_high: float
    advice: Advice


def prospect(
    final_S: FloatArray,
    present: float,
    goal: float | FloatArray,
    *,
    threshold: float = THRESHOLD,
) -> Prospect:
    """Weighs a run's end against a goal.

    Args:
        final_S: samples of its score at the end.
        present: its score now.
        goal: an accuracy, or (S,) samples of a rival's end drawn together with these.
        threshold: below this probability of success the advice is to stop.
    """
    success = float((final_S > goal).mean() + 0.5 * (final_S == goal).mean())
    if np.ndim(goal) == 0:  # a target is reached where it is met, a rival is beaten or not
        success = float((final_S >= goal).mean())
    low, high = np.quantile(final_S - present, [0.1, 0.9])
    return Prospect(
        success=success,
        gain=float((final_S - present).mean()),
        gain_low=float(low),
        gain_high=float(high),
        advice="stop" if success < threshold else "go on",
    )
