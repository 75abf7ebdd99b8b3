"""When a run will reach a score: first passage of sampled futures.

A score counts as reached at a checkpoint when the mean of the last three checkpoints is at least
that high: one lucky evaluation is not a level. Shapes: S samples, H places, n past checkpoints.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.trajectories import FloatArray

RUNNING: Final = 3
"""Checkpoints whose mean has to reach the score."""

_SLACK: Final = 1e-9
"""Means of decimal fractions are not exact."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstPassage:
    """When the score is reached: `tokens` (S,), inf where it is not within the horizon."""

    tokens: FloatArray

    @property
    def never(self) -> float:
        """The probability that it is not reached within the horizon."""
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


def reached(past: FloatArray, score: float) -> int | None:
    """The first of the past checkpoints at which the score counted as reached."""
    there = running_mean(past) >= score - _SLACK
    return int(np.argmax(there)) if there.any() else None


def first_passage(
    past: FloatArray, tokens_H: FloatArray, samples_SH: FloatArray, score: float
) -> FirstPassage:
    """When sampled futures reach a score that the past has not.

    Args:
        past: (n,) what was scored before; its last values belong to the first running means.
        tokens_H: of the places.
        samples_SH: futures.
        score: accuracy.
    """
    tail = past[-(RUNNING - 1) :]
    padded = np.concatenate([np.tile(tail, (len(samples_SH), 1)), samples_SH], axis=1)
    there = running_mean(padded)[:, len(tail) :] >= score - _SLACK
    first = np.argmax(there, axis=1)
    return FirstPassage(tokens=np.where(there.any(axis=1), tokens_H[first], np.inf))
