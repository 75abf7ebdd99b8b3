"""Hashes of trajectories: which data results come from, which runs a forecaster was trained on."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from neuneu.data.trajectories import RunGroup, Trajectory

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


def share_trained_on(trajectories: Sequence[Trajectory], marks: frozenset[str]) -> float:
    """The share of trajectories whose fingerprint is among `marks`; 0 where none has one."""
    known = [m in marks for t in trajectories if (m := fingerprint(t)) is not None]
    return sum(known) / len(known) if known else 0.0


def runs_trained_on(
    seen_share: Callable[[Sequence[Trajectory]], float], trajectories: Sequence[Trajectory]
) -> frozenset[RunGroup]:
    """Run groups most of whose trajectories were learnt from; flat ones coincide, so not any.

    Args:
        seen_share: of a forecaster, the share of trajectories that it was trained on.
        trajectories: of any runs.
    """
    by_run: dict[RunGroup, list[Trajectory]] = {}
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


def data_digest(trajectories: Sequence[Trajectory]) -> str:
    """Sixteen hex digits of every checkpoint and accuracy, by which results name their data."""
    digest = hashlib.sha256()
    for trajectory in trajectories:
        digest.update(repr((trajectory.family, *trajectory.key)).encode())
        for array in (trajectory.steps, trajectory.tokens, trajectory.values):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
