"""Where the margins of a run's items go by their own course: what is known without relatives.

A margin moves on by its slope in ln tokens, less and less the farther it is projected, and what it
will be at one checkpoint scatters as it did between the last ones. An accuracy changes by the items
that this carries across zero. Shapes: n checkpoints, D items, h targets.
"""

from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, FloatArray32
from neuneu.forecasters.items.courses import RECENT, Course, recent_weights, slopes

DRIFT: Final = 0.8
"""Share of a slope that continues: slopes are noisy, and learning slows down."""

DOUBT: Final = 4.0
"""Of n checkpoints a share n / (n + 4) of the slope is believed: that of a run's first steps says
nothing of the rest."""

REACH: Final = 2.0
"""e-folding distance in ln tokens of a slope. On the study's ladder anything from 1 to no limit is
within 0.02 points of accuracy, as are shares from 0.6 to 1."""

JITTER: Final = 0.75
"""Scatter of an item in units of that between checkpoints, which its trend contributes to."""

_PROBIT: Final = 1.702
"""The logistic function of 1.702 z is within 0.01 of the normal distribution (Camilli 1994)."""

_LAST: Final = 4
_SMALLEST: Final = 1e-3


def ahead(distances: FloatArray) -> FloatArray:
    """Return how far slopes carry (h,) over distances in ln tokens."""
    return np.asarray(REACH * (1.0 - np.exp(-distances / REACH)))


def project(context: Course, distances: FloatArray) -> FloatArray32:
    """Return the log-odds (h, D) that each item is right at distances (h,) in ln tokens."""
    level = recent_weights(context.ln_tokens, RECENT).astype(np.float32) @ context.margins
    believed = DRIFT * len(context) / (len(context) + DOUBT)
    drift = np.float32(believed) * slopes(context.margins, context.ln_tokens)
    moved = level + ahead(distances)[:, None].astype(np.float32) * drift
    return (np.float32(_PROBIT) / jitter(context)) * moved


def projected_accuracy(context: Course, distances: FloatArray) -> FloatArray:
    """Return the accuracy (h,) at distances (h,): the last one plus the change of all chances."""
    now = float(context.right[-1].mean(dtype=np.float64))
    soft = _sigmoid(project(context, np.append(distances, 0.0))).mean(axis=1, dtype=np.float64)
    return np.clip(now + soft[:-1] - soft[-1], 0.0, 1.0)


def jitter(context: Course) -> np.float32:
    """Return by how much a margin scatters at one checkpoint, in units of the margins."""
    if len(context) < 2:
        return np.float32(1.0)
    steps = np.diff(context.margins[-_LAST:], axis=0)
    scatter = np.sqrt(np.mean(np.square(steps, dtype=np.float64)) / 2)
    return np.float32(max(JITTER * float(scatter), _SMALLEST))


def shifted(log_odds: FloatArray32, means: FloatArray) -> FloatArray32:
    """Return probabilities (h, D) of log-odds (h, D), moved together to means (h,).

    By bisection: what an accuracy says about all items, without changing their order.
    """
    low, high = np.full(len(means), -40.0), np.full(len(means), 40.0)
    for _ in range(30):
        middle = (low + high) / 2
        chances = _sigmoid(log_odds + middle[:, None].astype(np.float32))
        below = chances.mean(axis=1, dtype=np.float64) < means
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return _sigmoid(log_odds + ((low + high) / 2)[:, None].astype(np.float32))


def _sigmoid(values: FloatArray32) -> FloatArray32:
    return (1.0 / (1.0 + np.exp(-np.clip(values, -60, 60)))).astype(np.float32)
