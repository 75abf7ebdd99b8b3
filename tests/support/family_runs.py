"""Families of runs made by hand for the leave-one-family-out study, and answers about them."""

import numpy as np
from families.answers import Answers
from families.cases import CASES, Asked
from forecasts import trajectory

from neuneu.data.trajectories import Trajectory

CASE = {case.name: case for case in CASES}


def grown(size: float, *, run: str, top: float = 0.6, n: int = 20, **changes: object) -> Trajectory:
    """Return a run that approaches `top`, wavering by half a point."""
    steps = np.arange(1, n + 1)
    values = top - 0.3 * steps**-0.5 + 0.005 * np.where(steps > n - 3, 0.0, np.sin(steps))
    return trajectory(values, run=run, params=size, **changes)


def family(name: str, *, tasks: int = 2) -> list[Trajectory]:
    """Return six runs of three sizes, two of each; the larger the better, `b` before `a`."""
    return [
        grown(
            size, run=f"{mix}-{size:g}", family=name, suite=name, task=f"t{task}", recipe=mix,
            top=0.5 + 0.05 * np.log10(size) - 0.02 * task + 0.03 * (mix == "b"),
        )
        for size in (1e6, 2e6, 4e6)
        for mix in "ab"
        for task in range(tasks)
    ]  # fmt: skip


def answers_of(asked: Asked, shift: float) -> Answers:
    """Return outcomes plus `shift`, with intervals of 0.1 on both sides."""
    median = asked.y + shift
    return Answers(
        quantiles=np.stack([median - 0.1, median, median + 0.1], axis=1), levels=(0.1, 0.5, 0.9)
    )


def point_answers(asked: Asked, shift: float) -> Answers:
    return Answers(quantiles=(asked.y + shift)[:, None], levels=(0.5,))
