"""What sampled futures say: which run is best, whether to stop, when a score is reached, what to
evaluate next. Of every score here higher is better: a metric of which lower is better enters as its
negative (`Scale.oriented`).

`weigh` takes the expected posterior as linear in an observed value (linear Bayes; Goldstein and
Wooff 2007, Bayes Linear Statistics): observing it leaves 1 - r^2 of a final score's variance, r
their correlation, and moves the mean by the regression on it. For a choice between runs its value
is the expected gain of choosing after the evaluation instead of before (expected value of sample
information; Raiffa and Schlaifer 1961, Applied Statistical Decision Theory).
Shapes: R runs, S samples, H targets, E evaluations, n past checkpoints.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.decisions.options import THRESHOLD

Advice = Literal["stop", "go on", "cannot tell"]

RUNNING: Final = 3
"""Number of checkpoints whose mean has to reach a score: one lucky evaluation is not a level."""

_SLACK: Final = 1e-9
"""Means of decimal fractions are not exact."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """`order` of the rows, by expected final score; everything else by row as given.

    `best` (R,) is the probability of being the best run; `beats` (R, R) that the row scores
    higher than the column (ties count half; 0.5 on the diagonal); `regret` (R,) the expected loss
    of accuracy against choosing with hindsight.
    """

    order: tuple[int, ...]
    best: FloatArray
    beats: FloatArray
    regret: FloatArray


def rank(final_RS: FloatArray) -> Ranking:
    """Ranks runs by samples of their final scores, drawn together.

    A tie for the first place is shared. Ordering by the mean has the least expected regret.
    """
    beats = np.array([
        [(mine > other).mean() + 0.5 * (mine == other).mean() for other in final_RS]
        for mine in final_RS
    ])  # fmt: skip
    top = final_RS.max(axis=0)
    first = final_RS == top
    return Ranking(
        order=tuple(int(row) for row in np.argsort(-final_RS.mean(axis=1), kind="stable")),
        best=(first / first.sum(axis=0)).mean(axis=1),
        beats=beats,
        regret=(top - final_RS).mean(axis=1),
    )


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What continuing a run would bring.

    `success` is the probability of reaching the target or beating the rival at the horizon.
    `gain` is the accuracy that the rest of the training is expected to add, `gain_low` to
    `gain_high` its 80 % interval.
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
    may_take_off: bool = False,
) -> Prospect:
    """Compares a run's final score with a goal.

    Args:
        final_S: samples of its final score.
        present: its present score.
        goal: an accuracy, or (S,) samples of a rival's final score, drawn together with these.
        threshold: below this probability of success the advice is to stop.
        may_take_off: whether the samples know nothing of a take-off from chance, so that an
            unlikely success is no reason to stop.
    """
    if np.ndim(goal) == 0:  # a target is reached where it is met; a tie with a rival counts half
        success = float((final_S >= goal).mean())
    else:
        success = float((final_S > goal).mean() + 0.5 * (final_S == goal).mean())
    low, high = np.quantile(final_S - present, [0.1, 0.9])
    unlikely: Advice = "cannot tell" if may_take_off else "stop"
    return Prospect(
        success=success,
        gain=float((final_S - present).mean()),
        gain_low=float(low),
        gain_high=float(high),
        advice=unlikely if success < threshold else "go on",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstPassage:
    """When a score is reached: `tokens` (S,), inf where it is not by the horizon."""

    tokens: FloatArray

    @property
    def never(self) -> float:
        """The probability that it is not reached by the horizon."""
        return float(np.isinf(self.tokens).mean())

    def by(self, tokens: float) -> float:
        """The probability that it is reached at or before `tokens`."""
        return float((self.tokens <= tokens).mean())

    def quantile(self, level: float) -> float:
        """Tokens by which it is reached with probability `level`; inf beyond the horizon."""
        return float(np.quantile(self.tokens, level, method="inverted_cdf"))


def running_mean(values: FloatArray) -> FloatArray:
    """Means of the last `RUNNING` values along the last axis; fewer at the beginning."""
    total = np.cumsum(values, axis=-1)
    before = np.zeros_like(total)
    before[..., RUNNING:] = total[..., :-RUNNING]
    counts = np.minimum(np.arange(1, values.shape[-1] + 1), RUNNING)
    return np.asarray((total - before) / counts)


def reached_at(past: FloatArray, score: float) -> int | None:
    """Index of the first past checkpoint at which the score counts as reached; None if none."""
    there = running_mean(past) >= score - _SLACK
    return int(np.argmax(there)) if there.any() else None


def first_passage(
    past: FloatArray, tokens_H: FloatArray, samples_SH: FloatArray, score: float
) -> FirstPassage:
    """When sampled futures reach a score that the past did not.

    Args:
        past: (n,) past scores; the last ones enter the first running means.
        tokens_H: of the targets.
        samples_SH: sampled futures.
        score: an accuracy.
    """
    tail = past[-(RUNNING - 1) :]
    padded = np.concatenate([np.tile(tail, (len(samples_SH), 1)), samples_SH], axis=1)
    there = running_mean(padded)[:, len(tail) :] >= score - _SLACK
    first = np.argmax(there, axis=1)
    return FirstPassage(tokens=np.where(there.any(axis=1), tokens_H[first], np.inf))


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """What each evaluation is worth.

    `narrowing` (E,) is the fraction by which the standard deviation of its run's final score is
    expected to shrink; `value` (E,) the accuracy that choosing among the runs is expected to
    gain, 0 for one run.
    """

    narrowing: FloatArray
    value: FloatArray


def weigh(final_RS: FloatArray, values_ES: FloatArray, owner_E: IntArray) -> Worth:
    """Weighs evaluations that are still to be made.

    Args:
        final_RS: samples of final scores.
        values_ES: samples of the value of each evaluation, drawn together with the final scores.
        owner_E: the row of the run that each evaluation is of.
    """
    final = final_RS - final_RS.mean(axis=1, keepdims=True)
    values = values_ES - values_ES.mean(axis=1, keepdims=True)
    # A constant has no deviation to divide by; its correlation is then 0.
    unit = values / np.maximum(values.std(axis=1), 1e-12)[:, None]
    slope_ER = unit @ final.T / final.shape[1]
    deviation = np.maximum(final.std(axis=1), 1e-12)
    rows = np.arange(len(owner_E))
    r = np.clip(slope_ER[rows, owner_E] / deviation[owner_E], -1.0, 1.0)
    # Measured against the run that is ahead: exactly 0 where no value would change the choice.
    mean_R = final_RS.mean(axis=1)
    ahead = int(mean_R.argmax())
    behind_R = mean_R - mean_R[ahead]
    value = np.array([
        (behind_R[:, None] + (slope - slope[ahead])[:, None] * z).max(axis=0).mean()
        for slope, z in zip(slope_ER, unit, strict=True)
    ])  # fmt: skip
    return Worth(narrowing=1.0 - np.sqrt(1.0 - r**2), value=value)
