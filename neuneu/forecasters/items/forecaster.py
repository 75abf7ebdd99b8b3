"""The item forecaster: accuracies from the items behind them, for runs whose choices were kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, FloatArray32, IntArray
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.cases import TaskItems, courses_by_items, items_of, make_cases
from neuneu.forecasters.items.courses import Course, course_of
from neuneu.forecasters.items.defaults import ALONE, RELATED
from neuneu.forecasters.items.features import features
from neuneu.forecasters.items.model import ItemModel, fit_model
from neuneu.forecasters.items.projection import project, projected_accuracy, shifted
from neuneu.forecasters.protocol import Query, Sees

FEWEST_RUNS: Final = 2
"""Finished runs on the same items from which on a model of their own is fitted."""

MAX_MODELS: Final = 8
"""Models fitted at most, one for each share of a run that is context; then the nearest is used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemForecast:
    """Probability (h, D) that each item is right, and quantiles (h, Q) of the accuracy.

    `right_now` (D,) says which are right at the context's last checkpoint; `docs` (D,) name them.
    """

    chances: FloatArray32
    quantiles: FloatArray
    right_now: FloatArray32
    docs: IntArray

    def likely_flips(self, count: int) -> list[tuple[int, float]]:
        """Return the items that will most likely have changed at the last target.

        As (item, probability of being right then), the surest change first.
        """
        last = self.chances[-1]
        change = np.abs(last - self.right_now)
        order = np.argsort(-change, kind="stable")[:count]
        return [(int(self.docs[i]), float(last[i])) for i in order if change[i] > 0.5]


class ItemForecaster:
    """Forecasts each item of a task, and the accuracy as their mean.

    With finished runs on the same items it reads what became of each item in them; alone it
    projects the margins of the run's own items. A query whose context has no choices of its
    metric is answered with NaN.
    """

    levels = FORECAST_LEVELS

    def __init__(
        self, *, sees: Sees = "reference", name: str = "items", related: ItemModel = RELATED
    ) -> None:
        """Makes a forecaster that has seen no run.

        Args:
            sees: `own` or `reference`.
            name: its name in tables.
            related: what is used with fewer than `FEWEST_RUNS` finished runs, and the prior of
                what is fitted to more.
        """
        self.name, self.sees = name, sees
        self._related = related
        self._known: dict[TaskItems, dict[str, Course]] = {}
        self._fitted: dict[float, ItemModel] = {}

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs with choices as relatives; others say nothing here."""
        self._known = courses_by_items(references) if self.sees == "reference" else {}
        self._fitted = {}

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) in [0, 1]; NaN where a context has no choices of its metric."""
        answers = []
        for query in queries:
            forecast = self.forecast(query)
            unknown = np.full((len(query.target_steps), len(self.levels)), np.nan)
            answers.append(unknown if forecast is None else forecast.quantiles)
        return answers

    def forecast(self, query: Query) -> ItemForecast | None:
        """Forecasts the items of one query; None without choices of its metric."""
        context = course_of(query.context)
        if context is None:
            return None
        ln_targets = np.log(query.target_tokens)
        distances = ln_targets - context.ln_tokens[-1]
        relatives = self.relatives(query)
        if relatives:
            model = self._model(float(np.exp(-distances[-1])))
            chances = model.probabilities(features(context, relatives, ln_targets))
        else:
            model = ALONE
            means = projected_accuracy(context, distances)
            chances = shifted(project(context, distances), means)
        assert query.context.choices is not None
        return ItemForecast(
            chances=chances,
            quantiles=model.quantiles(chances, distances),
            right_now=context.right[-1],
            docs=np.unique(query.context.choices.items.docs),
        )

    def relatives(self, query: Query) -> list[Course]:
        """The finished runs on the same items."""
        runs = self._known.get(items_of(query.context), {})
        return [course for run, course in runs.items() if run != query.context.run]

    def _model(self, share: float) -> ItemModel:
        """The model for contexts of this share of a run."""
        share = round(share, 3)
        if share not in self._fitted and len(self._fitted) >= MAX_MODELS:
            share = min(self._fitted, key=lambda fitted: abs(fitted - share))
        if share not in self._fitted:
            cases = make_cases(self._known, share)
            enough = len({case.run for case in cases}) >= FEWEST_RUNS
            prior = self._related.coefficients
            self._fitted[share] = fit_model(cases, prior) if enough else self._related
        return self._fitted[share]
