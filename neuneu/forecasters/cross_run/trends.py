"""Trends fitted to curves, a whole batch at once: kernel means, lines and power laws.

Ridges and bandwidths belong to the trained forecaster: a change of a number invalidates its
weights. Shapes: B queries, H targets, R references, K observations.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.forecasters.cross_run.batching import Observed

EXPONENTS: Final = (0.15, 0.4, 0.9, 1.8)
"""Exponents of the power laws that general features fit to the past; unlike lines they saturate."""


def plane_at_zero(
    size_BR: npt.NDArray,
    same_BR: npt.NDArray,
    value_BHR: npt.NDArray,
    weight_BR: npt.NDArray,
    ridge: tuple[float, float] = (0.1, 0.03),
) -> tuple[npt.NDArray, npt.NDArray]:
    """Weighted least squares of values on size and on being of the same recipe, both (B, H).

    Returns the value at size 0 and of the same recipe, and the total weight. Without a reference
    of the same recipe it is the line in size. The ridges keep the plane flat where sizes or recipes
    hardly differ.
    """
    weight = np.where(np.isfinite(value_BHR), weight_BR[:, None, :], 0.0)
    value = np.nan_to_num(value_BHR)
    total = weight.sum(axis=-1)
    share = weight / np.maximum(total, 1e-6)[..., None]
    inputs = [np.broadcast_to(i[:, None, :], value.shape) for i in (size_BR, same_BR)]
    mean_s, mean_r = ((share * i).sum(axis=-1) for i in inputs)
    mean_v = (share * value).sum(axis=-1)
    s, r = inputs[0] - mean_s[..., None], inputs[1] - mean_r[..., None]
    v = value - mean_v[..., None]
    ss, rr = (share * s * s).sum(axis=-1) + ridge[0], (share * r * r).sum(axis=-1) + ridge[1]
    sr, sv, rv = ((share * a * b).sum(axis=-1) for a, b in ((s, r), (s, v), (r, v)))
    determinant = ss * rr - sr**2  # positive, by the ridges
    slope_s = (rr * sv - sr * rv) / determinant
    slope_r = (ss * rv - sr * sv) / determinant
    away = np.where(mean_r > 0, 1.0 - mean_r, 0.0)
    return mean_v - slope_s * mean_s + slope_r * away, total


def local_mean(x: npt.NDArray, values: npt.NDArray, mask: npt.NDArray, lag: float) -> npt.NDArray:
    """Kernel mean around x = -lag, wider further back; the nearest point always counts."""
    width = 0.06 + 0.15 * lag
    distance = np.where(mask, np.abs(x + lag), np.inf)
    distance -= distance.min(axis=1, keepdims=True)  # shifts, so that some weight is 1
    weight = np.exp(-0.5 * (distance / width) ** 2) * mask
    return np.asarray((weight * values).sum(axis=1) / weight.sum(axis=1))


def local_line(
    x: npt.NDArray, values: npt.NDArray, mask: npt.NDArray, width: float
) -> tuple[npt.NDArray, npt.NDArray]:
    """Value at x = 0 and slope of a line with exponential weights.

    The ridge, 2 % of the squared width, damps slopes through points that lie close together.
    """
    weight = np.exp(x / width) * mask
    total = np.maximum(weight.sum(axis=1), 1e-6)
    mean_x = (weight * x).sum(axis=1) / total
    mean_v = (weight * values).sum(axis=1) / total
    centred = x - mean_x[:, None]
    square = (weight * centred**2).sum(axis=1)
    slope = (weight * centred * (values - mean_v[:, None])).sum(axis=1) / (
        square + 0.02 * width**2 + 1e-6
    )
    return mean_v - slope * mean_x, slope


def power_laws(past: Observed, ahead: npt.NDArray, level: npt.NDArray) -> list[npt.NDArray]:
    """Changes (B, H) from `level` by least squares of a + b tokens^-c, for each c of `EXPONENTS`.

    A ridge damps the slope of a short past; changes are clipped to 0.3.
    """
    weight = past.mask / np.maximum(past.mask.sum(axis=1, keepdims=True), 1)
    mean_v = (weight * past.values).sum(axis=1)[:, None]
    found = []
    for exponent in EXPONENTS:
        # tokens^-c relative to the first observation, so that it lies in (0, 1].
        start = np.where(past.mask, past.x, 0.0).min(axis=1)
        basis = np.exp(-exponent * (past.x - start[:, None])) * past.mask
        mean_b = (weight * basis).sum(axis=1)[:, None]
        square = (weight * (basis - mean_b) ** 2).sum(axis=1)
        product = (weight * (basis - mean_b) * (past.values - mean_v)).sum(axis=1)
        slope = (product / (square + 1e-3))[:, None]
        then = np.exp(-exponent * (ahead - start[:, None]))
        fitted = mean_v + slope * (then - mean_b)
        found.append(np.clip(fitted - level[:, None], -0.3, 0.3))
    return found
