"""Hashes of trajectories: the data of a result, and the runs a forecaster was trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from neuneu.data.trajectories import RunGroup, Trajectory

FINGERPRINT_POINTS: Final = 3
SEEN_SHARE: Final = 0.5
"""A run counts as seen if a forecaster was trained on more than this share of its trajectories."""


def fingerprint(trajectory: Trajectory) -> str | None:
    """Return twelve hex digits of a trajectory's first three checkpoints; None if it is shorter.

    Names of runs and suites are left out, so that a renamed copy is recognised; only the first
    points count, so that a run is recognised by its beginning.
    """
    trained = trajectory.without_step_zero()
    if len(trained) < FINGERPRINT_POINTS:
        return None
    head = trained.slice(0, FINGERPRINT_POINTS)
    content = (head.task, head.metric, head.steps.tolist(), head.values.round(6).tolist())
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def fingerprints(trajectories: Sequence[Trajectory]) -> dict[str, list[str]]:
    """Map `family/run` to the sorted fingerprints of its trajectories."""
    return {
        "/".join(run): sorted({m for t in members if (m := fingerprint(t)) is not None})
        for run, members in sorted(_by_run(trajectories).items(), key=lambda i: "/".join(i[0]))
    }


def share_trained_on(trajectories: Sequence[Trajectory], marks: frozenset[str]) -> float:
    """Return the share of trajectories whose fingerprint is among `marks`; 0 if none has one."""
    known = [m in marks for t in trajectories if (m := fingerprint(t)) is not None]
    return sum(known) / len(known) if known else 0.0


def runs_trained_on(
    seen_share: Callable[[Sequence[Trajectory]], float], trajectories: Sequence[Trajectory]
) -> frozenset[RunGroup]:
    """Return the run groups that a forecaster was trained on, by most of their trajectories.

    A single one is not enough: flat trajectories of different runs coincide.

    Args:
        seen_share: the forecaster's method: share of trajectories that it was trained on.
        trajectories: trajectories of any runs.
    """
    by_run = _by_run(trajectories)
    return frozenset(run for run, members in by_run.items() if seen_share(members) > SEEN_SHARE)


def _by_run(trajectories: Sequence[Trajectory]) -> dict[RunGroup, list[Trajectory]]:
    by_run: dict[RunGroup, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        by_run[trajectory.run_group].append(trajectory)
    return by_run


def data_digest(trajectories: Sequence[Trajectory]) -> str:
    """Return sixteen hex digits of all accuracies, which identify the data of a result."""
    digest = hashlib.sha256()
    for trajectory in trajectories:
        digest.update(repr((trajectory.family, *trajectory.key)).encode())
        for array in (trajectory.steps, trajectory.tokens, trajectory.values):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
