"""Power law in training tokens, fitted on the run's own context.

The error 1 - accuracy follows a + b x tokens^-c with floor a in [0, 1], c > 0 and b of either
sign, since accuracy may rise, plateau or fall. Of another metric the error is the distance from its
best value in its own units (bits per byte themselves), where it has one. For a given c the rest is
a linear least-squares problem with one box-bounded unknown, solved in closed form; c is searched
on a grid and refined inside its best cell. All queries of one context length are solved at once.
That is bounded nonlinear least squares by variable projection (Golub and Pereyra, 1973), without a
solver's starting values or local minima between grid points.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.scales import Scale
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query, Sees

MIN_POINTS: Final = 4
"""Three unknowns need a fourth point; shorter contexts get persistence."""

EXPONENTS: Final = np.geomspace(0.05, 2.0, 33)
"""Grid of c. Smaller ones are straight lines in log tokens, which no context distinguishes."""

_REFINEMENTS: Final = 24
_GOLDEN: Final = (np.sqrt(5.0) - 1.0) / 2.0


class PowerLaw:
    """Extrapolates error = a + b x tokens^-c; contexts of 1 to 3 points get persistence."""

    name = "power-law"
    sees: Sees = "own"
    levels = (0.5,)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Learns nothing: the law is fitted on each query's own context."""

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within bounds; an empty context is unanswered (NaN)."""
        by_length: dict[int, list[int]] = {}
        for index, query in enumerate(queries):
            by_length.setdefault(len(query.context), []).append(index)
        answers: list[FloatArray] = [np.zeros((0, 1))] * len(queries)
        for length, members in by_length.items():
            if length < MIN_POINTS:
                for index in members:
                    context = queries[index].context.values
                    last = context[-1] if length else np.nan
                    answers[index] = np.full((len(queries[index].target_steps), 1), last)
                continue
            tokens = np.stack([queries[index].context.tokens for index in members])
            scales = [queries[index].context.scale for index in members]
            best = np.array([of.best if np.isfinite(of.best) else 0.0 for of in scales])
            sign = np.array([-1.0 if of.higher_is_better else 1.0 for of in scales])
            values = np.stack([queries[index].context.values for index in members])
            errors = sign[:, None] * (values - best[:, None])
            floor, slope, exponent = fit_power_laws(tokens, errors, _floors(scales))
            for row, index in enumerate(members):
                ratio = queries[index].target_tokens / tokens[row, -1]
                error = floor[row] + slope[row] * ratio ** -exponent[row]
                answers[index] = scales[row].clip(best[row] + sign[row] * error)[:, None]
        return answers


def _floors(scales: Sequence[Scale]) -> FloatArray:
    """(F, 2) smallest and largest floor of an error: from the best to the worst value."""
    return np.array([
        (0.0, of.high - of.low) if np.isfinite(of.best) else (-np.inf, np.inf) for of in scales
    ])  # fmt: skip


def fit_power_laws(
    tokens: FloatArray, errors: FloatArray, floors: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least squares of error = a + b x (tokens / last tokens)^-c for F contexts at once.

    Args:
        tokens: (F, k) positive, increasing along k.
        errors: (F, k) 1 - accuracy, or another error.
        floors: (F, 2) bounds of the floor; None takes [0, 1].

    Returns:
        floor a within bounds, slope b and exponent c, each (F,).
    """
    log_ratio = np.log(tokens / tokens[:, -1:])
    limits = np.tile([0.0, 1.0], (len(errors), 1)) if floors is None else floors
    squares = np.stack(
        [_solve(log_ratio, errors, np.full(len(errors), c), limits)[2] for c in EXPONENTS]
    )
    best = squares.argmin(axis=0)
    low = np.log(EXPONENTS[np.maximum(best - 1, 0)])
    high = np.log(EXPONENTS[np.minimum(best + 1, len(EXPONENTS) - 1)])
    for _ in range(_REFINEMENTS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        left_is_better = (
            _solve(log_ratio, errors, np.exp(left), limits)[2]
            <= _solve(log_ratio, errors, np.exp(right), limits)[2]
        )
        high = np.where(left_is_better, right, high)
        low = np.where(left_is_better, low, left)
    exponent = np.exp((low + high) / 2.0)
    floor, slope, _ = _solve(log_ratio, errors, exponent, limits)
    return floor, slope, exponent


def _solve(
    log_ratio: FloatArray, errors: FloatArray, exponent: FloatArray, limits: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Best (a, b) and squared error for given exponents (F,); a is bounded, b is free."""
    basis = np.exp(-exponent[:, None] * log_ratio)
    centred = basis - basis.mean(axis=1, keepdims=True)
    mean_error = errors.mean(axis=1)
    slope = (centred * errors).sum(axis=1) / np.maximum((centred**2).sum(axis=1), 1e-12)
    floor = np.clip(mean_error - slope * basis.mean(axis=1), limits[:, 0], limits[:, 1])
    # With the floor at its bound the slope is solved again: the problem is convex in (a, b).
    slope = (basis * (errors - floor[:, None])).sum(axis=1) / (basis**2).sum(axis=1)
    residual = errors - floor[:, None] - slope[:, None] * basis
    return floor, slope, (residual**2).sum(axis=1)
