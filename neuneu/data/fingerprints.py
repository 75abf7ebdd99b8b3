"""Trajectories known again by their content: which runs a forecaster was trained on."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from neuneu.data.trajectories import Trajectory

FINGERPRINT_POINTS = 3
SEEN_SHARE: Final = 0.5
"""A run counts as seen when a forecaster was trained on more of its trajectories than this."""


def fingerprint(trajectory: Trajectory) -> str | None:
    """Twelve hex digits of a trajectory's first three checkpoints; None when it is shorter.

    Names of runs and suites are left out, so that a renamed copy is recognised; only the first
    points go in, so that a run is recognised when only its beginning is given.
    """
    trained = trajectory.without_step_zero()
    if len(trained) < FINGERPRINT_POINTS:
        return None
    head = trained.slice(0, FINGERPRINT_POINTS)
    content = (head.task, head.metric, head.steps.tolist(), head.values.round(6).tolist())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def share_known(trajectories: Sequence[Trajectory], marks: frozenset[str]) -> float:
    """The share of trajectories whose fingerprint is among `marks`; 0 where none has one."""
    known = [m in marks for t in trajectories if (m := fingerprint(t)) is not None]
    return sum(known) / len(known) if known else 0.0


def runs_learnt(
    seen_share: Callable[[Sequence[Trajectory]], float], trajectories: Sequence[Trajectory]
) -> frozenset[tuple[str, str]]:
    """Run groups most of whose trajectories were learnt from; flat ones coincide, so not any.

    Args:
        seen_share: of a forecaster, the share of trajectories that it was trained on.
        trajectories: of any runs.
    """
    by_run: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in trajectories:
        by_run.setdefault(trajectory.run_group, []).append(trajectory)
    return frozenset(run for run, members in by_run.items() if seen_share(members) > SEEN_SHARE)


def fingerprints(trajectories: Sequence[Trajectory]) -> dict[str, list[str]]:
    """`family/run` -> sorted fingerprints of its trajectories."""
    found: dict[str, set[str]] = {}
    for trajectory in trajectories:
        of_run = found.setdefault("/".join(trajectory.run_group), set())
        mark = fingerprint(trajectory)
        if mark is not None:
            of_run.add(mark)
    return {run: sorted(marks) for run, marks in sorted(found.items())}
