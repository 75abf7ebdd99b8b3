"""Finds the references of queries among finished runs.

Shapes: B queries, M members of the largest cell (task, metric, num_fewshot), R references.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import IntArray
from neuneu.forecasters.cross_run.curves import NO_RECIPE, Curves

NONE: Final = -1
FAR_ENOUGH: Final = 0.9
"""A run that reaches this share of the horizon goes as far: the rest is one grid step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceIndex:
    """The trajectories of each cell: `members` is (cells, M) rows of the table, -1 where fewer."""

    curves: Curves
    members: IntArray
    position: dict[int, int]


def index_references(curves: Curves) -> ReferenceIndex:
    """Lists the members of each cell."""
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


def candidates(index: ReferenceIndex, contexts: Curves, rows: IntArray) -> IntArray:
    """(B, M) rows of the index that may be references of `rows` of `contexts`.

    They have the same cell and another run group; -1 elsewhere.
    """
    nowhere = len(index.members) - 1
    cells = np.array([index.position.get(int(c), nowhere) for c in contexts.cells[rows]], np.int64)
    found = index.members[cells]
    same = index.curves.runs[found] == contexts.runs[rows][:, None]
    return np.where((found == NONE) | same, NONE, found)


def far_enough(
    curves: Curves, found_BM: IntArray, contexts: Curves, rows: IntArray, end_B: npt.NDArray
) -> npt.NDArray[np.bool_]:
    """(B, M) whether a candidate goes as far as the query, or as far for its size.

    A run with fewer parameters goes as far for its size if it reads as many tokens per parameter
    as the query's run at `end_B` (ln tokens). Unknown sizes count as equal.
    """
    fewer = np.minimum(np.nan_to_num(size_gap(curves, found_BM, contexts, rows)), 0.0)
    return curves.last[found_BM] >= end_B[:, None] + fewer + np.log(FAR_ENOUGH)


def distances(
    curves: Curves, found_BM: IntArray, contexts: Curves, rows: IntArray
) -> npt.NDArray[np.float64]:
    """(B, M) distances between a candidate and the query's run; inf where -1.

    A factor of e in parameters counts 1 (also where a size is unknown), one in planned (else last)
    tokens 0.3, another recipe 0.5, another suite 2 and another family 2 more.
    """
    size = np.abs(size_gap(curves, found_BM, contexts, rows))
    size = np.where(np.isnan(size), 1.0, size)
    recipe, own = curves.recipes[found_BM], contexts.recipes[rows][:, None]
    other_recipe = (recipe != own) & (recipe != NO_RECIPE) & (own != NO_RECIPE)
    length = np.abs(run_length(curves)[found_BM] - run_length(contexts)[rows][:, None])
    other_suite = curves.suites[found_BM] != contexts.suites[rows][:, None]
    other_family = curves.families[found_BM] != contexts.families[rows][:, None]
    distance = size + 0.3 * np.nan_to_num(length) + 0.5 * other_recipe
    distance += 2.0 * other_suite + 2.0 * other_family
    return np.where(found_BM == NONE, np.inf, distance)


def size_gap(
    curves: Curves, found: IntArray, contexts: Curves, rows: IntArray
) -> npt.NDArray[np.float32]:
    """ln of a candidate's parameters over the query's, (B, M); NaN where either is unknown."""
    theirs, mine = curves.log_params[found], contexts.log_params[rows][:, None]
    return np.where((theirs > 0) & (mine > 0), theirs - mine, np.nan).astype(np.float32)


def run_length(curves: Curves) -> npt.NDArray[np.float32]:
    """(T,) ln of the planned tokens of a run, else of those of its last checkpoint."""
    return np.where(np.isfinite(curves.end), curves.end, curves.last)


def nearest(found_BM: IntArray, distance_BM: npt.NDArray[np.float64], count: int) -> IntArray:
    """(B, R <= count) nearest candidates in order of distance; -1 where there are fewer."""
    count = min(count, found_BM.shape[1])
    order = np.argsort(distance_BM, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(found_BM, order, axis=1)
    away = np.isinf(np.take_along_axis(distance_BM, order, axis=1))
    return np.where(away, NONE, chosen)
