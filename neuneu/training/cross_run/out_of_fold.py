"""Forecasts of held-out runs, and the calibration on them. Shapes: N targets, Q levels."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.calibration import Calibration, CalibrationSet, calibrate
from neuneu.forecasters.copula import Joint, Scored, fit_joint, scores
from neuneu.forecasters.cross_run.curves import Codes
from neuneu.forecasters.cross_run.groups import group_names
from neuneu.forecasters.noise import evaluation_noise
from neuneu.forecasters.protocol import Forecaster, Query


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """One query, its (h, Q) answer, and the (h,) outcomes at ln tokens `x`.

    `noise`: see `evaluation_noise`. `call` is shared by queries with the same context fraction and
    references.
    """

    context: Trajectory
    answer: FloatArray
    outcomes: FloatArray
    x: FloatArray
    noise: float
    groups: list[str]
    call: object


class OutOfFold:
    """Collects forecasts of runs that a forecaster was not trained on, and calibrates on them."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        """Nothing collected yet."""
        self._levels = levels
        self._answered: list[Answered] = []

    @classmethod
    def merged(cls, parts: Sequence["OutOfFold"]) -> "OutOfFold":
        """Joins several collections of the same levels."""
        together = cls(parts[0]._levels)
        for part in parts:
            together._answered += part._answered
        return together

    def add(
        self,
        forecaster: Forecaster,
        queries: Sequence[Query],
        truths: Sequence[Trajectory],
        with_references: Sequence[bool],
    ) -> None:
        """Forecasts `queries`, all of one context fraction, and keeps the outcomes in `truths`."""
        call = object()
        groups = group_names(queries, with_references)
        answers = forecaster.predict(queries)
        noise = evaluation_noise(queries).tolist()
        self._answered += [
            Answered(
                context=query.context, answer=answer, outcomes=truth.values,
                x=np.log(truth.tokens), noise=own, groups=names, call=call,
            )
            for query, truth, answer, own, names in zip(
                queries, truths, answers, noise, groups, strict=True
            )
            if not np.isnan(answer).any()
        ]  # fmt: skip

    def joint(self, calibration: Calibration) -> Joint:
        """Fits the joint distribution of outcomes under the calibrated forecasts.

        Raises:
            DataError: no trajectory of two targets.
        """
        adjusted = calibration.apply(self._quantiles(), self._groups(), self._noise())
        return fit_joint(
            Scored(
                scores=scores(adjusted, self._levels, self._outcomes()),
                x=np.concatenate([np.zeros(0), *(a.x for a in self._answered)]),
                trajectories=self._coded(lambda a: (a.call, a.context.run_group, a.context.key)),
                runs=self._coded(lambda a: (a.call, a.context.run_group, _kind(a.context))),
                tasks=self._coded(lambda a: (a.call, a.context.task, _kind(a.context))),
            )
        )

    def calibrate(self, *, surcharge: bool = False, by_family: bool = False) -> Calibration:
        """Calibrates on everything collected; see `calibration.calibrate`.

        Args:
            surcharge: as there.
            by_family: whether each fold was a whole family.

        Raises:
            DataError: nothing was collected.
        """
        return calibrate(
            CalibrationSet(
                quantiles=self._quantiles(),
                outcomes=self._outcomes(),
                runs=self._coded(lambda a: a.context.run_group),
                trajectories=self._coded(lambda a: (a.context.key, a.call)),
                groups=np.array(self._groups()),
                families=self._coded(lambda a: a.context.family) if by_family else None,
                noise=self._noise(),
            ),
            self._levels,
            families=sorted({a.context.family for a in self._answered}),
            largest_params=max((a.context.params for a in self._answered), default=0.0),
            surcharge=surcharge,
        )

    def measure(self, calibration: Calibration) -> dict[str, dict[str, float]]:
        """What the calibrated forecasts are worth, by what was known of a run.

        Returns:
            `alone`, `compared` and `planned` (see `groups`), where there are any -> `runs`, `error`
            (mean absolute, of the median), `coverage_80` and `width_80`; means over the targets of
            a forecast, then over forecasts. Errors and widths in accuracy, 0.01 = one point.
        """
        low, middle, high = (self._levels.index(level) for level in (0.1, MEDIAN, 0.9))
        found: dict[str, list[tuple[object, float, float, float]]] = defaultdict(list)
        for one in self._answered:
            noise = np.full(len(one.answer), one.noise)
            answer = calibration.apply(one.answer, one.groups, noise)
            y = one.outcomes
            inside = (answer[:, low] <= y) & (y <= answer[:, high])
            found[one.groups[0].partition(",")[0]].append(
                (
                    one.context.run_group,
                    float(np.abs(answer[:, middle] - y).mean()),
                    float(inside.mean()),
                    float((answer[:, high] - answer[:, low]).mean()),
                )
            )
        return {
            kind: {"runs": float(len({run for run, *_ in rows}))}
            | {
                name: float(np.mean([row[column] for row in rows]))
                for column, name in enumerate(("error", "coverage_80", "width_80"), start=1)
            }
            for kind, rows in sorted(found.items())
        }

    def _quantiles(self) -> FloatArray:
        empty = np.zeros((0, len(self._levels)))
        return np.concatenate([empty, *(a.answer for a in self._answered)])

    def _outcomes(self) -> FloatArray:
        return np.concatenate([np.zeros(0), *(a.outcomes for a in self._answered)])

    def _groups(self) -> list[str]:
        return [name for a in self._answered for name in a.groups]

    def _noise(self) -> FloatArray:
        counts = [len(a.outcomes) for a in self._answered]
        return np.repeat(np.array([a.noise for a in self._answered], dtype=np.float64), counts)

    def _coded(self, name: Callable[[Answered], object]) -> IntArray:
        """(N,) the code of each target's name."""
        codes = Codes()
        counts = [len(a.outcomes) for a in self._answered]
        return np.repeat(np.array([codes(name(a)) for a in self._answered], dtype=np.int64), counts)


def _kind(context: Trajectory) -> tuple[str, int]:
    return (context.metric, context.num_fewshot)
