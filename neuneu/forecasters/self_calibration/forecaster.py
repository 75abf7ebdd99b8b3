"""A forecaster whose intervals are as wide as the user's own finished runs ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from neuneu.data.trajectories import FloatArray, Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.protocol import JointForecaster, Query, ReferenceRuns, Sees
from neuneu.forecasters.self_calibration.cases import Case, case_of, progress
from neuneu.forecasters.self_calibration.correction import Correction

ENOUGH_RUNS: Final = 8
"""With this many finished runs a family belongs to those that intervals are calibrated on."""


class SelfCalibrated:
    """Corrects the quantiles of a `JointForecaster`, case by case; all else is the forecaster's."""

    def __init__(
        self,
        forecaster: JointForecaster,
        corrections: Mapping[Case, Correction],
        largest: Mapping[str, float],
    ) -> None:
        """Wraps a forecaster.

        Args:
            forecaster: any.
            corrections: by case; other cases are left as they are.
            largest: family -> parameters of its largest finished run, where known.
        """
        self.forecaster = forecaster
        self.corrections, self._largest = dict(corrections), dict(largest)

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.forecaster.name

    @property
    def sees(self) -> Sees:
        """What it reads."""
        return self.forecaster.sees

    @property
    def levels(self) -> tuple[float, ...]:
        """Its quantile levels."""
        return self.forecaster.levels

    @property
    def calibration(self) -> Calibration | None:
        """As the forecaster's, with the families of at least `ENOUGH_RUNS` finished runs."""
        own = self.forecaster.calibration
        families = {case.family for case, c in self.corrections.items() if c.n_runs >= ENOUGH_RUNS}
        if own is None or not families:
            return own
        return replace(own, families=tuple(sorted({*own.families, *families})))

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references."""
        self.forecaster.fit(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Corrected quantiles (h, Q) of each query."""
        answers = self.forecaster.predict(queries)
        return [self._correct(query, a) for query, a in zip(queries, answers, strict=True)]

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        """(count, h) futures of each query, from the answers of `predict`."""
        return self.forecaster.draw(queries, answers, count=count, seed=seed)

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """The calibration group of every target of every query."""
        return self.forecaster.calibration_groups(queries)

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        """The references of each query."""
        return self.forecaster.reference_runs(queries)

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` that the forecaster was trained on."""
        return self.forecaster.seen_share(trajectories)

    def _correct(self, query: Query, answer: FloatArray) -> FloatArray:
        context = query.context
        case = case_of(context, query.target_tokens, self._largest)
        correction = self.corrections.get(case)
        if correction is None:
            return answer
        key = (context.task, context.metric, context.num_fewshot)
        ahead = progress(context, query.target_tokens)
        bounds = context.scale.low, context.scale.high
        summand = correction.tasks.get(key, 0.0)
        return correction.apply(answer, self.levels, ahead, summand, bounds=bounds)
