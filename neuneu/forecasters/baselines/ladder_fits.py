"""Robust fits of the ladder's law (`ladder`): several starts, bounds, Huber's loss, weak priors.

Parameters of L(N, D) are (ln A, alpha, ln B, beta, E), with N and D in units of their geometric
means over the points. A prior is a residual more: parameter minus its centre, in units of its
width, times `NOISE`. Shapes: n points, p parameters, m starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray

NOISE: Final = 0.01
"""Where squares become absolute values: accuracy, or loss as a share of its median."""

EXPONENT: Final = (0.3, 0.15)
"""Centre and width of the prior of alpha and beta, about what is published for language models."""

SWING: Final = 4.0
"""Width of the priors of A, B and E in logits, in the single step: what a family's runs differ."""

ASYMPTOTE: Final = 0.5
"""Width of the prior of floor and ceiling, in accuracy, in the single step."""

SECOND_STEP_ASYMPTOTE: Final = 0.1
"""The same in the second step, where loss 0 is known to mean accuracy 1."""

_GRID: Final = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2)
_SMALLEST: Final = -12.0
_LOW: Final = (_SMALLEST, 0.01, _SMALLEST, 0.01)
_HIGH: Final = (4.0, 2.0, 4.0, 2.0)
_UNKNOWN_FLOOR: Final = 0.25

_Vector = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Points:
    """(n,) parameters, tokens, loss of the task (NaN where unknown), accuracy, and weight."""

    params: FloatArray
    tokens: FloatArray
    loss: FloatArray
    value: FloatArray
    weight: FloatArray


def fit_two_steps(
    points: Points, chance: float | None
) -> Callable[[FloatArray, FloatArray], FloatArray] | None:
    """Accuracy at parameters and tokens through the task's loss; None where it is not known."""
    known = np.isfinite(points.loss) & (points.loss > 0)
    if not known.all():
        return None
    size = _Size(points)
    unit = float(np.median(points.loss))
    loss, root = points.loss / unit, np.sqrt(points.weight)

    def residual(law: FloatArray) -> FloatArray:
        priors = _prior(law[[1, 3]], *EXPONENT)
        return np.concatenate([(_law(law, size.n, size.d) - loss) * root, priors])

    def jacobian(law: FloatArray) -> FloatArray:
        priors = np.zeros((2, 5))
        priors[0, 1] = priors[1, 3] = NOISE / EXPONENT[1]
        return np.concatenate([_slopes(law, size.n, size.d) * root[:, None], priors])

    bounds = (np.array([*_LOW, 0.0]), np.array([*size.high, float(loss.max())]))
    law = _solve(residual, jacobian, size.starts(loss, root), bounds)
    sigmoid = _fit_sigmoid(points.loss, points.value, chance)
    return lambda n, d: _sigmoid_law(sigmoid, unit * _law(law, *size.of(n, d)))


def fit_one_step(
    points: Points, chance: float | None
) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Accuracy at parameters and tokens, from accuracies alone; seven parameters, L and (a, b)."""
    size = _Size(points)
    root = np.sqrt(points.weight)
    floor, sure = (_UNKNOWN_FLOOR, 0.0) if chance is None else (chance, NOISE / ASYMPTOTE)

    def residual(law: FloatArray) -> FloatArray:
        fit = law[5] * _sigmoid(_law(law, size.n, size.d)) + law[6] - points.value
        swings = np.array([np.exp(law[0]), np.exp(law[2]), law[4]])
        return np.concatenate([
            fit * root, _prior(law[[1, 3]], *EXPONENT), _prior(swings, 0.0, SWING),
            _prior(law[6:], 1.0, ASYMPTOTE), [sure * (law[5] + law[6] - floor)],
        ])  # fmt: skip

    def jacobian(law: FloatArray) -> FloatArray:
        s = _sigmoid(_law(law, size.n, size.d))
        inner = (law[5] * s * (1.0 - s))[:, None] * _slopes(law, size.n, size.d)
        fit = np.concatenate([inner, s[:, None], np.ones((len(s), 1))], axis=1)
        priors = np.zeros((7, 7))
        priors[0, 1] = priors[1, 3] = NOISE / EXPONENT[1]
        for row, (column, slope) in enumerate(((0, np.exp(law[0])), (2, np.exp(law[2])), (4, 1.0))):
            priors[2 + row, column] = slope * NOISE / SWING
        priors[5, 6] = NOISE / ASYMPTOTE
        priors[6, 5:] = sure
        return np.concatenate([fit * root[:, None], priors])

    bounds = (np.array([*_LOW, -20.0, -1.0, 0.0]), np.array([*size.high, 20.0, 0.0, 1.0]))
    share = ((points.value - 1.0) / (min(floor, 0.9) - 1.0)).clip(0.02, 0.98)
    logits = np.log(share / (1.0 - share))
    starts = [np.array([*s, floor - 1.0, 1.0]) for s in size.starts(logits, root, signed=True)]
    law = _solve(residual, jacobian, starts, bounds)
    return lambda n, d: law[5] * _sigmoid(_law(law, *size.of(n, d))) + law[6]


def _fit_sigmoid(loss: FloatArray, value: FloatArray, chance: float | None) -> FloatArray:
    """(a, L0, k, b) of the second step; all points weigh alike."""
    floor = _UNKNOWN_FLOOR if chance is None else chance
    root = np.sqrt(20.0 / len(value))
    sure = NOISE / SECOND_STEP_ASYMPTOTE
    known = 0.0 if chance is None else sure
    everywhere = np.append(loss, 0.0)

    def residual(law: FloatArray) -> FloatArray:
        fit = _sigmoid_law(law, everywhere) - np.append(value, 1.0)
        fit[:-1] *= root
        fit[-1] *= sure
        return np.append(fit, known * (law[0] + law[3] - floor))

    def jacobian(law: FloatArray) -> FloatArray:
        s = _sigmoid(law[2] * (everywhere - law[1]))
        inner = law[0] * s * (1.0 - s)
        fit = np.stack([s, -inner * law[2], inner * (everywhere - law[1]), np.ones_like(s)], axis=1)
        fit[:-1] *= root
        fit[-1] *= sure
        return np.concatenate([fit, [[known, 0.0, 0.0, known]]])

    middle = float(np.median(loss))
    starts = [
        np.array([floor - 1.0, share * middle, slope / middle, 1.0])
        for share, slope in ((0.8, 3.0), (1.0, 12.0))
    ]
    high = np.array([0.0, 5.0 * middle, 100.0 / middle, 1.0])
    return _solve(residual, jacobian, starts, (np.array([-1.0, 0.0, 0.0, 0.0]), high))


class _Size:
    """Points in units of their geometric means, as logarithms `n` and `d`."""

    def __init__(self, points: Points) -> None:
        log_n, log_d = np.log(points.params), np.log(points.tokens)
        self._centre = (float(log_n.mean()), float(log_d.mean()))
        self.n, self.d = log_n - self._centre[0], log_d - self._centre[1]
        self._flat = bool(np.ptp(self.n) == 0.0)

    def of(self, params: FloatArray, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        return np.log(params) - self._centre[0], np.log(tokens) - self._centre[1]

    @property
    def high(self) -> tuple[float, ...]:
        """Upper bounds of all but E; runs of one size say nothing of A."""
        return (_SMALLEST + 1e-3, *_HIGH[1:]) if self._flat else _HIGH

    def starts(self, y: FloatArray, root: FloatArray, *, signed: bool = False) -> list[FloatArray]:
        """Two good laws on a grid of exponents, the rest by non-negative least squares.

        Args:
            y: (n,) what L(N, D) should be.
            root: (n,) roots of weights.
            signed: let E be negative.
        """
        from scipy.optimize import nnls

        found = []
        one = np.ones_like(y)
        for alpha in _GRID:
            for beta in _GRID:
                columns = [np.exp(-alpha * self.n) * (not self._flat), np.exp(-beta * self.d), one]
                design = np.stack([*columns, -one] if signed else columns, axis=1)
                best, distance = nnls(design * root[:, None], y * root)
                scales = np.log(np.maximum(best[:2], np.exp(_SMALLEST)))
                constant = best[2] - (best[3] if signed else 0.0)
                found.append((distance, [scales[0], alpha, scales[1], beta, constant]))
        found.sort(key=lambda pair: float(pair[0]))
        return [np.array(law) for _, law in (found[0], found[4])]


def _solve(
    residual: _Vector,
    jacobian: _Vector,
    starts: Sequence[FloatArray],
    bounds: tuple[FloatArray, FloatArray],
) -> FloatArray:
    """(p,) the best of bounded least squares from all starts."""
    from scipy.optimize import least_squares

    low, high = bounds
    margin = 1e-6 * (high - low)
    fits = [
        least_squares(
            residual, np.clip(start, low + margin, high - margin), jac=jacobian, bounds=bounds,
            loss="huber", f_scale=NOISE, x_scale="jac", max_nfev=60,
        )
        for start in starts
    ]  # fmt: skip
    return np.asarray(min(fits, key=lambda fit: float(fit.cost)).x)


def _law(law: FloatArray, n: FloatArray, d: FloatArray) -> FloatArray:
    return np.asarray(np.exp(law[0] - law[1] * n) + np.exp(law[2] - law[3] * d) + law[4])


def _slopes(law: FloatArray, n: FloatArray, d: FloatArray) -> FloatArray:
    """(n, 5) derivatives of the law by its parameters."""
    by_n, by_d = np.exp(law[0] - law[1] * n), np.exp(law[2] - law[3] * d)
    return np.stack([by_n, -n * by_n, by_d, -d * by_d, np.ones_like(n)], axis=1)


def _sigmoid_law(law: FloatArray, loss: FloatArray) -> FloatArray:
    return np.asarray(law[0] * _sigmoid(law[2] * (loss - law[1])) + law[3])


def _prior(values: FloatArray, centre: float, width: float) -> FloatArray:
    return np.asarray((values - centre) * (NOISE / width))


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))
