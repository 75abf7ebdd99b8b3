"""Scores of forecasts, item by item: pure NumPy, one number per forecast checkpoint.

An item is one later checkpoint of one trajectory. Shapes: N items, Q quantile levels.
An unanswered item (NaN quantiles) scores NaN; `neuneu.evaluation.aggregation` averages items.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import MEDIAN, pinball

INTERVALS: Final = {50: (0.25, 0.75), 80: (0.1, 0.9), 90: (0.05, 0.95)}
"""Nominal coverage in per cent -> quantile levels that bound the central interval."""


def absolute_error(median: FloatArray, y: FloatArray) -> FloatArray:
    """|y - median|, shape (N,), in the unit of accuracy (0.01 = one point)."""
    return np.asarray(np.abs(y - median))


def mean_pinball(quantiles: FloatArray, y: FloatArray, levels: Sequence[float]) -> FloatArray:
    """Pinball loss averaged over the levels: quantiles (N, Q), y (N,) -> (N,)."""
    return np.asarray(pinball(quantiles, y, np.asarray(levels, dtype=np.float64)).mean(axis=-1))


def interval_score(lower: FloatArray, upper: FloatArray, y: FloatArray, alpha: float) -> FloatArray:
    """Interval score of a central (1 - alpha) interval, (N,); Gneiting and Raftery (2007), eq. 43.

    Width, plus 2 / alpha times the distance by which the outcome lies outside.
    """
    below = np.maximum(lower - y, 0.0)
    above = np.maximum(y - upper, 0.0)
    return np.asarray(upper - lower + (2.0 / alpha) * (below + above))


def weighted_interval_score(
    quantiles: FloatArray, y: FloatArray, levels: Sequence[float]
) -> FloatArray:
    """WIS over K central intervals and the median; Bracher et al. (2021), eq. 1.

    WIS = (0.5 |y - m| + sum_k alpha_k / 2 x IS_alpha_k) / (K + 0.5). Without intervals it
    is the absolute error, as for a forecast whose quantiles all coincide.

    Args:
        quantiles: (N, Q), one column per level.
        y: (N,) outcomes.
        levels: (Q,) levels in pairs around 0.5, such as (0.1, 0.5, 0.9).

    Returns:
        (N,) scores in the unit of accuracy; smaller is better.

    Raises:
        ValueError: levels without 0.5, or one without its mirror image.
    """
    at = {round(level, 6): index for index, level in enumerate(levels)}
    lowers = [level for level in at if level < MEDIAN]
    lonely = [level for level in at if round(1.0 - level, 6) not in at]
    if MEDIAN not in at or lonely:
        raise ValueError(
            f"levels {tuple(levels)}: expected 0.5 and pairs around it, found {lonely or 'no 0.5'}."
        )
    total = 0.5 * absolute_error(quantiles[:, at[MEDIAN]], y)
    for level in lowers:
        lower, upper = quantiles[:, at[level]], quantiles[:, at[round(1.0 - level, 6)]]
        alpha = 2.0 * level
        total = total + alpha / 2.0 * interval_score(lower, upper, y, alpha)
    return np.asarray(total / (len(lowers) + 0.5))


def inside_interval(lower: FloatArray, upper: FloatArray, y: FloatArray) -> FloatArray:
    """1.0 where lower <= y <= upper, 0.0 elsewhere, NaN where a bound is NaN; shape (N,)."""
    inside = ((y >= lower) & (y <= upper)).astype(np.float64)
    return np.where(np.isnan(lower) | np.isnan(upper), np.nan, inside)


def shared_levels(level_sets: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return levels that every interval forecaster gives, in pairs around the median.

    Point forecasters (0.5 only) do not narrow the set: their quantiles coincide, and their WIS is
    the absolute error whatever the levels.
    """
    interval_sets = [{round(v, 6) for v in levels} for levels in level_sets if len(levels) > 1]
    common = set.intersection(*interval_sets) if interval_sets else set()
    paired = {level for level in common if round(1.0 - level, 6) in common}
    return tuple(sorted(paired | {MEDIAN}))
