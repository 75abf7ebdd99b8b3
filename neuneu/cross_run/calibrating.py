"""Calibration of the cross-run forecaster: groups of questions, and forecasts of held-out runs.

Shapes: N targets, Q levels.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.calibration import Calibration, CalibrationSet, calibrate
from neuneu.cross_run.curves import Codes
from neuneu.forecaster import Forecaster, Query
from neuneu.joint import Joint, fit_joint, scores
from neuneu.trajectories import Trajectory

HORIZONS: Final = (1.0, 2.5)
"""Edges in ln(target tokens / context tokens) between near, middle and far."""

NEAR_CHANCE: Final = 0.03
"""A task whose present level lies within three points of chance is near it."""


def group_names(queries: Sequence[Query], with_references: Sequence[bool]) -> list[list[str]]:
    """The calibration group of every target of every query.

    Args:
        queries: any.
        with_references: whether the forecaster had runs to compare each with.
    """
    names = []
    for query, compared in zip(queries, with_references, strict=True):
        context = query.context.without_step_zero()
        if not len(context):
            names.append([""] * len(query.target_steps))
            continue
        level = float(context.values[-3:].mean())
        chance = context.chance
        kind = "signal" if chance is None or level > chance + NEAR_CHANCE else "near-chance"
        ahead = np.log(query.target_tokens / context.tokens[-1])
        far = np.searchsorted(HORIZONS, ahead)
        seen = "compared" if compared else "alone"
        names.append([f"{seen}, {kind}, {('near', 'middle', 'far')[f]}" for f in far])
    return names


def has_references(queries: Sequence[Query], references: Sequence[Trajectory]) -> list[bool]:
    """Whether any of the references is of a query's task, metric and shots, and another run."""
    runs: dict[tuple[str, str, int], set[tuple[str, str]]] = {}
    for t in references:
        runs.setdefault((t.task, t.metric, t.num_fewshot), set()).add(t.run_group)
    contexts = [query.context for query in queries]
    return [
        bool(runs.get((c.task, c.metric, c.num_fewshot), set()) - {c.run_group}) for c in contexts
    ]


class OutOfFold:
    """Collects forecasts of runs that a forecaster had not learnt from, and calibrates on them."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        """Nothing collected yet."""
        self._levels = levels
        self._quantiles: list[np.ndarray] = []
        self._outcomes: list[np.ndarray] = []
        self._runs: list[np.ndarray] = []
        self._trajectories: list[np.ndarray] = []
        self._groups: list[str] = []
        self._x: list[np.ndarray] = []
        self._families: set[str] = set()
        self._largest = 0.0
        self._codes = Codes()

    def add(
        self,
        forecaster: Forecaster,
        queries: Sequence[Query],
        truths: Sequence[Trajectory],
        with_references: Sequence[bool],
    ) -> None:
        """Forecasts `queries` and keeps what came of them in `truths`."""
        groups = group_names(queries, with_references)
        answers = forecaster.predict(queries)
        for query, truth, answer, names in zip(queries, truths, answers, groups, strict=True):
            if np.isnan(answer).any():
                continue
            context, n = query.context, len(truth)
            self._quantiles.append(answer)
            self._outcomes.append(truth.values)
            self._runs.append(np.full(n, self._codes(("run", *context.run_group))))
            key = ("trajectory", context.run_group, context.key, int(context.steps[-1]))
            self._trajectories.append(np.full(n, self._codes(key)))
            self._groups += names
            self._x.append(np.log(truth.tokens))
            self._families.add(context.family)
            self._largest = max(self._largest, context.params)

    def joint(self, calibration: Calibration) -> Joint:
        """How outcomes of one run move together under the calibrated forecasts.

        Raises:
            DataError: no trajectory of two targets.
        """
        quantiles = np.concatenate([np.zeros((0, len(self._levels))), *self._quantiles])
        adjusted = calibration.apply(quantiles, self._groups)
        outcomes = np.concatenate([np.zeros(0), *self._outcomes])
        return fit_joint(
            scores(adjusted, self._levels, outcomes),
            np.concatenate([np.zeros(0), *self._x]),
            np.concatenate([np.zeros(0, int), *self._trajectories]),
        )

    def calibrate(self, *, surcharge: bool = False) -> Calibration:
        """What was collected, as adjustments; see `calibration.calibrate`.

        Raises:
            DataError: nothing was.
        """
        return calibrate(
            CalibrationSet(
                quantiles=np.concatenate([np.zeros((0, len(self._levels))), *self._quantiles]),
                outcomes=np.concatenate([np.zeros(0), *self._outcomes]),
                runs=np.concatenate([np.zeros(0, int), *self._runs]),
                trajectories=np.concatenate([np.zeros(0, int), *self._trajectories]),
                groups=np.array(self._groups),
            ),
            self._levels,
            families=sorted(self._families),
            largest_params=self._largest,
            surcharge=surcharge,
        )
