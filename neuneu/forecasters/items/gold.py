"""Forecasts where only the right answers were scored: `choices` with one request per item.

Without the other choices nobody knows which items are right. But the probabilities of the right
answers move with the accuracy, on some items more than on others: how much is read off finished
runs by kernel ridge regression, on differences within a run, because runs of other sizes have other
levels. What it reads from a context has no noise of which items are near a tie, so that its course
can be continued; the level is that of the run's own accuracies.
Shapes: n checkpoints, D items, h targets, N checkpoints of all finished runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, FloatArray32
from neuneu.data.choice_metrics import item_starts
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.cases import ROUNDING, TaskItems, context_length, items_of
from neuneu.forecasters.protocol import Query, Sees

RIDGE: Final = 0.3
"""Penalty in units of the mean eigenvalue. From 0.3 to 1 made no difference on Gemstones."""

TREND: Final = 3.0
"""e-folding distance in ln tokens of the weights of the course that is continued."""

MAX_ITEMS: Final = 3000
"""Items that are read at most, evenly spread: more of them hardly change a mean."""

LEVEL_POINTS: Final = 7
"""Checkpoints of the context whose mean accuracy is the level."""

_SHRINKAGE: Final = 1e-3
_UNKNOWN: Final = 0.02**2
_NORMAL: Final = np.array((-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449))


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldCourse:
    """One run: ln tokens (n,), accuracies (n,) and probabilities of right answers (n, D)."""

    run: str
    ln_tokens: FloatArray
    values: FloatArray
    chances: FloatArray32

    def __len__(self) -> int:
        """The number of checkpoints n."""
        return len(self.ln_tokens)

    def until(self, end: int) -> "GoldCourse":
        """Keep the first `end` checkpoints."""
        return GoldCourse(
            run=self.run, ln_tokens=self.ln_tokens[:end], values=self.values[:end],
            chances=self.chances[:end],
        )  # fmt: skip


def gold_course(trajectory: Trajectory) -> GoldCourse | None:
    """Return the course of a trajectory; None without choices of all its checkpoints."""
    trained = trajectory.without_step_zero()
    choices = trained.choices
    if choices is None or not len(trained) or not np.array_equal(choices.steps, trained.steps):
        return None
    items = choices.items
    right = item_starts(items.docs) + items.labels
    right = right[:: -(-len(right) // MAX_ITEMS)]
    return GoldCourse(
        run=trained.run,
        ln_tokens=np.log(trained.tokens),
        values=trained.values,
        chances=np.exp(np.asarray(choices.logprobs[:, right], np.float32)),
    )


class GoldForecaster:
    """Continues the course of an accuracy as the right answers' probabilities tell it.

    Without finished runs on the same items there is no answer (NaN).
    """

    name = "gold"
    sees: Sees = "reference"
    levels = FORECAST_LEVELS

    def __init__(self) -> None:
        self._known: dict[TaskItems, list[GoldCourse]] = {}
        self._variances: dict[tuple[TaskItems, float], tuple[float, float]] = {}

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs with choices."""
        self._known, self._variances = {}, {}
        for trajectory in references:
            course = gold_course(trajectory)
            if course is not None:
                self._known.setdefault(items_of(trajectory), []).append(course)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1]; NaN without choices or finished runs on the same items."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        unknown = np.full((len(query.target_steps), len(self.levels)), np.nan)
        context = gold_course(query.context)
        if context is None:
            return unknown
        known = [c for c in self._known.get(items_of(query.context), ()) if c.run != context.run]
        if not known:
            return unknown
        ln_targets = np.log(query.target_tokens)
        distances = ln_targets - context.ln_tokens[-1]
        middle = continued(context, known, ln_targets)
        key = items_of(query.context), round(float(distances[-1]), 1)
        if key not in self._variances:
            self._variances[key] = error_variance(known, float(np.exp(-key[1])))
        floor, slope = self._variances[key]
        spread = np.sqrt(floor + slope * distances)
        return np.clip(middle[:, None] + spread[:, None] * _NORMAL, 0.0, 1.0)


def continued(
    context: GoldCourse, finished: Sequence[GoldCourse], ln_targets: FloatArray
) -> FloatArray:
    """Return the accuracy (h,) at targets: the context's level, and its continued course."""
    level, course = read_course(context, finished)
    weights = np.exp((context.ln_tokens - context.ln_tokens[-1]) / TREND)
    weights /= weights.sum()
    middle = weights @ context.ln_tokens
    centred = context.ln_tokens - middle
    slope = (weights * centred) @ course / (weights @ centred**2 + _SHRINKAGE)
    return np.asarray(level + weights @ course + slope * (ln_targets - middle))


def read_course(context: GoldCourse, finished: Sequence[GoldCourse]) -> tuple[float, FloatArray]:
    """Return the level of a context and by how much each checkpoint (n,) differs from it.

    The differences are read from the right answers alone.
    """
    ln_now = float(context.ln_tokens[-1])
    level, inputs = _differences(context, len(context))
    known = [_differences(run, _length_until(run, ln_now)) for run in finished]
    x = np.concatenate([differences for _, differences in known])
    y = np.concatenate([r.values - mean for r, (mean, _) in zip(finished, known, strict=True)])
    kernel = x @ x.T
    scale = max(float(np.trace(kernel)) / len(kernel), 1e-12)
    weights = np.linalg.solve(kernel / scale + RIDGE * np.eye(len(kernel)), y)
    return level, np.asarray((inputs @ x.T) / scale @ weights, np.float64)


def _differences(course: GoldCourse, end: int) -> tuple[float, FloatArray32]:
    """Mean accuracy of the last checkpoints before `end`; chances (n, D) minus theirs."""
    start = max(end - LEVEL_POINTS, 0)
    return float(course.values[start:end].mean()), course.chances - course.chances[start:end].mean(
        axis=0
    )


def _length_until(course: GoldCourse, ln_tokens: float) -> int:
    return max(int(np.searchsorted(course.ln_tokens, ln_tokens + ROUNDING, side="right")), 1)


def error_variance(finished: Sequence[GoldCourse], share: float) -> tuple[float, float]:
    """Return intercept and slope over the distance of the squared error of forecasts.

    Of finished runs from a share of their tokens, each from the others; from itself if there is
    one only.
    """
    squares, steps = [], []
    for index, course in enumerate(finished):
        others = [other for place, other in enumerate(finished) if place != index] or [course]
        end = context_length(course.ln_tokens, share)
        if end < len(course):
            ahead = course.ln_tokens[end:]
            errors = course.values[end:] - continued(course.until(end), others, ahead)
            squares.append(errors**2)
            steps.append(ahead - course.ln_tokens[end - 1])
    if not squares:
        return _UNKNOWN, 0.0
    square, step = np.concatenate(squares), np.concatenate(steps)
    floor = float(np.mean(square[step <= np.median(step)])) / 2
    return floor, max(float(step @ (square - floor) / (step @ step)), 0.0)
