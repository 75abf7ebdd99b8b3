"""A correction of the width of intervals, from forecasts of n finished runs with known outcomes.

Each side of the median is scaled by a factor s. With z the distance of an outcome from the median
in widths of that side, factors are conformal quantiles of z with the run as the unit
(`calibration.run_weights`): of |z| at 80 % for both sides together, and of z at 90 % for one side
alone. What is used is

    ln s = w (ln s_both + v (ln s_side - ln s_both) + v t (x - mean x) + u (ln s_task - ln s_both)),
    w = n^4 / (n^4 + 4^4),   v = n / (n + 8),   u = m / (m + 8),

where x is a target's progress from the context (0) to the run's end (1), t the slope between the
targets before the last tenth of the way and those in it, and s_task as s_both, from the m runs on
that task. Two runs change a width by 6 % of what they ask for, three by 24 %, four by half, eight
by 94 %: few runs say little about the next, and the prior is the forecaster's own calibration. What
needs more runs than a common factor comes in by v and u. There is no surcharge for the next run (as
in `calibration`), and the median stays: corrections of it by task, or common to all, changed the
error by -4 to +15 % on three public families, and mostly lost.

For runs larger than all finished ones, narrowing counts by `NARROWING`: that smaller runs are easy
does not show that a larger one is.
Shapes: N targets, Q levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.quantiles import MEDIAN
from neuneu.data.scales import scale_of
from neuneu.forecasters.calibration import SMALLEST_WIDTH, conformal_quantile, run_weights

PRIOR_RUNS: Final = 4
"""Number of runs that count as much as the forecaster's own calibration."""

DETAIL_RUNS: Final = 8
"""As `PRIOR_RUNS`, for what differs between sides, tasks and along the way."""

NARROWING: Final = 0.7
"""Weight of narrowing, in ln, for runs larger than the finished ones."""

LARGEST_SCALE: Final = 5.0
"""Intervals become at most this many times wider or narrower."""

TaskKey = tuple[str, str, int]
"""(task, metric, num_fewshot)."""

_LAST: Final = 0.9
_TAIL: Final = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """N forecasts of finished runs at points that the forecaster did not see, and their outcomes.

    `quantiles` (N, Q) at `levels`; `outcomes`, `progress` (see `cases.progress`), `runs`,
    `trajectories` and `tasks` (N,): codes, each trajectory of one run, tasks by their place in
    `keys`.
    """

    levels: tuple[float, ...]
    keys: tuple[TaskKey, ...]
    quantiles: FloatArray
    outcomes: FloatArray
    progress: FloatArray
    runs: IntArray
    trajectories: IntArray
    tasks: IntArray

    def __len__(self) -> int:
        """N."""
        return len(self.outcomes)

    @property
    def n_runs(self) -> int:
        """The number of runs."""
        return len(np.unique(self.runs))

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Outcomes":
        """The chosen targets."""
        arrays = {f.name: getattr(self, f.name)[chosen] for f in fields(self)[2:]}
        return Outcomes(levels=self.levels, keys=self.keys, **arrays)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """ln of the factors `below` and `above` the median at progress `middle`, and their slopes.

    `tasks` are further summands by task; `n_runs` is the number of runs that it rests on, and
    `narrowing` the weight of factors below 1.
    """

    below: float = 0.0
    above: float = 0.0
    slope_below: float = 0.0
    slope_above: float = 0.0
    middle: float = 0.0
    tasks: Mapping[TaskKey, float] = field(default_factory=dict)
    n_runs: int = 0
    narrowing: float = 1.0

    def apply(
        self,
        quantiles_NQ: FloatArray,
        levels: tuple[float, ...],
        progress: FloatArray,
        task: FloatArray | float,
        *,
        bounds: FloatArray | tuple[float, float] = (0.0, 1.0),
    ) -> FloatArray:
        """Corrected quantiles (N, Q): within bounds, non-decreasing, with the same median.

        Args:
            quantiles_NQ: as the forecaster gave them; NaN stays.
            levels: of the columns.
            progress: (N,).
            task: the summand of the task (`tasks`), one or (N,).
            bounds: of the metric, one pair or (N, 2).
        """
        ahead = progress[:, None] - self.middle
        median = quantiles_NQ[:, [levels.index(MEDIAN)]]
        log_scale = np.where(
            np.array(levels) < MEDIAN,
            self.below + self.slope_below * ahead,
            self.above + self.slope_above * ahead,
        )
        log_scale = log_scale + np.reshape(task, (-1, 1))
        log_scale = np.where(log_scale < 0.0, self.narrowing * log_scale, log_scale)
        bound = np.log(LARGEST_SCALE)
        moved = median + np.exp(np.clip(log_scale, -bound, bound)) * (quantiles_NQ - median)
        low, high = np.reshape(bounds, (-1, 2)).T
        return np.clip(moved, low[:, None], high[:, None])

    def apply_to(self, known: Outcomes) -> FloatArray:
        """Corrected quantiles (N, Q) of held-out forecasts."""
        summands = np.array([self.tasks.get(key, 0.0) for key in known.keys])
        scales = [scale_of(metric) for _, metric, _ in known.keys]
        bounds = np.array([(scale.low, scale.high) for scale in scales])[known.tasks]
        return self.apply(
            known.quantiles, known.levels, known.progress, summands[known.tasks], bounds=bounds
        )


def fit_correction(
    known: Outcomes, *, n_runs: int | None = None, larger: bool = False
) -> Correction:
    """The correction that forecasts with known outcomes ask for.

    Args:
        known: of at least one run.
        n_runs: number of runs that it counts as; by default those of `known`.
        larger: whether it is for runs larger than these.
    """
    n = known.n_runs if n_runs is None else n_runs
    weight = n**4 / (n**4 + PRIOR_RUNS**4)
    detail = n / (n + DETAIL_RUNS)
    scores = _Scores(known)
    both, *sides = scores.logs()
    below, above = (weight * ((1.0 - detail) * both + detail * side) for side in sides)
    slopes = weight * detail * scores.slopes()
    tasks = {}
    for place in np.unique(known.tasks):
        chosen = known.tasks == place
        m = len(np.unique(known.runs[chosen]))
        own = scores.logs(chosen)[0]
        tasks[known.keys[place]] = float(weight * m / (m + DETAIL_RUNS) * (own - both))
    return Correction(
        below=float(below),
        above=float(above),
        slope_below=float(slopes[0]),
        slope_above=float(slopes[1]),
        middle=float(np.average(known.progress, weights=scores.weights)),
        tasks=tasks,
        n_runs=n,
        narrowing=NARROWING if larger else 1.0,
    )


class _Scores:
    """Distances of outcomes from the median in widths of their side, with weights (N,) by run."""

    def __init__(self, known: Outcomes) -> None:
        self._known = known
        levels = np.array(known.levels)
        low, high = (int(np.abs(levels - tail).argmin()) for tail in (_TAIL, 1.0 - _TAIL))
        median = known.quantiles[:, known.levels.index(MEDIAN)]
        off = known.outcomes - median
        floor = SMALLEST_WIDTH / 2.0
        self._below = -off / np.maximum(median - known.quantiles[:, low], floor)
        self._above = off / np.maximum(known.quantiles[:, high] - median, floor)
        self._shares = (1.0 - known.levels[low], known.levels[high])
        self.weights, _ = run_weights(known.runs, known.trajectories)

    def logs(self, chosen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """(3,) ln of the factors for both sides, below and above the median."""
        of = slice(None) if chosen is None else chosen
        below, above, weights = self._below[of], self._above[of], self.weights[of]
        weights = weights / weights.sum()
        found = [
            conformal_quantile(scores, weights, share)[0]
            for scores, share in (
                (np.maximum(below, above), sum(self._shares) - 1.0),
                (below, self._shares[0]),
                (above, self._shares[1]),
            )
        ]
        return np.asarray(np.log(np.clip(found, 1.0 / LARGEST_SCALE, LARGEST_SCALE)))

    def slopes(self) -> FloatArray:
        """(2,) slopes in progress of ln of the factors below and above the median."""
        ahead = self._known.progress
        last = ahead >= _LAST
        if last.all() or not last.any():
            return np.zeros(2)
        early, late = (np.average(ahead[of], weights=self.weights[of]) for of in (~last, last))
        return np.asarray((self.logs(last) - self.logs(~last))[1:] / (late - early))
