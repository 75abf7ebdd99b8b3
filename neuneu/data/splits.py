"""Splits: where a context ends, and which runs are held out together."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar, Final

import numpy as np

from neuneu.core.errors import DataError, UserError
from neuneu.data.trajectories import RunGroup, Trajectory

MIN_CHECKPOINTS = 10
"""Shorter trajectories (step 0 excluded) are not scored, as in the paper."""

SMALLER: Final = 0.8
"""A run is smaller than another if it has at most this share of its parameters."""


@dataclass(frozen=True, kw_only=True)
class SplitRule(ABC):
    """A rule for where contexts end; `fraction` is the share of a run that is context."""

    fraction: float = 0.2
    prefix: ClassVar[str]

    @property
    def name(self) -> str:
        """Name of the protocol in tables."""
        return f"{self.prefix}-{self.fraction:g}"

    def split(self, trajectory: Trajectory) -> tuple[Trajectory, Trajectory] | None:
        """Return (context, targets) without step 0; None if either is empty or n is too small."""
        trained = trajectory.without_step_zero()
        n = len(trained)
        if n < MIN_CHECKPOINTS or not 0 < (end := self._end(trained)) < n:
            return None
        return trained.slice(0, end), trained.slice(end, n)

    @abstractmethod
    def _end(self, trained: Trajectory) -> int:
        """Return the number of checkpoints in the context."""


class Anchored(SplitRule):
    """The paper's protocol: a fixed context of the first checkpoints, every later one a target.

    The context is checkpoints 0 .. int(fraction x n) inclusive of the n without step 0
    (arXiv 2601.19831; DESIGN.md of the project states it).
    """

    prefix = "anchored"

    def _end(self, trained: Trajectory) -> int:
        return int(self.fraction * len(trained)) + 1


class ByCompute(SplitRule):
    """The context is what was evaluated within the first share of the run's tokens.

    Unlike shares of checkpoints it does not depend on where checkpoints were saved. The run's
    tokens are its planned tokens, else those of its last checkpoint.
    """

    prefix = "by-compute"

    def _end(self, trained: Trajectory) -> int:
        whole = trained.planned_tokens or trained.tokens[-1]
        return int(np.searchsorted(trained.tokens, self.fraction * whole, side="right"))


PROTOCOLS: Final[dict[str, type[SplitRule]]] = {rule.prefix: rule for rule in (Anchored, ByCompute)}
"""Rules by the names that configs use."""


def hold_out(
    trajectories: Sequence[Trajectory], runs: Sequence[str]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Split by run name: (the others, the held-out ones). A run is never on both sides.

    Raises:
        DataError: a name that no trajectory has.
    """
    known = {trajectory.run for trajectory in trajectories}
    if missing := sorted(set(runs) - known):
        raise DataError(f"held-out runs {missing} are not in the table; it has {sorted(known)}.")
    kept = [trajectory for trajectory in trajectories if trajectory.run not in runs]
    return kept, [trajectory for trajectory in trajectories if trajectory.run in runs]


def deal_by_family(trajectories: Sequence[Trajectory]) -> tuple[tuple[RunGroup, ...], ...]:
    """Make one fold of each family, as a user's family is new. Returns run groups, sorted."""
    groups = sorted({trajectory.run_group for trajectory in trajectories})
    families = itertools.groupby(groups, key=itemgetter(0))
    return tuple(tuple(members) for _, members in families)


def deal_by_size(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Make folds that hold out all runs of a size together, as the next size up will be new.

    The sizes of each family (parameters to two digits), in order, are dealt round-robin. Where a
    family has fewer sizes than there are folds, its runs are dealt as by `deal_folds`.

    Raises:
        UserError: fewer run groups than folds.
    """
    folds: list[list[RunGroup]] = [[] for _ in range(n_folds)]
    rest: list[Trajectory] = []
    for family in sorted({t.family for t in trajectories}):
        members = [t for t in trajectories if t.family == family]
        size = {t.run_group: float(f"{t.params:.1e}") for t in members}
        sizes = sorted(set(size.values()))
        if len(sizes) < n_folds:
            rest += members
            continue
        for group, params in size.items():
            folds[sizes.index(params) % n_folds].append(group)
    if rest:
        for fold, groups in zip(folds, deal_folds(rest, n_folds, seed), strict=True):
            fold.extend(groups)
    return tuple(tuple(sorted(fold)) for fold in folds)


def deal_folds(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Deal run groups round-robin from a seeded shuffle of each family.

    Every fold has runs of every family with at least as many runs as there are folds.

    Raises:
        UserError: fewer run groups than folds.
    """
    groups = sorted({trajectory.run_group for trajectory in trajectories})
    if len(groups) < n_folds:
        raise UserError(
            f"folds: {n_folds} folds need as many runs, found {len(groups)}; "
            f"set folds={max(len(groups), 2)} or name held_out runs."
        )
    generator = np.random.default_rng(seed)
    dealt: list[RunGroup] = []
    for _, family in itertools.groupby(groups, key=itemgetter(0)):
        members = list(family)
        dealt += [members[index] for index in generator.permutation(len(members))]
    return tuple(tuple(sorted(dealt[fold::n_folds])) for fold in range(n_folds))
