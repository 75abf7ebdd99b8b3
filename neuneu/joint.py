"""Coherent futures: samples of whole trajectories whose margins are the forecast quantiles.

A forecast that is too high at one checkpoint is too high at the next. Margins alone do not say
so, and a mean over checkpoints, a first passage or a difference of two runs needs it. Each
target's outcome is put on the scale of a standard normal by its forecast distribution; those
scores are taken for a Gaussian process in ln tokens with an exponential covariance plus noise
(a Gaussian copula; Nelsen 2006, An Introduction to Copulas), whose two parameters are fitted to
the scores of runs that the forecaster had not learnt from.
Shapes: N targets, Q levels, H targets of one query, S samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neuneu.errors import DataError
from neuneu.trajectories import FloatArray, IntArray

LARGEST_SCORE: Final = 2.6
"""Outcomes beyond the forecast distribution count as this many standard deviations."""

_LAGS: Final = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
_RANGES: Final = np.geomspace(0.05, 50.0, 61)
_PAIRS: Final = 200
"""Of a trajectory at most so many pairs of targets are read."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How scores move together: correlation (1 - noise) exp(-d / reach) at distance d > 0.

    `reach` is in ln tokens; `noise` is the share of the variance that is a checkpoint's own.
    """

    reach: float
    noise: float

    def correlation(self, x_H: FloatArray) -> FloatArray:
        """(H, H) correlation of the scores of targets at ln tokens `x_H`."""
        distance = np.abs(x_H[:, None] - x_H[None, :])
        shared = (1.0 - self.noise) * np.exp(-distance / self.reach)
        np.fill_diagonal(shared, 1.0)
        return shared

    def to_json(self) -> dict[str, float]:
        """JSON types; `Joint.from_json` reads them."""
        return {"reach": self.reach, "noise": self.noise}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Joint":
        """What `to_json` gave.

        Raises:
            DataError: something else.
        """
        try:
            return cls(reach=float(record["reach"]), noise=float(record["noise"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a joint distribution: {error}.") from error


def scores(quantiles_NQ: FloatArray, levels: tuple[float, ...], y: FloatArray) -> FloatArray:
    """(N,) standard normal scores of outcomes under their forecast distributions."""
    places, values = _support(quantiles_NQ, levels)
    # Flat pieces of a distribution would make the inverse ambiguous; a hair of slope mends it.
    values = values + 1e-9 * np.arange(values.shape[1])
    above = np.clip((values < y[:, None]).sum(axis=1), 1, values.shape[1] - 1)
    rows = np.arange(len(y))
    low, high = values[rows, above - 1], values[rows, above]
    share = np.clip((y - low) / (high - low), 0.0, 1.0)
    place = places[above - 1] + share * (places[above] - places[above - 1])
    return np.clip(_normal_quantile(place), -LARGEST_SCORE, LARGEST_SCORE)


def fit_joint(
    score_N: FloatArray, x_N: FloatArray, trajectories: IntArray, *, seed: int = 0
) -> Joint:
    """Fits reach and noise to the mean products of scores by distance, least squares.

    Args:
        score_N: normal scores.
        x_N: ln tokens.
        trajectories: (N,) codes; pairs lie within one.
        seed: of the choice of pairs.

    Raises:
        DataError: no trajectory of two targets.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(trajectories, kind="stable")
    starts = np.flatnonzero(np.diff(trajectories[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(order)))
    products, distances, weights = [], [], []
    for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
        count = min(_PAIRS, int(length) * (int(length) - 1) // 2)
        first = generator.integers(0, length, count)
        second = (first + generator.integers(1, length, count)) % length
        i, j = order[start + first], order[start + second]
        products.append(score_N[i] * score_N[j])
        distances.append(np.abs(x_N[i] - x_N[j]))
        weights.append(np.full(count, 1.0 / count))
    if not products:
        raise DataError("joint distribution: expected trajectories of two targets, found none.")
    product, distance, weight = map(np.concatenate, (products, distances, weights))
    cell = np.searchsorted(_LAGS, distance, side="right")
    total = np.bincount(cell, weights=weight)
    used = total > 0
    variance = float((score_N**2).mean())
    mean = np.bincount(cell, weights=weight * product)[used] / total[used] / variance
    lag = np.bincount(cell, weights=weight * distance)[used] / total[used]
    fits = []
    for reach in _RANGES:
        shape = np.exp(-lag / reach)
        share = np.clip((total[used] * shape * mean).sum() / (total[used] * shape**2).sum(), 0, 1)
        loss = float((total[used] * (mean - share * shape) ** 2).sum())
        fits.append((loss, float(reach), 1.0 - float(share)))
    _, reach, noise = min(fits)
    return Joint(reach=reach, noise=noise)


def sample_futures(
    quantiles_HQ: FloatArray,
    levels: tuple[float, ...],
    x_H: FloatArray,
    joint: Joint,
    *,
    count: int,
    generator: np.random.Generator,
) -> FloatArray:
    """(S, H) accuracies in [0, 1]: each column has the forecast distribution of its target.

    Args:
        quantiles_HQ: of one query; NaN gives NaN.
        levels: of the columns.
        x_H: ln tokens of the targets.
        joint: how targets move together.
        count: S.
        generator: of the samples.
    """
    places, values = _support(quantiles_HQ, levels)
    smallest = 1e-9 * np.eye(len(x_H))
    root = np.linalg.cholesky(joint.correlation(x_H) + smallest)
    normal = generator.standard_normal((count, len(x_H))) @ root.T
    uniform = _normal_share(normal)
    columns = [np.interp(uniform[:, target], places, values[target]) for target in range(len(x_H))]
    return np.clip(np.stack(columns, axis=1), 0.0, 1.0)


def _support(
    quantiles_NQ: FloatArray, levels: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], FloatArray]:
    """Piecewise linear distributions: (Q + 2,) shares and (N, Q + 2) values.

    Beyond the outermost levels the distribution goes on as steeply as between the last two.
    """
    places = np.array([0.0, *levels, 1.0])
    low, high = quantiles_NQ[:, [0]], quantiles_NQ[:, [-1]]
    below = (quantiles_NQ[:, [1]] - low) * levels[0] / (levels[1] - levels[0])
    above = (high - quantiles_NQ[:, [-2]]) * (1.0 - levels[-1]) / (levels[-1] - levels[-2])
    return places, np.concatenate([low - below, quantiles_NQ, high + above], axis=1)


def _normal_share(z: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtr(torch.from_numpy(z)).numpy())


def _normal_quantile(share: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy())
