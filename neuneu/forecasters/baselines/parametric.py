"""Parametric learning curves, fitted to the run's own past and averaged by Akaike weights.

The families are those of Domhan, Springenberg and Hutter 2015 (IJCAI) that the paper's related
work uses. x is training tokens in units of a tenth of those at the end of the context, so that
curves are evaluated near 10. Weights are exp(-AICc / 2), with AICc by Hurvich and
Tsai 1989; a curve needs two points more than parameters (its variance is one), and a context
that is too short for each gets persistence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query, Sees

_UNIT: Final = 10.0
_SMALLEST_VARIANCE: Final = 1e-7
_MAX_POINTS: Final = 64


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A family y(x; p): `start` are starting values, `low` and `high` bounds of p."""

    name: str
    value: Callable[[FloatArray, FloatArray], FloatArray]
    start: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _pow3(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - p[1] * x ** -p[2]


def _exp4(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - p[1] * np.exp(-p[2] * x ** p[3])


def _ilog2(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - p[1] / np.log(x + 1.0 + 1e-9)


def _mmf(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - (p[0] - p[1]) / (1.0 + (p[2] * x) ** p[3])


def _janoschek(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - (p[0] - p[1]) * np.exp(-p[2] * x ** p[3])


def _weibull(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] - (p[0] - p[1]) * np.exp(-((p[2] * x) ** p[3]))


def _log_power(x: FloatArray, p: FloatArray) -> FloatArray:
    return p[0] / (1.0 + (x / np.exp(p[1])) ** p[2])


CURVES: Final = (
    Curve(name="pow3", value=_pow3, start=(0.6, 0.3, 0.3), low=(-1, -3, 0.01), high=(2, 3, 3)),
    Curve(
        name="exp4", value=_exp4, start=(0.6, 0.3, 0.1, 0.7),
        low=(-1, -2, 1e-4, 0.05), high=(2, 2, 5, 3),
    ),
    Curve(name="ilog2", value=_ilog2, start=(0.6, 0.2), low=(-1, -3), high=(2, 3)),
    Curve(
        name="mmf", value=_mmf, start=(0.6, 0.25, 0.1, 1.0),
        low=(0, 0, 1e-4, 0.05), high=(1, 1, 10, 5),
    ),
    Curve(
        name="janoschek", value=_janoschek, start=(0.6, 0.25, 0.1, 0.7),
        low=(0, 0, 1e-5, 0.05), high=(1, 1, 5, 3),
    ),
    Curve(
        name="weibull", value=_weibull, start=(0.6, 0.25, 0.1, 0.7),
        low=(0, 0, 1e-5, 0.05), high=(1, 1, 5, 3),
    ),
    Curve(
        name="log-power", value=_log_power, start=(0.6, 1.0, -0.5),
        low=(0, -10, -3), high=(2, 10, 3),
    ),
)  # fmt: skip


class ParametricEnsemble:
    """Seven learning curves through the run's own past, weighted by AICc."""

    name = "parametric-ensemble"
    sees: Sees = "own"
    levels = (0.5,)

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Does nothing: curves are fitted on each query's own context."""

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within [0, 1]; an empty context is unanswered (NaN)."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        context = query.context.without_step_zero()
        if not len(context):
            return np.full((len(query.target_steps), 1), np.nan)
        keep = np.unique(
            np.linspace(0, len(context) - 1, min(len(context), _MAX_POINTS)).round().astype(int)
        )
        x, y = _UNIT * context.tokens[keep] / context.tokens[-1], context.values[keep]
        then = _UNIT * query.target_tokens / context.tokens[-1]
        answers, criteria = [], []
        for curve in CURVES:
            if len(y) < len(curve.start) + 3:
                continue
            p, criterion = fit_curve(curve, x, y)
            answers.append(np.clip(curve.value(then, p), 0.0, 1.0))
            criteria.append(criterion)
        if not answers:
            return np.full((len(then), 1), context.values[-1])
        weight = np.exp(-0.5 * (np.array(criteria) - min(criteria)))
        return np.asarray((weight / weight.sum()) @ np.stack(answers))[:, None]


def fit_curve(curve: Curve, x: FloatArray, y: FloatArray) -> tuple[FloatArray, float]:
    """Least squares within bounds: (parameters, AICc)."""
    from scipy.optimize import least_squares

    low, high = np.array(curve.low, dtype=float), np.array(curve.high, dtype=float)
    start = np.array(curve.start)
    start[0] = y[-1] + 0.1 if curve.name != "log-power" else y[-1] * 1.5
    margin = 1e-6 * (high - low)
    found = least_squares(
        lambda p: curve.value(x, p) - y,
        np.clip(start, low + margin, high - margin),
        bounds=(low, high),
        x_scale="jac",
        max_nfev=60,
    )
    n, k = len(y), len(start) + 1
    variance = max(2.0 * found.cost / n, _SMALLEST_VARIANCE)
    return found.x, float(n * np.log(variance) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1))
