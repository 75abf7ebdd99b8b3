"""Logistic regression by Newton's method, with weights and a Gaussian prior. Shapes: N rows, F
features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, FloatArray32

ITERATIONS: Final = 12
CONVERGED: Final = 1e-4
_CHUNK: Final = 200_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Features (N, F), outcomes (N,) in [0, 1] and weights (N,) of a regression."""

    features: FloatArray32
    outcomes: FloatArray32
    weights: FloatArray32


def fit_logistic(rows: Rows, *, prior: FloatArray, precision: FloatArray) -> FloatArray:
    """Return coefficients (F,) that maximise the weighted likelihood times a Gaussian prior.

    Args:
        rows: What to fit; weights are in numbers of observations.
        prior: (F,) mean of the prior.
        precision: (F,) inverse variances of the prior, positive.
    """
    coefficients = prior.astype(np.float64)
    for _ in range(ITERATIONS):
        gradient = -precision * (coefficients - prior)
        curvature = np.diag(precision)
        for x, y, weight in _chunks(rows):
            chance = probabilities(x, coefficients)
            gradient += x.T.astype(np.float64) @ (weight * (y - chance)).astype(np.float64)
            spread = weight * chance * (1 - chance)
            curvature += (x * spread[:, None]).T @ x
        step = np.linalg.solve(curvature, gradient)
        coefficients = coefficients + step
        if np.abs(step).max() < CONVERGED:
            break
    return coefficients


def probabilities(features: npt.NDArray[np.float32], coefficients: FloatArray) -> FloatArray32:
    """Return the probability (...) of rows of features (..., F)."""
    odds = features @ coefficients.astype(np.float32)
    return (1.0 / (1.0 + np.exp(-np.clip(odds, -30, 30)))).astype(np.float32)


def _chunks(rows: Rows) -> Iterator[tuple[FloatArray32, FloatArray32, FloatArray32]]:
    for start in range(0, len(rows.outcomes), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield rows.features[part], rows.outcomes[part], rows.weights[part]
