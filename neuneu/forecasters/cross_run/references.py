"""Which finished runs a question is compared with.

Shapes: B questions, M members of the largest cell, R references of a question.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import IntArray
from neuneu.forecasters.cross_run.curves import Curves

NONE: Final = -1
FAR: Final = 1e9
FAR_ENOUGH: Final = 0.9
"""A run that ended within a tenth of a question's end went as far: one step of the grid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceIndex:
    """The trajectories of each cell: `members` is (cells, M) rows of the table, -1 where fewer."""

    curves: Curves
    members: IntArray
    position: dict[int, int]


def index_references(curves: Curves) -> ReferenceIndex:
    """Finds the members of each (task, metric, num_fewshot)."""
    known, inverse, counts = np.unique(curves.cells, return_inverse=True, return_counts=True)
    members = np.full((len(known) + 1, max(counts, default=1)), NONE, dtype=np.int64)
    order = np.argsort(inverse, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    members[inverse[order], place] = order
    return ReferenceIndex(
        curves=curves,
        members=members,
        position={int(cell): row for row, cell in enumerate(known)},
    )


def candidates(index: ReferenceIndex, asked: Curves, rows: IntArray) -> IntArray:
    """(B, M) rows of the reference table that may be compared with `rows` of `asked`.

    Those of the same cell and of other run groups; -1 elsewhere.
    """
    nowhere = len(index.members) - 1
    cells = np.array([index.position.get(int(c), nowhere) for c in asked.cells[rows]], np.int64)
    found = index.members[cells]
    same = index.curves.runs[found] == asked.runs[rows][:, None]
    return np.where((found == NONE) | same, NONE, found)


def far_enough(
    curves: Curves, found_BM: IntArray, asked: Curves, rows: IntArray, end_B: npt.NDArray
) -> npt.NDArray[np.bool_]:
    """Whether a candidate went as far as is asked, or as far for its size, (B, M).

    A run with fewer parameters went as far for its size where it read as many tokens a parameter
    as the asked run has at `end_B` (ln tokens). Runs of unknown size count as of equal size.
    """
    size = curves.log_params[found_BM] - asked.log_params[rows][:, None]
    known = (curves.log_params[found_BM] > 0) & (asked.log_params[rows] > 0)[:, None]
    fewer = np.where(known, np.minimum(size, 0.0), 0.0)
    return curves.last[found_BM] >= end_B[:, None] + fewer + np.log(FAR_ENOUGH)


def distances(
    curves: Curves, found_BM: IntArray, asked: Curves, rows: IntArray
) -> npt.NDArray[np.float64]:
    """How unlike the asked run a candidate is, (B, M): by suite, size and length; inf where -1.

    A factor of e in parameters counts 1, one in planned tokens (else in the last ones) 0.3,
    another suite 2 and another family 2 more.
    """
    size = np.abs(curves.log_params[found_BM] - asked.log_params[rows][:, None])
    length = np.abs(run_length(curves)[found_BM] - run_length(asked)[rows][:, None])
    other_suite = curves.suites[found_BM] != asked.suites[rows][:, None]
    other_family = curves.families[found_BM] != asked.families[rows][:, None]
    distance = size + 0.3 * np.nan_to_num(length) + 2.0 * other_suite + 2.0 * other_family
    return np.where(found_BM == NONE, np.inf, distance)


def run_length(curves: Curves) -> npt.NDArray[np.float32]:
    """ln of the tokens a run is planned for, else of its last checkpoint, (T,)."""
    return np.where(np.isfinite(curves.end), curves.end, curves.last)


def nearest(found_BM: IntArray, distance_BM: npt.NDArray[np.float64], count: int) -> IntArray:
    """(B, R <= count) the nearest candidates in order of distance; -1 where there are fewer."""
    count = min(count, found_BM.shape[1])
    order = np.argsort(distance_BM, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(found_BM, order, axis=1)
    away = np.isinf(np.take_along_axis(distance_BM, order, axis=1))
    return np.where(away, NONE, chosen)
