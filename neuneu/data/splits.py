"""Splits: where a context ends, and which runs are held out together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from neuneu.core.errors import DataError, UserError
from neuneu.data.trajectories import RunGroup, Trajectory

MIN_CHECKPOINTS = 10
"""Shorter trajectories (step 0 excluded) are not scored, as in the paper."""


class SplitRule(Protocol):
    """A rule for where contexts end."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def split(self, trajectory: Trajectory) -> tuple[Trajectory, Trajectory] | None:
        """(context, targets), both without step 0; None where the trajectory is too short."""


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """The paper's protocol: a fixed context of the first checkpoints, every later one a target.

    The context is checkpoints 0 .. int(fraction x n) inclusive of the n without step 0
    (arXiv 2601.19831; DESIGN.md of the project states it).
    """

    fraction: float = 0.2

    @property
    def name(self) -> str:
        """What tables call this protocol."""
        return f"anchored-{self.fraction:g}"

    def split(self, trajectory: Trajectory) -> tuple[Trajectory, Trajectory] | None:
        """(context, targets), both without step 0; None where the trajectory is too short."""
        trained = trajectory.without_step_zero()
        n = len(trained)
        end = int(self.fraction * n) + 1
        if n < MIN_CHECKPOINTS or end >= n:
            return None
        return trained.slice(0, end), trained.slice(end, n)


@dataclass(frozen=True, kw_only=True)
class ByCompute:
    """Context is what was evaluated within the first share of the run's tokens.

    Unlike shares of checkpoints it does not depend on where checkpoints were saved. The run's
    tokens are those it is planned for, else those of its last checkpoint.
    """

    fraction: float = 0.2

    @property
    def name(self) -> str:
        """What tables call this protocol."""
        return f"by-compute-{self.fraction:g}"

    def split(self, trajectory: Trajectory) -> tuple[Trajectory, Trajectory] | None:
        """(context, targets), both without step 0; None where either would be empty."""
        trained = trajectory.without_step_zero()
        n = len(trained)
        if n < MIN_CHECKPOINTS:
            return None
        whole = trained.planned_tokens or trained.tokens[-1]
        end = int(np.searchsorted(trained.tokens, self.fraction * whole, side="right"))
        if end == 0 or end >= n:
            return None
        return trained.slice(0, end), trained.slice(end, n)


PROTOCOLS: Final[dict[str, Callable[..., SplitRule]]] = {
    "anchored": Anchored,
    "by-compute": ByCompute,
}
"""Rules by the name that configs call them."""


def hold_out(
    trajectories: Sequence[Trajectory], runs: Sequence[str]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Splits by run name: (the others, those held out). A run is never on both sides.

    Raises:
        DataError: a name that no trajectory has.
    """
    known = {trajectory.run for trajectory in trajectories}
    missing = sorted(set(runs) - known)
    if missing:
        raise DataError(f"held-out runs {missing} are not in the table; it has {sorted(known)}.")
    kept = [trajectory for trajectory in trajectories if trajectory.run not in runs]
    held = [trajectory for trajectory in trajectories if trajectory.run in runs]
    return kept, held


def deal_by_size(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Folds that hold out all runs of a size together, as the next size up will be new.

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
        for group, params in sorted(size.items()):
            folds[sizes.index(params) % n_folds].append(group)
    if rest:
        for fold, groups in zip(folds, deal_folds(rest, n_folds, seed), strict=True):
            fold.extend(groups)
    return tuple(tuple(sorted(fold)) for fold in folds)


def deal_folds(
    trajectories: Sequence[Trajectory], n_folds: int, seed: int
) -> tuple[tuple[RunGroup, ...], ...]:
    """Deals run groups round-robin from a seeded shuffle of each family.

    Every fold holds runs of every family that has at least as many runs as there are folds.

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
    for family in sorted({family for family, _ in groups}):
        members = [group for group in groups if group[0] == family]
        dealt += [members[index] for index in generator.permutation(len(members))]
    return tuple(tuple(sorted(dealt[fold::n_folds])) for fold in range(n_folds))
