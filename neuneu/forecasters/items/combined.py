"""A forecaster together with the items behind the accuracies, for runs whose choices were kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.combination import DEFAULT_WEIGHT, combine
from neuneu.forecasters.items.forecaster import ItemForecaster
from neuneu.forecasters.items.gold import GoldForecaster
from neuneu.forecasters.items.margins import has_margins
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.wrapper import JointForecasterWrapper

GOLD_WEIGHT: Final = 0.3
"""Weight of right answers alone, where other choices were not scored (chosen on Gemstones)."""

FLIPS: Final = 5
"""Maximum number of items to name that will most likely change."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the items say of one query at its last target, beside the forecaster without them.

    `flips` are (item, probability of being right then) of items that will most likely change from
    right to wrong or back, the surest first.
    """

    without: float
    items: float
    weight: float
    flips: tuple[tuple[int, float], ...]


class WithItems(JointForecasterWrapper):
    """Forecasts of a `JointForecaster`, combined with those from items where there are choices.

    All else, joint futures included, is the forecaster's. Where an answer without items exists,
    both are combined level by level (`combination`); before a run's start, and without choices,
    the forecaster answers alone.
    """

    def __init__(
        self, forecaster: JointForecaster, *, weight: float = DEFAULT_WEIGHT, name: str = ""
    ) -> None:
        """Wraps a forecaster of all `FORECAST_LEVELS`.

        Args:
            forecaster: any.
            weight: of the items, 0 to 1.
            name: in tables; by default that of the forecaster.
        """
        super().__init__(forecaster)
        self._weight = weight
        self._name = name or forecaster.name
        self._items = ItemForecaster(sees="own" if forecaster.sees == "own" else "reference")
        self._gold = GoldForecaster()

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self._name

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references, and as relatives of items where they have choices."""
        self.forecaster.fit(references)
        scored = [t for t in references if t.choices is not None]
        self._items.fit(scored)
        self._gold.fit(scored)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Combined quantiles (h, Q) of each query."""
        answers = self.forecaster.predict(queries)
        return [
            answer
            if (own := self._own(query)) is None
            else combine(answer, own, self._weight_of(query))
            for query, answer in zip(queries, answers, strict=True)
        ]

    def evidence(self, queries: Sequence[Query]) -> list[Evidence | None]:
        """What the items say of each query; None where they say nothing."""
        middle = FORECAST_LEVELS.index(MEDIAN)
        found: list[Evidence | None] = []
        for query, answer in zip(queries, self.forecaster.predict(queries), strict=True):
            forecast = self._items.forecast(query) if self._is_usable(query) else None
            own = self._own(query) if forecast is None else forecast.quantiles
            if own is None or np.isnan(answer).any():
                found.append(None)
                continue
            found.append(
                Evidence(
                    without=float(answer[-1, middle]), items=float(own[-1, middle]),
                    weight=self._weight_of(query),
                    flips=() if forecast is None else tuple(forecast.likely_flips(FLIPS)),
                )
            )  # fmt: skip
        return found

    def _weight_of(self, query: Query) -> float:
        is_scored = has_margins(query.context.choices, query.context.metric)
        return self._weight if is_scored else GOLD_WEIGHT

    @staticmethod
    def _is_usable(query: Query) -> bool:
        context = query.context
        return context.choices is not None and bool(len(context)) and context.scale.is_unit

    def _own(self, query: Query) -> FloatArray | None:
        """Quantiles (h, Q) from the items; None where they say nothing."""
        if not self._is_usable(query):
            return None
        is_scored = has_margins(query.context.choices, query.context.metric)
        (answer,) = (self._items if is_scored else self._gold).predict([query])
        return None if np.isnan(answer).any() else answer


def with_items(
    forecaster: JointForecaster, trajectories: Sequence[Trajectory], *, name: str = ""
) -> JointForecaster:
    """The forecaster combined with items, if any trajectory has choices and the levels are alike.

    Args:
        forecaster: any.
        trajectories: of a question, without its reference runs.
        name: of the combination, in tables; by default that of the forecaster.
    """
    usable = forecaster.levels == FORECAST_LEVELS and any(
        t.choices is not None for t in trajectories
    )
    return WithItems(forecaster, name=name) if usable else forecaster
