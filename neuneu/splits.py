"""Where a context ends and what is to be forecast: the one split function of the project."""

from dataclasses import dataclass

from neuneu.trajectories import Trajectory

MIN_CHECKPOINTS = 10
"""Shorter trajectories (step 0 excluded) are not scored, as in the paper."""


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
