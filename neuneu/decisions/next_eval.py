"""Which evaluation would narrow the answer most for its cost.

The answer is the score of one run at the end, or which of several runs will be best. Evaluating a
checkpoint on a task shows a value that moves together with the ends. With samples of both, the
expected posterior is taken as linear in what is seen (linear Bayes; Goldstein and Wooff 2007,
Bayes Linear Statistics): observing a value leaves 1 - r^2 of an end's variance, r their
correlation, and moves the mean by the regression on it. For a choice between runs the worth is
the expected gain of choosing after the evaluation instead of before (expected value of sample
information; Raiffa and Schlaifer 1961, Applied Statistical Decision Theory).
Shapes: R runs, S samples, E evaluations.
"""

from dataclasses import dataclass

import numpy as np

from neuneu.data.trajectories import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """What each of E evaluations is worth.

    `narrowing` (E,) is the share by which the standard deviation of an end is expected to shrink
    (of the run that it is of); `value` (E,) the accuracy that choosing among the runs is
    expected to gain by it, 0 for one run.
    """

    narrowing: FloatArray
    value: FloatArray


def weigh(final_RS: FloatArray, seen_ES: FloatArray, owner_E: IntArray) -> Worth:
    """Weighs evaluations that were not made yet.

    Args:
        final_RS: samples of the ends.
        seen_ES: samples of what each evaluation would show, drawn together with the ends.
        owner_E: the row of the run that each evaluation is of.
    """
    ends = final_RS - final_RS.mean(axis=1, keepdims=True)
    shown = seen_ES - seen_ES.mean(axis=1, keepdims=True)
    spread = np.maximum(shown.std(axis=1), 1e-12)
    unit = shown / spread[:, None]
    slope_ER = unit @ ends.T / ends.shape[1]
    deviation = np.maximum(ends.std(axis=1), 1e-12)
    rows = np.arange(len(owner_E))
    r = np.clip(slope_ER[rows, owner_E] / deviation[owner_E], -1.0, 1.0)
    # Against the run that is ahead now: exactly 0 where no value seen would change the choice.
    mean_R = final_RS.mean(axis=1)
    ahead = int(mean_R.argmax())
    behind_R = mean_R - mean_R[ahead]
    value = np.array(
        [
            (behind_R[:, None] + (slope - slope[ahead])[:, None] * z).max(axis=0).mean()
            for slope, z in zip(slope_ER, unit, strict=True)
        ]
    )
    return Worth(narrowing=1.0 - np.sqrt(1.0 - r**2), value=value)
