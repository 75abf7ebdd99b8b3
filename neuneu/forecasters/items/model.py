"""From the items of a context to quantiles of a later accuracy.

An accuracy is the mean of D items of which each is right with its own probability: its variance is
sum p (1 - p) / D^2 (Poisson binomial; Hoeffding 1956), less than that of a binomial where items
differ, plus that of an error which all items share, because the model misjudges the whole task.
Shapes: D items, h targets, F features, Q levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, FloatArray32
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.forecasters.items.logistic import Rows, fit_logistic, probabilities

PRIOR_OBSERVATIONS: Final = 50.0
"""Weight of the prior in items: what few finished runs say counts little against it."""

FOLDS: Final = 4
"""Parts of the runs that are left out in turn."""

_SMALLEST: Final = 1e-12
_NORMAL: Final = (-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A forecast whose outcome is known, of a run that the model is fitted to.

    `features` (h, D, F), `right` (h, D) and `distances` (h,) in ln tokens of the targets.
    """

    run: str
    features: FloatArray32
    right: FloatArray32
    distances: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemModel:
    """Coefficients (F,) of the log-odds, and the error that the items of a task share.

    Its variance is `spread[0] + spread[1] x distance`, and `scores` (Q,) are the quantiles of
    outcomes in units of the whole standard deviation.
    """

    coefficients: FloatArray
    spread: tuple[float, float] = (0.0, 0.0)
    scores: tuple[float, ...] = _NORMAL

    def probabilities(self, features: FloatArray32) -> FloatArray32:
        """Return the probability (h, D) that each item is right."""
        return probabilities(features, self.coefficients)

    def quantiles(self, chances: FloatArray32, distances: FloatArray) -> FloatArray:
        """Return quantiles (h, Q) of the accuracy of items right with chances (h, D)."""
        mean, variance = accuracy_moments(chances)
        sd = np.sqrt(variance + self.spread[0] + self.spread[1] * distances)
        return np.clip(mean[:, None] + sd[:, None] * np.array(self.scores), 0.0, 1.0)


def accuracy_moments(chances: FloatArray32) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance (h,) of the accuracy of items that are right with chances (h, D)."""
    exact = chances.astype(np.float64)
    return exact.mean(axis=-1), (exact * (1 - exact)).sum(axis=-1) / exact.shape[-1] ** 2


def fit_model(cases: Sequence[Case], prior: FloatArray | None = None) -> ItemModel:
    """Fit a model to finished forecasts.

    The error of a task is measured on runs that the coefficients were not fitted to.

    Args:
        cases: Of at least two runs.
        prior: (F,) what coefficients are shrunk to; None is 0.
    """
    runs = sorted({case.run for case in cases})
    start = np.zeros(cases[0].features.shape[-1]) if prior is None else prior
    known: list[Outcome] = []
    for fold in range(min(FOLDS, len(runs))):
        held_out = set(runs[fold::FOLDS])
        fitted = ItemModel(coefficients=_fit([c for c in cases if c.run not in held_out], start))
        for case in (case for case in cases if case.run in held_out):
            mean, variance = accuracy_moments(fitted.probabilities(case.features))
            known.append(Outcome(mean=mean, variance=variance, case=case))
    return with_uncertainty(ItemModel(coefficients=_fit(cases, start)), known)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A forecast (mean and variance (h,) by the items alone) and its case."""

    mean: FloatArray
    variance: FloatArray
    case: Case


def with_uncertainty(model: ItemModel, known: Sequence[Outcome]) -> ItemModel:
    """Return the model with the shared error and the quantiles that known outcomes show."""
    outcomes = [of.case.right.mean(axis=1, dtype=np.float64) for of in known]
    errors = np.concatenate(outcomes) - np.concatenate([of.mean for of in known])
    variance = np.concatenate([of.variance for of in known])
    distance = np.concatenate([of.case.distances for of in known])
    spread = _spread(errors**2 - variance, distance)
    scores = errors / np.sqrt(variance + spread[0] + spread[1] * distance + _SMALLEST)
    quantiles = np.quantile(scores, FORECAST_LEVELS)
    # The mean is the forecast: where outcomes lie on one side of it, intervals still contain it.
    middle = FORECAST_LEVELS.index(0.5)
    quantiles[:middle] = np.minimum(quantiles[:middle], 0.0)
    quantiles[middle] = 0.0
    quantiles[middle + 1 :] = np.maximum(quantiles[middle + 1 :], 0.0)
    return replace(model, spread=spread, scores=tuple(float(q) for q in quantiles))


def _fit(cases: Sequence[Case], start: FloatArray) -> FloatArray:
    size = len(start)
    rows = Rows(
        features=np.concatenate([case.features.reshape(-1, size) for case in cases]),
        outcomes=np.concatenate([case.right.ravel() for case in cases]),
        # Targets of a trajectory repeat each other: together they count as one look at its items.
        weights=np.concatenate(
            [np.full(c.right.size, 1 / len(c.right), np.float32) for c in cases]
        ),
    )
    return fit_logistic(rows, prior=start, precision=np.full(size, PRIOR_OBSERVATIONS))


def _spread(excess: FloatArray, distance: FloatArray) -> tuple[float, float]:
    """Intercept and slope of the shared variance, neither negative, by least squares."""
    centred = distance - distance.mean()
    slope = max(float(centred @ excess / max(float(centred @ centred), 1e-12)), 0.0)
    intercept = float(excess.mean() - slope * distance.mean())
    if intercept < 0:
        slope = max(float(distance @ excess / (distance @ distance)), 0.0)
        intercept = 0.0
    return intercept, slope
