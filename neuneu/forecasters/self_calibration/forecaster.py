"""A forecaster whose intervals are as wide as the user's own finished runs ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from neuneu.data.arrays import FloatArray
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.self_calibration.cases import Case, case_of, progress
from neuneu.forecasters.self_calibration.correction import Correction
from neuneu.forecasters.wrapper import JointForecasterWrapper

ENOUGH_RUNS: Final = 8
"""With this many finished runs a family belongs to those that intervals are calibrated on."""


class SelfCalibrated(JointForecasterWrapper):
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
        super().__init__(forecaster)
        self.corrections, self._largest = dict(corrections), dict(largest)

    @property
    def calibration(self) -> Calibration | None:
        """As the forecaster's, with the families of at least `ENOUGH_RUNS` finished runs."""
        own = self.forecaster.calibration
        families = {case.family for case, c in self.corrections.items() if c.n_runs >= ENOUGH_RUNS}
        if own is None or not families:
            return own
        return replace(own, families=tuple(sorted({*own.families, *families})))

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Corrected quantiles (h, Q) of each query."""
        answers = self.forecaster.predict(queries)
        return [self._correct(query, a) for query, a in zip(queries, answers, strict=True)]

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
