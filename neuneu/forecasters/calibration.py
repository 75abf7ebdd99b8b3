"""Conformalised quantiles, with the run as the exchangeable unit.

Forecasts of one run share its fate: a hundred tasks of one run are not a hundred observations. So a
run has one unit of weight, shared by its trajectories and by their targets, and the test run one
more unit at infinity, as in split conformal prediction for two-layer hierarchies (Dunn, Wasserman
and Ramdas 2022, arXiv 1809.07441; the pooled variant). Where whole families were held out, as a
user's family is, every family has the same weight, split evenly among its runs. Each tail is
adjusted alone, in units of the interval's width (conformalised quantile regression, Romano et al.
2019, arXiv 1905.03222), so that a share q of outcomes lies below the quantile of level q. Where
the noise of a run's evaluations is known, intervals are widened by it first (`widening`).

With the surcharge of one more run, a run drawn like the calibration runs is covered at least at
the stated rate, on average over runs (the finite-sample correction of split conformal
prediction). Without it, coverage is that of the calibration runs themselves. The shipped
forecaster goes without: a surcharge of one family of five would leave no finite interval.
Nothing is guaranteed for a family unlike all of these, for larger models than those in the
calibration set, or from fewer than ten runs; answers carry a warning for the last two.
Shapes: N targets, Q levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.quantiles import MEDIAN, pinball
from neuneu.forecasters.warnings import Warning
from neuneu.forecasters.widening import Widening, fit_widening, widen

MIN_RUNS: Final = 10
"""Groups of fewer runs use the pooled adjustment: a 10 % tail takes ten runs to hold one."""

SMALLEST_WIDTH: Final = 0.004
"""Unit of narrower intervals: four tenths of a point. A score must not grow without bound where a
forecast is nearly certain, as on a task that stays at 0."""

POOLED: Final = "all"


@dataclass(frozen=True, kw_only=True)
class GroupAdjustment:
    """Shifts of a group's quantiles away from the median, in widths, one for each level.

    They rest on `n_runs` runs. `reached` is false for a level that too few runs support; its
    shift is then the largest score of the group. `widening` comes before the shifts.
    """

    shifts: tuple[float, ...]
    reached: tuple[bool, ...]
    n_runs: int
    widening: Widening = field(default_factory=Widening)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Adjustments by group, always with `all`; `families` and `largest_params` of their runs.

    `unseen` says that each family was forecast by networks trained on the others.
    """

    levels: tuple[float, ...]
    groups: Mapping[str, GroupAdjustment]
    families: tuple[str, ...]
    largest_params: float
    unseen: bool = False

    def group(self, name: str) -> str:
        """The group to use for `name`: itself, or `all` where it has too few runs."""
        found = self.groups.get(name)
        return name if found is not None and found.n_runs >= MIN_RUNS else POOLED

    def apply(
        self, quantiles_NQ: FloatArray, names: Sequence[str], noise_N: FloatArray | None = None
    ) -> FloatArray:
        """Adjusts quantiles (N, Q): in [0, 1], non-decreasing, with the same median.

        Args:
            quantiles_NQ: at this calibration's levels.
            names: the group of each row.
            noise_N: standard deviation of the noise of each row's series; None is unknown.
        """
        if not len(quantiles_NQ):
            return quantiles_NQ
        used = [self.group(name) for name in names]
        known = sorted(set(used))
        shifts = np.array([self.groups[name].shifts for name in known])
        scale, share = np.array(
            [(w.scale, w.share) for w in (self.groups[name].widening for name in known)]
        ).T
        place = {name: index for index, name in enumerate(known)}
        row = np.array([place[name] for name in used], dtype=np.int64)
        noise = np.zeros(len(used)) if noise_N is None else noise_N
        widened = widen(quantiles_NQ, self.levels, noise, scale[row], share[row])
        side = np.sign(np.array(self.levels) - MEDIAN)
        moved = widened + side * shifts[row] * _widths(widened)
        middle = self.levels.index(MEDIAN)
        # Groups are adjusted level by level, so shifted levels may cross; the outer one gives way.
        moved[:, middle:] = np.maximum.accumulate(moved[:, middle:], axis=1)
        moved[:, : middle + 1] = np.minimum.accumulate(moved[:, middle::-1], axis=1)[:, ::-1]
        return np.clip(moved, 0.0, 1.0)

    def warnings(self, *, family: str, params: float, group: str) -> list[Warning]:
        """Why a run's coverage is not guaranteed; empty where it is."""
        found = []
        if not self.unseen and family not in self.families:
            text = f"family {family!r} is not in the calibration set"
            found.append(Warning("unseen-family", text))
        if params > 1.05 * self.largest_params:
            text = (
                f"{params:.3g} parameters are more than the {self.largest_params:.3g} of the "
                "largest run in the calibration set"
            )
            found.append(Warning("larger-model", text))
        runs = self.groups[self.group(group)].n_runs
        if runs < MIN_RUNS:
            text = f"calibrated on {runs} runs; at least {MIN_RUNS} are needed"
            found.append(Warning("few-calibration-runs", text))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationSet:
    """N forecasts of runs that the forecaster was not trained on, and their outcomes.

    `quantiles` (N, Q); `outcomes` (N,); `runs` and `trajectories` (N,) codes, each trajectory of
    one run; `groups` (N,) names. `families` (N,) codes where whole families were held out. `noise`
    (N,): as `Calibration.apply`.
    """

    quantiles: FloatArray
    outcomes: FloatArray
    runs: IntArray
    trajectories: IntArray
    groups: npt.NDArray[np.str_]
    families: IntArray | None = None
    noise: FloatArray | None = None


def calibrate(
    known: CalibrationSet,
    levels: tuple[float, ...],
    *,
    families: Sequence[str],
    largest_params: float,
    surcharge: bool = True,
) -> Calibration:
    """Computes the adjustments of every group and of all together.

    Args:
        known: forecasts with outcomes.
        levels: of their columns.
        families: of the runs.
        largest_params: of the runs.
        surcharge: whether to count the run to be forecast as one more run of infinite score,
            which guarantees the stated coverage on average.

    Raises:
        DataError: no forecasts, or NaN among them.
    """
    if not len(known.outcomes):
        raise DataError("calibration: expected forecasts with known outcomes, found none.")
    if not (np.isfinite(known.quantiles).all() and np.isfinite(known.outcomes).all()):
        raise DataError("calibration: found NaN forecasts or outcomes; leave them out.")
    everyone = np.ones(len(known.outcomes), bool)
    groups = {POOLED: _adjust(known, everyone, levels, surcharge=surcharge)}
    for name in np.unique(known.groups):
        members = known.groups == name
        groups[str(name)] = _adjust(known, members, levels, surcharge=surcharge)
    return Calibration(
        levels=levels,
        groups=groups,
        families=tuple(sorted(set(families))),
        largest_params=largest_params,
        unseen=known.families is not None,
    )


def conformal_quantile(scores: FloatArray, weights: FloatArray, share: float) -> tuple[float, bool]:
    """The smallest score that at least `share` of the weight does not exceed, and True.

    `weights` may add up to less than 1: the rest lies at infinity. Where that makes the quantile
    infinite, the largest score and False.
    """
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order]) >= share - 1e-12  # sums of weights are not exact
    rank = int(np.argmax(reached)) if reached.any() else len(order) - 1
    return float(scores[order[rank]]), bool(reached.any())


def _adjust(
    known: CalibrationSet,
    chosen: npt.NDArray[np.bool_],
    levels: tuple[float, ...],
    *,
    surcharge: bool,
) -> GroupAdjustment:
    weights, n_runs = run_weights(known.runs[chosen], known.trajectories[chosen])
    family_of = np.zeros(len(weights), np.int64)
    if known.families is not None:
        _, family_of = np.unique(known.families[chosen], return_inverse=True)
    total = np.bincount(family_of, weights=weights)
    weights *= weights.sum() / (len(total) * total[family_of])
    if not surcharge:  # 1 / m each instead of 1 / (m + 1)
        weights *= (n_runs + 1) / n_runs
    quantiles, outcomes = known.quantiles[chosen], known.outcomes[chosen]
    widening = Widening()
    if known.noise is not None:
        noise = known.noise[chosen]
        # A family's loss counts in units of what it is without widening.
        loss = weights * pinball(quantiles, outcomes, np.array(levels)).mean(axis=1)
        unit = np.maximum(np.bincount(family_of, weights=loss), 1e-12)
        widening = fit_widening(quantiles, outcomes, noise, levels, weights / unit[family_of])
        quantiles = widen(quantiles, levels, noise, widening.scale, widening.share)
    side = np.sign(np.array(levels) - MEDIAN)
    scores_NQ = side * (outcomes[:, None] - quantiles) / _widths(quantiles)
    found = [
        (0.0, True)
        if level == MEDIAN
        else conformal_quantile(scores_NQ[:, column], weights, max(level, 1.0 - level))
        for column, level in enumerate(levels)
    ]
    shifts, reached = zip(*found, strict=True)
    return GroupAdjustment(shifts=shifts, reached=reached, n_runs=n_runs, widening=widening)


def run_weights(runs: IntArray, trajectories: IntArray) -> tuple[FloatArray, int]:
    """((N,) weights, m runs): 1 / (m + 1) for each run, split evenly among its trajectories, and
    then among their targets."""
    distinct, run_of = np.unique(runs, return_inverse=True)
    _, trajectory_of, targets = np.unique(trajectories, return_inverse=True, return_counts=True)
    pairs = np.unique(np.stack([run_of, trajectory_of]), axis=1)
    per_run = np.bincount(pairs[0])  # trajectories of each run
    share = 1.0 / (len(distinct) + 1)
    return share / (per_run[run_of] * targets[trajectory_of]), len(distinct)


def _widths(quantiles_NQ: FloatArray) -> FloatArray:
    """(N, 1) distance between the outermost levels, at least `SMALLEST_WIDTH`."""
    return np.maximum(quantiles_NQ[:, -1:] - quantiles_NQ[:, :1], SMALLEST_WIDTH)
