"""Where a context ends and what is to be forecast: the one split function of the project."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from neuneu.data.trajectories import Trajectory

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
