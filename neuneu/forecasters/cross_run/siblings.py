"""What a run's other tasks say: a run that is better everywhere is better here, too.

Shapes: B queries, S siblings, R references, L lags.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import IntArray
from neuneu.forecasters.cross_run.curves import Curves, Float32Array, at
from neuneu.forecasters.queries import MAX_SIBLINGS

NONE: Final = -1

_STALE: Final = 0.3
_SLACK: Final = 0.05
"""In ln tokens: a sibling that was last measured longer ago says nothing of the present; grid
positions need not be met exactly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnerIndex:
    """The trajectories of each run (in one suite): `members` (runs, M) rows, -1 where fewer.

    `position` (T,) is the row of `members` of each trajectory; `keys` and `rows` find the
    trajectory of a run in a cell.
    """

    members: IntArray
    counts: IntArray
    position: IntArray
    place: IntArray
    keys: IntArray
    rows: IntArray
    cells: int

    def siblings(self, rows: IntArray, generator: np.random.Generator) -> IntArray:
        """(B, S) random other trajectories of the same runs; -1 where there are fewer."""
        runs = self.position[rows]
        others = self.counts[runs] - 1
        count = int(min(MAX_SIBLINGS, max(others.max(initial=0), 1)))
        place = np.arange(count)[None, :]
        share = (place + generator.random((len(rows), 1))) / count
        spread = np.where(others[:, None] > count, share * others[:, None], place)
        chosen = spread.astype(np.int64)
        # Places among the others: those from the trajectory itself on move up by one.
        chosen += chosen >= self.place[rows][:, None]
        valid = place < np.minimum(count, others)[:, None]
        return np.where(valid, self.members[runs[:, None], np.where(valid, chosen, 0)], NONE)

    def find(self, owners: IntArray, cells: IntArray) -> IntArray:
        """The trajectories of runs (codes of `Curves.owners`) in cells; -1 where there is none."""
        if not len(self.keys):
            return np.full(np.broadcast_shapes(owners.shape, cells.shape), NONE, dtype=np.int64)
        wanted = owners * self.cells + cells
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        there = (self.keys[place] == wanted) & (cells < self.cells)
        return np.where(there, self.rows[place], NONE)


def index_owners(curves: Curves) -> OwnerIndex:
    """Indexes the trajectories of a table by their runs, in the order of their names."""
    names = [t.key for t in curves.trajectories]
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    known, position = np.unique(curves.owners, return_inverse=True)
    counts = np.bincount(position, minlength=len(known))
    members = np.full((len(known), max(counts.max(initial=0), 1)), NONE, dtype=np.int64)
    order = by_name[np.argsort(position[by_name], kind="stable")]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    members[position[order], place] = order
    places = np.zeros(len(curves), dtype=np.int64)
    places[order] = place
    cells = int(curves.cells.max(initial=0)) + 1
    keys = curves.owners * cells + curves.cells
    sorted_ = np.argsort(keys, kind="stable")
    return OwnerIndex(
        members=members, counts=counts, position=position, place=places,
        keys=keys[sorted_], rows=sorted_, cells=cells,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class SiblingView:
    """What the siblings of B queries show.

    `cells` (B, S); `level` (B, S) at the end of the context, with `known` where it is; `change`
    (B, L) mean change since each lag, and `changed` (B, L) how many siblings it rests on.
    """

    cells: IntArray
    level: Float32Array
    known: npt.NDArray[np.bool_]
    change: Float32Array
    changed: npt.NDArray[np.float64]


def view_siblings(
    curves: Curves, siblings_BS: IntArray, now_B: npt.NDArray, lags: npt.NDArray
) -> SiblingView:
    """Reads the siblings at the end of the context and at `lags` (L,) before."""
    row = np.where(siblings_BS == NONE, 0, siblings_BS)
    now = now_B[:, None]
    first, last = curves.first[row], curves.last[row]
    known = (siblings_BS != NONE) & (first <= now + _SLACK) & (last >= now - _STALE)
    level = np.where(known, at(curves.grid, row, now), 0.0)
    before = now[:, :, None] - lags
    both = known[:, :, None] & (before >= first[:, :, None] - _SLACK)
    change = np.where(both, level[:, :, None] - at(curves.grid, row[:, :, None], before), 0.0)
    changed = both.sum(axis=1)
    return SiblingView(
        cells=curves.cells[row],
        level=level.astype(np.float32),
        known=known,
        change=(change.sum(axis=1) / np.maximum(changed, 1)).astype(np.float32),
        changed=changed,
    )


def sibling_offsets(
    view: SiblingView,
    library: Curves,
    owners: OwnerIndex,
    references_BR: IntArray,
    now_B: npt.NDArray,
) -> tuple[Float32Array, npt.NDArray[np.float64]]:
    """How far a run's siblings lie above those of each reference at the same tokens.

    Returns (B, R) means over the siblings that both have, and their number.
    """
    ref = np.where(references_BR == NONE, 0, references_BR)
    theirs = owners.find(library.owners[ref][:, :, None], view.cells[:, None, :])
    row = np.where(theirs == NONE, 0, theirs)
    now = now_B[:, None, None]
    both = (
        (theirs != NONE) & (references_BR != NONE)[:, :, None] & view.known[:, None, :]
        & (library.first[row] <= now + _SLACK)
    )  # fmt: skip
    gap = np.where(both, view.level[:, None, :] - at(library.grid, row, now), 0.0)
    count = both.sum(axis=-1)
    return (gap.sum(axis=-1) / np.maximum(count, 1)).astype(np.float32), count
