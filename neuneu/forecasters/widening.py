"""Intervals that know the noise of a run's evaluations (`noise.evaluation_noise`).

A forecast of a score has two parts: where the run will stand, which the network answers, and how
far the score will lie from there. Families differ most in the second: a task of 100 items scatters
as no task of 10,000 does. So the distance of a quantile from the median becomes
sqrt((scale * distance)^2 + (share * z * noise)^2), with z the standard normal score of its level.
Shapes: N targets, Q levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import MEDIAN, pinball

SCALES: Final = np.geomspace(0.2, 1.3, 12)
SHARES: Final = np.concatenate([[0.0], np.geomspace(0.4, 3.0, 10)])
"""Candidates; the loss is flat around its minimum."""

SAMPLE: Final = 8000
"""Targets on which candidates are compared, drawn by their weights."""

MEASURED: Final = 0.5
"""Groups in which less of the weight has a known noise are only scaled."""


@dataclass(frozen=True, kw_only=True)
class Widening:
    """`scale` of the network's distances from the median, and `share` of the noise beside them."""

    scale: float = 1.0
    share: float = 0.0


def widen(
    quantiles_NQ: FloatArray,
    levels: Sequence[float],
    noise_N: FloatArray,
    scale_N: FloatArray | float,
    share_N: FloatArray | float,
) -> FloatArray:
    """(N, Q) quantiles with the same median, not clipped to [0, 1].

    Args:
        quantiles_NQ: as a network gives them.
        levels: of their columns.
        noise_N: standard deviation of the noise of each target's series; 0 where unknown.
        scale_N: see `Widening`.
        share_N: as `scale_N`.
    """
    middle = quantiles_NQ[:, [list(levels).index(MEDIAN)]]
    side = np.sign(np.array(levels) - MEDIAN)
    z = np.array([abs(NormalDist().inv_cdf(level)) for level in levels])
    own = np.broadcast_to(scale_N, noise_N.shape)[:, None] * np.abs(quantiles_NQ - middle)
    scatter = (np.broadcast_to(share_N, noise_N.shape) * noise_N)[:, None] * z
    return np.asarray(middle + side * np.hypot(own, scatter))


def fit_widening(
    quantiles_NQ: FloatArray,
    outcomes_N: FloatArray,
    noise_N: FloatArray,
    levels: Sequence[float],
    weights_N: FloatArray,
) -> Widening:
    """The candidate of least pinball loss.

    Args:
        quantiles_NQ: as a network gives them.
        outcomes_N: what came.
        noise_N: as `widen`.
        levels: of the columns.
        weights_N: positive.
    """
    generator = np.random.default_rng(0)
    weight = weights_N / weights_N.sum()
    drawn = generator.choice(len(weight), size=min(SAMPLE, 4 * len(weight)), p=weight)
    q, y, noise = quantiles_NQ[drawn], outcomes_N[drawn], noise_N[drawn]
    shares = SHARES if weight[noise_N > 0].sum() > MEASURED else SHARES[:1]

    def loss(widening: Widening) -> float:
        moved = widen(q, levels, noise, widening.scale, widening.share)
        return float(pinball(moved, y, np.array(levels)).mean())

    return min((Widening(scale=float(a), share=float(c)) for a in SCALES for c in shares), key=loss)
