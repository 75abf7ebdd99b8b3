"""What the probability that an item is right at a target is computed from.

Shapes: D items, h targets, F features, R reference runs.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, FloatArray32
from neuneu.forecasters.items.courses import RECENT, Course, at, recent_weights, slopes
from neuneu.forecasters.items.projection import project, projected_accuracy

OWN: Final = (
    "constant",
    "distance",  # ln tokens from the context to the target
    "accuracy",  # log-odds of the recent accuracy of the task
    "accuracy x distance",
    "accuracy trend",  # slope of the accuracy, times the distance
    "margin trend of the task",
    "now",  # the item's margin at the last checkpoint, squashed
    "recent",  # the same, recent mean
    "recent, unsquashed",
    "right",  # share of the recent checkpoints at which it was right, -1 to 1
    "trend",  # slope of the item's margin, times the distance
    "now x distance",
    "recent x distance",
    "right x distance",
    "gold",  # log-probability of the right choice, relative to the other items
    "gold trend",
    "recent squared",
    "projected",  # log-odds by the item's own course (`projection`)
    "projected accuracy",  # log-odds of the accuracy by the course of all items
)
"""Names of the features of a run's own past."""

RELATIVES: Final = (
    "relatives' accuracy",  # log-odds at the target's tokens
    "relatives' gain",  # change of their accuracy from the context's end to the target
    "relatives' margin",  # of this item at the target, squashed
    "relatives' margin now",
    "relatives right",  # how often they have this item right at the target, -1 to 1
    "relatives' margin x distance",
)
"""Names of the features of finished runs on the same items."""


def features(
    context: Course, relatives: Sequence[Course], ln_targets: FloatArray
) -> npt.NDArray[np.float32]:
    """Return features (h, D, F): `OWN`, and `RELATIVES` if there are any.

    Args:
        context: The observed past, with at least one checkpoint.
        relatives: Finished runs on the same items in the same order.
        ln_targets: (h,) ln tokens of the targets.
    """
    ln_now = context.ln_tokens[-1]
    item_count = context.margins.shape[1]
    own = _Own(context)
    near = [_nearness(context, relative) for relative in relatives]
    shares = (np.array(near) / np.sum(near)).astype(np.float32) if near else np.zeros(0, np.float32)
    known = [(r, r.squashed, r.right) for r in relatives]
    margins_now = _mean([at(r, squashed, ln_now) for r, squashed, _ in known], shares)
    accuracy_now = [float(at(r, right, ln_now).mean()) for r, _, right in known]
    names = (*OWN, *RELATIVES) if relatives else OWN
    table = np.empty((len(ln_targets), item_count, len(names)), np.float32)
    for row, ln_target in enumerate(ln_targets):
        columns = own.columns(float(ln_target - ln_now))
        if relatives:
            margin = _mean([at(r, squashed, ln_target) for r, squashed, _ in known], shares)
            right = _mean([at(r, right, ln_target) for r, _, right in known], shares)
            accuracy = float(right.mean())
            columns += [
                log_odds(accuracy, item_count),
                4 * (accuracy - float(shares @ np.array(accuracy_now))),
                margin,
                margins_now,
                2 * right - 1,
                margin * np.float32(ln_target - ln_now),
            ]
        for column, values in enumerate(columns):
            table[row, :, column] = values
    return table


def log_odds(accuracy: float, items: int) -> float:
    """Return the log-odds of an accuracy of a number of items, finite at 0 and 1."""
    share = (accuracy * items + 0.5) / (items + 1.0)
    return float(np.log(share / (1.0 - share)))


class _Own:
    """What does not depend on the target."""

    def __init__(self, context: Course) -> None:
        self._items = context.margins.shape[1]
        weights = recent_weights(context.ln_tokens, RECENT).astype(np.float32)
        squashed, right = context.squashed, context.right
        self.now = squashed[-1]
        self.recent = weights @ squashed
        self.plain = np.clip(weights @ context.margins, -4, 4)
        self.right = 2 * (weights @ right) - 1
        self.accuracy = log_odds(float((weights @ right).mean()), self._items)
        self.trend = slopes(squashed, context.ln_tokens)
        accuracies = right.mean(axis=1, dtype=np.float64)[:, None].astype(np.float32)
        self.accuracy_trend = 4 * float(slopes(accuracies, context.ln_tokens)[0])
        gold = weights @ context.gold
        spread = max(float(gold.std()), 1e-6)
        self.gold = np.clip((gold - gold.mean()) / spread, -3, 3)
        trend = slopes(context.gold, context.ln_tokens)
        self.gold_trend = np.clip(trend / spread, -3, 3)
        self._context = context

    def columns(self, distance: float) -> list[FloatArray32 | float]:
        """Return the features `OWN` at a distance in ln tokens, (D,) or one number each."""
        ahead = np.float32(distance)
        return [
            1.0,
            distance,
            self.accuracy,
            self.accuracy * distance,
            self.accuracy_trend * distance,
            float(self.trend.mean()) * distance,
            self.now,
            self.recent,
            self.plain,
            self.right,
            self.trend * ahead,
            self.now * ahead,
            self.recent * ahead,
            self.right * ahead,
            self.gold,
            self.gold_trend * ahead,
            self.recent * np.abs(self.recent),
            np.clip(project(self._context, np.array([distance]))[0], -6, 6),
            log_odds(projected_accuracy(self._context, np.array([distance]))[0], self._items),
        ]


def _nearness(context: Course, relative: Course) -> float:
    """How much a relative counts: less by half where it has twice or half the parameters."""
    ratio = abs(np.log2(relative.params / context.params))
    return float(0.5**ratio) if np.isfinite(ratio) else 0.5


def _mean(values: Sequence[FloatArray32], shares: FloatArray32) -> FloatArray32:
    """Weighted mean of (D,) arrays; of none, an empty array."""
    if not values:
        return np.zeros(0, np.float32)
    return np.einsum("r,rd->d", shares, np.stack(values)).astype(np.float32)
