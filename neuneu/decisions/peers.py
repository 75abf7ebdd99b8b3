"""Runs that are alike are compared by what they score now, not by how each is extrapolated.

Candidates of one size, equally far on and with the same horizon, share most of what is uncertain
about their futures. What sets them apart is how they score at present, on this task and on others;
forecasts of each alone add the noise of every extrapolation. So the answers about such peers are
moved until their medians at the horizon lie apart as their present levels do. The mean of the
peers stays, and the width of every interval. Nothing but contexts is read.
Shapes: h targets, Q levels, G runs on one task.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import MEDIAN
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.selection import RunName, TaskKey, run_name, task_key
from neuneu.forecasters.cross_run.trends import local_line
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.unit_scale import in_units, on_unit_scale

SIZE: Final = math.log(1.2)
"""Peers differ in ln parameters by no more; or the sizes of both are unknown."""

DISTANCE: Final = 0.2
"""Peers differ in ln tokens by no more, at present and at the horizon."""

WINDOW: Final = 0.35
"""Width in ln tokens of the local line whose end is a run's present level."""

# Weights of what sets peers apart at the horizon. Chosen on pairs of equal size in open-sci-ref,
# the SmolLM3 ablations and Pythia, forecast from 20 % of their tokens by networks that had seen
# nothing of the family: pairs ranked correctly, on single tasks and on the mean over tasks, and
# errors of the difference of a pair.
OWN: Final = 0.2
OWN_COMPARED: Final = 0.3
"""Weight of the forecaster's deviation on the task, the latter with reference runs."""

LEVEL: Final = 0.75
"""Times 1 - OWN the weight of the deviation of the present level; deviations shrink."""

EFFECT: Final = 0.3
"""Weight of the mean deviation on the run's other tasks: a run that is better is so on many. It is
the forecaster's where the question is about that task, and that of the level elsewhere."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cell:
    """G unfinished runs on one task.

    `size` (G,) is ln parameters, NaN where unknown; `now` and `horizon` (G,) are in ln tokens;
    `level` and `slope` (G,), per ln token, are those of the accuracy at `now`.
    """

    runs: list[RunName]
    size: FloatArray
    now: FloatArray
    horizon: FloatArray
    level: FloatArray
    slope: FloatArray

    @cached_property
    def peers(self) -> npt.NDArray[np.bool_]:
        """(G, G) whether two runs are alike; a run is its own peer."""
        unknown = np.isnan(self.size)
        apart = np.abs(self.size[:, None] - self.size)
        alike = np.where(unknown[:, None] | unknown, unknown[:, None] & unknown, apart <= SIZE)
        for place in (self.now, self.horizon):
            alike &= np.abs(place[:, None] - place) <= DISTANCE
        return alike

    @property
    def has_peers(self) -> npt.NDArray[np.bool_]:
        """(G,) whether another run is alike."""
        return np.asarray(self.peers.sum(axis=1) > 1)

    def deviation(self, value_G: FloatArray, place_G: FloatArray) -> FloatArray:
        """(G,) deviations from the mean of the peers, whose values are moved to the same place.

        They are moved along the mean slope of the peers, so that no run is favoured for having
        been evaluated a little further.
        """
        mean = self.peers / self.peers.sum(axis=1, keepdims=True)
        ahead = place_G - mean @ place_G
        return np.asarray(value_G - mean @ value_G - (mean @ self.slope) * ahead)


def align_peers(
    forecaster: JointForecaster,
    queries: Sequence[Query],
    answers: Sequence[FloatArray],
    beside: Sequence[Trajectory] = (),
) -> list[FloatArray]:
    """Moves the answers about runs that have peers among the queries.

    The shift grows in proportion to ln tokens, from 0 at the present to its whole at the horizon.

    Args:
        forecaster: fitted on its references.
        queries: about unfinished runs, one for each run and task, ending at the run's horizon.
        answers: (h, Q) quantiles of each.
        beside: contexts on further tasks, which also tell how good the runs are; those of other
            runs are ignored.

    Returns:
        The answers; those about runs without peers as they were.
    """
    levels = forecaster.levels
    units = [
        query.context.scale.quantiles_to_unit(answer, levels)
        for query, answer in zip(queries, answers, strict=True)
    ]
    # On the unit scale, how good a run is on one metric tells of its others.
    mapped = [on_unit_scale(query) for query in queries]
    moved = _aligned(forecaster, mapped, units, [t.on_unit_scale() for t in beside])
    return in_units(queries, moved, levels)


def _aligned(
    forecaster: JointForecaster,
    queries: Sequence[Query],
    answers: Sequence[FloatArray],
    beside: Sequence[Trajectory],
) -> list[FloatArray]:
    """`align_peers` on the unit scale."""
    index = {
        (run_name(query.context), task_key(query.context)): row
        for row, (query, answer) in enumerate(zip(queries, answers, strict=True))
        if len(query.context) and not np.isnan(answer).any()
    }
    ends = {run_name(query.context): float(query.target_tokens[-1]) for query in queries}
    keys = {task_key(query.context) for query in queries}
    further = [t for t in beside if len(t) and run_name(t) in ends and task_key(t) not in keys]
    cells = _cells([*(queries[row].context for row in index.values()), *further], ends)
    moved = list(answers)
    asked = {key: c for key, c in cells.items() if key in keys and c.has_peers.any()}
    if not asked:
        return moved
    levels = {key: cell.deviation(cell.level, cell.now) for key, cell in cells.items()}
    middle = list(forecaster.levels).index(MEDIAN)
    own = {}
    for key, cell in asked.items():
        medians = np.array([answers[index[run, key]][-1, middle] for run in cell.runs])
        own[key] = cell.deviation(medians, cell.horizon)
    effects = _effects(cells, {**levels, **own})
    references = forecaster.reference_runs(queries)
    for key, cell in asked.items():
        for g in np.flatnonzero(cell.has_peers):
            row = index[cell.runs[g], key]
            weight = OWN_COMPARED if references[row].used else OWN
            apart = weight * own[key][g] + (1.0 - weight) * LEVEL * levels[key][g]
            shift = apart + EFFECT * effects[cell.runs[g], key[0]] - own[key][g]
            ahead = np.log(queries[row].target_tokens) - cell.now[g]
            share = ahead / (cell.horizon[g] - cell.now[g])
            moved[row] = np.clip(answers[row] + shift * share[:, None], 0.0, 1.0)
    return moved


def _cells(contexts: Sequence[Trajectory], ends: Mapping[RunName, float]) -> dict[TaskKey, _Cell]:
    """The runs on every task, in the order of their names."""
    groups: dict[TaskKey, list[Trajectory]] = defaultdict(list)
    for context in sorted(contexts, key=run_name):
        groups[task_key(context)].append(context)
    cells = {}
    for key, members in groups.items():
        lines = np.array([_line(context) for context in members])
        cells[key] = _Cell(
            runs=[run_name(t) for t in members],
            size=np.log([t.params for t in members]),
            now=np.log([t.tokens[-1] for t in members]),
            horizon=np.log([ends[run_name(t)] for t in members]),
            level=lines[:, 0],
            slope=lines[:, 1],
        )
    return cells


def _line(context: Trajectory) -> tuple[float, float]:
    """Level at the last checkpoint, and slope per ln token."""
    x = np.log(context.tokens / context.tokens[-1])[None]
    level, slope = local_line(x, context.values[None], np.ones(x.shape, dtype=bool), WINDOW)
    return float(level[0]), float(slope[0])


def _effects(
    cells: Mapping[TaskKey, _Cell], deviations: Mapping[TaskKey, FloatArray]
) -> dict[tuple[RunName, str], float]:
    """The mean deviation of every run on all tasks but the one named; 0 without another."""
    found: dict[RunName, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, cell in cells.items():
        for g in np.flatnonzero(cell.has_peers):
            found[cell.runs[g]][key[0]].append(float(deviations[key][g]))
    effects = {}
    for run, of in found.items():
        total, count = (sum(how(own) for own in of.values()) for how in (sum, len))
        for task, own in of.items():
            others = count - len(own)
            effects[run, task] = (total - sum(own)) / others if others else 0.0
    return effects
