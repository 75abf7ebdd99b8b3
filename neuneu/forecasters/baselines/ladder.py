"""The OLMo ladder's law: accuracy from parameters and tokens, by way of the task's own loss.

Bhagia et al. 2024 (arXiv 2412.04403) fit for one task, on finished smaller runs of one recipe:

1. L(N, D) = A / N^alpha + B / D^beta + E, the loss of the gold answers (bits per byte) at N
   parameters and D tokens, on the mean of each run's last five checkpoints;
2. accuracy = a / (1 + exp(-k (L - L0))) + b, on moving averages of five checkpoints but for the
   first tenth of each run, and accuracy 1 at loss 0.

Their single-step variant fits accuracy = a / (1 + exp(-L(N, D))) + b at once; it answers here
where no loss of the task is known. Neither needs a checkpoint of the run itself.

What differs here, so that few, noisy or flat runs do not make the law run away:

* Step 1 also reads intermediate checkpoints; those of a run weigh a tenth of its last.
* Weak priors (see the constants) on exponents, chance as the floor, one as the ceiling.
* Families are fitted as a whole. Where their recipes are known, the law is shifted by what the
  runs of the query's recipe ended above it.

Shapes: n points of reference runs, h targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines.ladder_fits import Points, fit_one_step, fit_two_steps
from neuneu.forecasters.baselines.own_past import LAST
from neuneu.forecasters.protocol import Query, Sees

MIN_RUNS: Final = 3
MIN_CHECKPOINTS: Final = 8
"""Fewest points, of all runs together, for laws of five and seven parameters."""

SKIP: Final = 0.1
"""Share of a run's tokens whose checkpoints are left out, as published."""

_WINDOW: Final = 5
_WITHIN: Final = 0.95
_MAX_POINTS: Final = 32
_EARLIER_WEIGHT: Final = 0.1

_Law = Callable[[FloatArray, FloatArray], FloatArray]
_Cell = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    law: _Law
    shifts: dict[str, float]


class LadderLaw:
    """A law per task, from the family's reference runs to any number of parameters and tokens."""

    sees: Sees = "reference"
    levels = (0.5,)

    def __init__(self, name: str, *, two_step: bool = True, offset: bool = False) -> None:
        """A law without references, which answers nothing yet.

        Args:
            name: what tables call it.
            two_step: go by the task's loss where it is known.
            offset: add the law's mean error on the last three values of the run's own past.
        """
        self.name = name
        self._two_step, self._offset = two_step, offset
        self._references: dict[_Cell, list[Trajectory]] = {}
        self._laws: dict[_Cell, _Fitted | None] = {}

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Keeps finished runs whose parameters are known; a task is fitted on first use."""
        self._references, self._laws = {}, {}
        for trajectory in references:
            trained = trajectory.without_step_zero()
            if len(trained) and trained.params > 0:
                self._references.setdefault(_cell(trained), []).append(trained)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, 1) array a query, within [0, 1]; an empty context is answered as any other.

        NaN throughout where fewer than three references of this family have the task, metric
        and shots, where they share one size and one length, or without the query's parameters.
        """
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        context, cell = query.context, _cell(query.context)
        if cell not in self._laws:
            self._laws[cell] = self._fit_cell(cell)
        fitted = self._laws[cell]
        if fitted is None or not context.params > 0:
            return np.full((len(query.target_steps), 1), np.nan)
        past = context.without_step_zero()
        if self._offset and len(past):
            shift = float((past.values - _along(fitted.law, past))[-LAST:].mean())
        else:
            shift = fitted.shifts.get(context.recipe, 0.0)
        params = np.full(len(query.target_tokens), context.params)
        return np.clip(fitted.law(params, query.target_tokens) + shift, 0.0, 1.0)[:, None]

    def _fit_cell(self, cell: _Cell) -> _Fitted | None:
        runs = self._references.get(cell, [])
        sizes = {run.params for run in runs}
        lengths = {round(float(np.log(run.tokens[-1])), 1) for run in runs}
        if len({run.run_group for run in runs}) < MIN_RUNS or len(sizes) == len(lengths) == 1:
            return None
        points = _points(runs)
        if len(points.value) < MIN_CHECKPOINTS:
            return None
        chance = runs[0].chance
        law = fit_two_steps(points, chance) if self._two_step else None
        law = law or fit_one_step(points, chance)
        return _Fitted(law=law, shifts=_recipe_shifts(law, runs))


def _recipe_shifts(law: _Law, runs: Sequence[Trajectory]) -> dict[str, float]:
    """By recipe: how far its runs ended above the law; empty if all share one recipe."""
    above: dict[str, list[float]] = {}
    for run in runs:
        end = float((run.values - _along(law, run))[-LAST:].mean())
        above.setdefault(run.recipe, []).append(end)
    if len(above) == 1:
        return {}
    return {recipe: float(np.mean(ends)) for recipe, ends in above.items() if recipe}


def _along(law: _Law, run: Trajectory) -> FloatArray:
    return law(np.full(len(run), run.params), run.tokens)


def _points(runs: Sequence[Trajectory]) -> Points:
    """Smoothed checkpoints of the runs, evenly in ln tokens where there are many."""
    parts = []
    for run in runs:
        keep = np.flatnonzero(run.tokens >= SKIP * run.tokens[-1])
        if len(keep) > _MAX_POINTS:
            wanted = np.geomspace(run.tokens[keep[0]], run.tokens[-1], _MAX_POINTS)
            keep = np.unique(np.searchsorted(run.tokens, wanted * (1 - 1e-9)))
        weight = np.full(len(keep), _EARLIER_WEIGHT / max(len(keep) - 1, 1))
        weight[-1] = 1.0
        loss = np.full(len(run), np.nan) if run.task_loss is None else run.task_loss
        params = np.full(len(keep), run.params)
        own = (_smooth(run.tokens, values)[keep] for values in (loss, run.values))
        parts.append((params, run.tokens[keep], *own, weight))
    return Points(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _smooth(tokens: FloatArray, values: FloatArray) -> FloatArray:
    """(n,) means of up to five checkpoints within the last twentieth of tokens."""
    first = np.searchsorted(tokens, _WITHIN * tokens)
    starts = np.maximum(first, np.arange(len(values)) - _WINDOW + 1)
    return np.array([values[a : i + 1].mean() for i, a in enumerate(starts)])


def _cell(trajectory: Trajectory) -> _Cell:
    return (trajectory.family, trajectory.task, trajectory.metric, trajectory.num_fewshot)
