"""The course of a task's items over training: what is read from the margins of one run.

Margins are in units of their own spread (`scale`), so that tasks, metrics and families can share
one model. Shapes: n checkpoints, D items, h targets.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, FloatArray32, IntArray
from neuneu.data.choices import Choices
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.margins import gold_logprobs, has_margins, item_margins

RECENT: Final = 0.5
"""e-folding distance in ln tokens of the weights of a recent mean."""

TREND: Final = 1.5
"""e-folding distance in ln tokens of the weights of a slope."""

SHRINKAGE: Final = 0.05
"""Added to the weighted variance of ln tokens, so that two checkpoints make no steep slope."""

_SMALLEST_SCALE: Final = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """One run on the items of one task, without step 0.

    `ln_tokens` (n,); `margins` (n, D) in units of their spread at the last checkpoint; `gold`
    (n, D) log-probabilities of the right choices in nats per token.
    """

    params: float
    ln_tokens: FloatArray
    margins: FloatArray32
    gold: FloatArray32

    def __len__(self) -> int:
        """The number of checkpoints n."""
        return len(self.ln_tokens)

    @property
    def squashed(self) -> FloatArray32:
        """(n, D) margins within -1 and 1, of which an outlier is no more than sure."""
        return np.tanh(self.margins)

    @property
    def right(self) -> FloatArray32:
        """(n, D) 1 where an item is right, else 0."""
        return (self.margins > 0).astype(np.float32)

    def until(self, end: int) -> "Course":
        """Keep the first `end` checkpoints, in units of the spread at the last of them."""
        margins = self.margins[:end]
        return replace(
            self,
            ln_tokens=self.ln_tokens[:end],
            margins=margins / _scale(margins[-1]),
            gold=self.gold[:end],
        )

    def of_items(self, items: IntArray) -> "Course":
        """Keep some items, given by their indices."""
        return replace(self, margins=self.margins[:, items], gold=self.gold[:, items])


def course_of(trajectory: Trajectory) -> Course | None:
    """Return the course of a trajectory's items; None without choices of its metric."""
    choices = trajectory.choices
    if choices is None or not has_margins(choices, trajectory.metric):
        return None
    choices = _trained(choices)
    if not len(choices):
        return None
    margins = item_margins(choices, trajectory.metric)
    return Course(
        params=trajectory.params,
        ln_tokens=np.log(choices.tokens),
        margins=margins / _scale(margins[-1]),
        gold=gold_logprobs(choices),
    )


def recent_weights(ln_tokens: FloatArray, reach: float) -> FloatArray:
    """Return weights (n,) that fall by e per `reach` before the last checkpoint; their sum is 1."""
    weights = np.exp((ln_tokens - ln_tokens[-1]) / reach)
    return weights / weights.sum()


def slopes(values: FloatArray32, ln_tokens: FloatArray) -> FloatArray32:
    """Return slopes (D,) of values (n, D) per unit of ln tokens, by weighted least squares.

    They are shrunk to 0 where checkpoints are few or close together, and 0 for a single one.
    """
    weights = recent_weights(ln_tokens, TREND)
    centred = ln_tokens - weights @ ln_tokens
    spread = weights @ centred**2 + SHRINKAGE
    return ((weights * centred / spread).astype(np.float32)) @ values


def at(course: Course, values: FloatArray32, ln_tokens: float) -> FloatArray32:
    """Return values (n, D) at a number of tokens, linear in between, constant outside."""
    place = float(np.interp(ln_tokens, course.ln_tokens, np.arange(len(course))))
    low = int(place)
    share = np.float32(place - low)
    if share == 0:
        return values[low]
    return (1 - share) * values[low] + share * values[low + 1]


def _scale(margins: FloatArray32) -> np.float32:
    """Root mean square of margins (D,), as if none were 0."""
    return np.float32(max(np.sqrt(np.mean(np.square(margins, dtype=np.float64))), _SMALLEST_SCALE))


def _trained(choices: Choices) -> Choices:
    first = int(np.searchsorted(choices.tokens, 0.0, side="right"))
    if first == 0:
        return choices
    return (
        choices.between(int(choices.steps[first]), int(choices.steps[-1]))
        if first < len(choices)
        else choices.between(0, -1)
    )
