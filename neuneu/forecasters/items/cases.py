"""Finished runs as cases: contexts cut out of them, whose later accuracies are known.

Shapes: D items, h targets.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.courses import Course, course_of
from neuneu.forecasters.items.features import features
from neuneu.forecasters.items.model import Case

TaskItems = tuple[str, str, str, int, int]
"""(family, hash of the task's items, metric, shots, number of items): what makes items the same."""

MAX_TARGETS: Final = 6
MAX_ITEMS: Final = 250
MAX_CASES: Final = 400
"""Targets and items of one case, and cases, at most: more of them repeat what these say."""

ROUNDING: Final = 0.01
"""Tokens of runs that were saved alike differ by rounding to whole batches."""


def items_of(trajectory: Trajectory) -> TaskItems:
    """Return what makes the items of two trajectories the same.

    Raises:
        AssertionError: A trajectory without choices.
    """
    assert trajectory.choices is not None
    items = trajectory.choices.items
    count = len(items.labels)
    return trajectory.family, items.task_hash, trajectory.metric, trajectory.num_fewshot, count


def courses_by_items(
    trajectories: Sequence[Trajectory],
) -> dict[TaskItems, dict[str, Course]]:
    """Return the courses of trajectories with choices, by items and run."""
    found: dict[TaskItems, dict[str, Course]] = {}
    for trajectory in trajectories:
        course = course_of(trajectory)
        if course is not None:
            found.setdefault(items_of(trajectory), {})[trajectory.run] = course
    return found


def make_cases(
    known: Mapping[TaskItems, Mapping[str, Course]],
    share: float,
    *,
    seed: int = 0,
) -> list[Case]:
    """Return the cases of finished runs that have relatives on the same items.

    Args:
        known: Courses by items and run.
        share: Share of a run's tokens that is context.
        seed: Random seed of the choice of cases and items.
    """
    generator = np.random.default_rng(seed)
    places = [(items, run) for items, runs in known.items() for run in runs if len(runs) > 1]
    cases = []
    for place in _some(len(places), MAX_CASES, generator):
        items, run = places[place]
        courses = known[items]
        chosen = _some(courses[run].margins.shape[1], MAX_ITEMS, generator)
        others = [other.of_items(chosen) for name, other in courses.items() if name != run]
        case = _case(run, courses[run].of_items(chosen), others, share)
        if case is not None:
            cases.append(case)
    return cases


def context_length(ln_tokens: FloatArray, share: float) -> int:
    """Return how many checkpoints lie within a share of a run's tokens, at least one."""
    end = ln_tokens[-1] + np.log(share) + ROUNDING
    return max(int(np.searchsorted(ln_tokens, end, side="right")), 1)


def _case(run: str, course: Course, relatives: Sequence[Course], share: float) -> Case | None:
    end = context_length(course.ln_tokens, share)
    if end >= len(course):
        return None
    targets = end + _spread(len(course) - end)
    context = course.until(end)
    ln_targets = course.ln_tokens[targets]
    return Case(
        run=run,
        features=features(context, relatives, ln_targets),
        right=course.right[targets],
        distances=ln_targets - context.ln_tokens[-1],
    )


def _spread(count: int) -> IntArray:
    """Indices of at most `MAX_TARGETS` of a number of targets, evenly spaced, with the last."""
    return np.unique(np.linspace(0, count - 1, MAX_TARGETS).round().astype(np.int64))


def _some(count: int, most: int, generator: np.random.Generator) -> IntArray:
    if count <= most:
        return np.arange(count)
    return np.sort(generator.choice(count, most, replace=False))
