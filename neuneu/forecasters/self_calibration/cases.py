"""Cases: which finished runs a run is comparable with, and how these are held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.splits import SplitRule
from neuneu.data.trajectories import RunGroup, Trajectory

LEAVE_ONE_OUT: Final = 12
"""Up to this many runs, each is held out alone."""

N_FOLDS: Final = 10
"""Number of folds of more runs."""

SHARES: Final = (0.05, 0.1, 0.2, 0.4, 0.7)
"""Where finished runs are cut: the nearest of these shares of their tokens, in ln."""

SMALLER: Final = 0.9
"""A run of less than this share of another's parameters is smaller; the rest is rounding."""

MAX_TARGETS: Final = 12


@dataclass(frozen=True, kw_only=True, order=True)
class Case:
    """Runs of a family that the same finished runs stand for, cut at the same point.

    It rests on nothing but the run itself and the finished runs: an unfinished run beside it must
    not change what is said of it. `share` is where the finished runs are cut, one of `SHARES`, or 0
    for a run before its start. `larger`: whether the run is larger than every finished one; then
    finished runs are held out with smaller ones as references only.
    """

    family: str
    share: float
    larger: bool = False


def largest_sizes(finished: Sequence[Trajectory]) -> dict[str, float]:
    """Family -> parameters of its largest finished run; a family without known sizes has none."""
    found: dict[str, float] = {}
    for t in finished:
        if np.isfinite(t.params):
            found[t.family] = max(found.get(t.family, 0.0), t.params)
    return found


def case_of(context: Trajectory, targets: FloatArray, largest: Mapping[str, float]) -> Case:
    """The case of a run.

    Args:
        context: of the run.
        targets: (h,) tokens, the last of them the horizon.
        largest: family -> parameters of its largest finished run.
    """
    now = float(context.tokens[-1]) if len(context) else 0.0
    known = largest.get(context.family)
    return Case(
        family=context.family,
        share=nearest_share(now / _end(context, targets)) if now > 0.0 else 0.0,
        larger=known is not None and known < SMALLER * context.params,
    )


def nearest_share(share: float) -> float:
    """The one of `SHARES` that is nearest to a share above 0, in ln."""
    return min(SHARES, key=lambda known: abs(np.log(known / share)))


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Runs to hold out together; of their family, only runs `below` this size are references."""

    runs: tuple[RunGroup, ...]
    below: float = np.inf

    def admits(self, trajectory: Trajectory) -> bool:
        """Whether a finished run may be a reference of these runs."""
        if trajectory.run_group in self.runs:
            return False
        same = trajectory.family == self.runs[0][0]
        return not same or self.below == np.inf or trajectory.params < self.below


def make_folds(sizes: Mapping[RunGroup, float], *, larger: bool = False) -> tuple[Fold, ...]:
    """Folds of the finished runs of a family.

    Each run alone, or ten folds with runs of all sizes. For a case of larger runs, runs of one size
    together, and neighbouring sizes where there are more than ten; the smallest runs, for which
    there is nothing smaller, only serve as references.

    Args:
        sizes: run group -> parameters, NaN where unknown.
        larger: whether the case is about larger runs. Where no two runs have a smaller one, that
            makes no difference.
    """
    ordered = sorted(sizes, key=lambda run: (float(np.nan_to_num(sizes[run])), run))
    if larger:
        smallest = np.nanmin(list(sizes.values()))
        upper = [run for run in ordered if smallest < SMALLER * sizes[run]]
        kinds = sorted({float(f"{sizes[run]:.1e}") for run in upper})
        if len(upper) > 1:
            groups = np.array_split(np.array(kinds), min(len(kinds), N_FOLDS))
            folds = [[r for r in upper if float(f"{sizes[r]:.1e}") in g] for g in groups]
            return tuple(
                Fold(runs=tuple(runs), below=SMALLER * min(sizes[r] for r in runs))
                for runs in folds
            )
    n_folds = len(ordered) if len(ordered) <= LEAVE_ONE_OUT else N_FOLDS
    return tuple(Fold(runs=tuple(ordered[fold::n_folds])) for fold in range(n_folds))


@dataclass(frozen=True, kw_only=True)
class AtShare(SplitRule):
    """The context is the first `fraction` of a finished run's tokens, at least one checkpoint.

    A fraction of 0 stands for a run before its start: no checkpoint at all. Of the later
    checkpoints at most `MAX_TARGETS` are targets, spread evenly, always with the last.
    """

    prefix = "self"

    def split(self, trajectory: Trajectory) -> tuple[Trajectory, Trajectory] | None:
        """(context, targets) without step 0; None where there is nothing left to forecast."""
        trained = trajectory.without_step_zero()
        end = self._end(trained)
        if not end < len(trained):
            return None
        later = np.arange(end, len(trained))
        if len(later) > MAX_TARGETS:
            later = later[np.linspace(0, len(later) - 1, MAX_TARGETS).round().astype(np.int64)]
        arrays: dict[str, Any] = {
            name: getattr(trained, name)[later]
            for name in ("steps", "tokens", "flops", "values", "stderrs")
        }
        return trained.slice(0, end), replace(trained, **arrays, losses={}, signals={})

    def _end(self, trained: Trajectory) -> int:
        if self.fraction == 0.0 or not len(trained):
            return 0
        seen = np.searchsorted(trained.tokens, self.fraction * trained.tokens[-1], side="right")
        return max(1, int(seen))


def progress(context: Trajectory, targets: FloatArray) -> FloatArray:
    """(h,) where targets lie between the context (0) and the run's end (1), in ln tokens.

    Args:
        context: of the run; before the start every target is at 1.
        targets: (h,) tokens, increasing. The end is the last of them, or the planned tokens.
    """
    now, end = float(context.tokens[-1]) if len(context) else 0.0, _end(context, targets)
    if not 0.0 < now < end:
        return np.ones(len(targets))
    return np.clip(np.log(targets / now) / np.log(end / now), 0.0, 1.0)


def _end(context: Trajectory, targets: FloatArray) -> float:
    """The tokens at which the run or the question ends, whichever is later."""
    return max(context.planned_tokens or 0.0, float(targets[-1]))
