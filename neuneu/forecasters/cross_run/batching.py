"""Queries as batches of arrays: contexts of similar length together, long horizons in pieces.

Shapes: B rows of a batch, K observed checkpoints (padded at the front), H targets, R references,
M candidates, N queries, Q levels.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import FloatArray, IntArray
from neuneu.forecasters.cross_run.curves import Codes, Curves, Float32Array, build_curves
from neuneu.forecasters.cross_run.references import (
    NONE,
    ReferenceIndex,
    candidates,
    distances,
    far_enough,
    index_references,
    nearest,
)
from neuneu.forecasters.protocol import Query

MAX_OBSERVED: Final = 256
"""Only the last checkpoints of a longer context are read."""

BATCH: Final = 64
MAX_TARGETS: Final = 64
"""Targets in one row of a batch; longer horizons take several rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryBatch:
    """B queries about trajectories of `curves`, whose context ends at `end`.

    `rows` (B,) of `curves`; `end` (B,) index of the last observed checkpoint of each;
    `targets` (B, H) ln tokens, NaN where there are fewer; `planned` (B,) ln of the run's planned
    tokens, NaN where unknown; `references` (B, R) rows of `library`, -1 where there are fewer;
    where there are none at all the library may be any table that is not empty. `kept`
    (B, MAX_OBSERVED), aligned at the end of the context, is false where an observed checkpoint is
    dropped; None keeps all.
    """

    curves: Curves
    rows: IntArray
    end: IntArray
    targets: Float32Array
    planned: Float32Array
    library: Curves
    references: IntArray
    kept: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """The number of queries B."""
        return len(self.rows)

    def take(self, index: IntArray) -> "QueryBatch":
        """The queries at `index`, in its order."""
        return replace(
            self,
            rows=self.rows[index],
            end=self.end[index],
            targets=self.targets[index],
            planned=self.planned[index],
            references=self.references[index],
            kept=None if self.kept is None else self.kept[index],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """The contexts of B queries, (B, K) float32.

    `x` is ln tokens before the last one (<= 0); `values`; `losses` (NaN where unknown); `mask` is
    false where padded; `now` (B,) is ln tokens at the end of the context.
    """

    x: Float32Array
    values: Float32Array
    losses: Float32Array
    mask: npt.NDArray[np.bool_]
    now: Float32Array


def observed(batch: QueryBatch) -> Observed:
    """Gathers the contexts."""
    curves = batch.curves
    start = curves.starts[batch.rows]
    last = start + batch.end
    longest = int(min(batch.end.max(initial=0) + 1, MAX_OBSERVED))
    place = last[:, None] - np.arange(longest - 1, -1, -1)[None, :]
    mask = place >= start[:, None]
    if batch.kept is not None:
        mask &= batch.kept[:, MAX_OBSERVED - longest :]
    place = np.where(mask, place, last[:, None])
    now = curves.x[last]
    return Observed(
        x=curves.x[place] - now[:, None],
        values=curves.values[place],
        losses=curves.losses[place],
        mask=mask,
        now=now,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """A batch whose row i has the `counts[i]` targets from `starts[i]` of query `owners[i]`."""

    batch: QueryBatch
    owners: list[int]
    starts: list[int]
    counts: list[int]

    def put(self, answers: list[FloatArray], quantiles_BHQ: npt.NDArray) -> None:
        """Writes the quantiles of a batch to the queries' answers."""
        for row, (owner, start, count) in enumerate(
            zip(self.owners, self.starts, self.counts, strict=True)
        ):
            answers[owner][start : start + count] = quantiles_BHQ[row, :count]


def make_batches(
    queries: Sequence[Query],
    library: Curves,
    codes: Codes,
    *,
    n_references: int,
    index: ReferenceIndex | None = None,
    assume_end: bool = True,
    familiar: Collection[str] | None = None,
) -> Iterator[Pieces]:
    """Batches the queries that have a context and targets; others are left out.

    Args:
        queries: any number.
        library: finished runs; may be empty.
        codes: of the library.
        n_references: maximum number of references of a query.
        index: of the library, if it is at hand.
        assume_end: take the last target as the planned end of a run without one.
        familiar: see `nearest_references`.

    Raises:
        DataError: tokens that are not positive.
    """
    chosen = answerable(queries)
    kept = [queries[place] for place in chosen]
    contexts = build_curves([query.context for query in kept], codes)
    references = nearest_references(
        kept, contexts, library, index, count=n_references, familiar=familiar
    ).nearest
    planned = contexts.end
    if assume_end:
        last = np.log([float(query.target_tokens[-1]) for query in kept])
        planned = np.where(np.isfinite(planned), planned, last)
    pieces = [
        (row, start)
        for row, query in enumerate(kept)
        for start in range(0, len(query.target_steps), MAX_TARGETS)
    ]
    pieces.sort(key=lambda piece: (contexts.lengths[piece[0]], piece))
    for begin in range(0, len(pieces), BATCH):
        batch = pieces[begin : begin + BATCH]
        rows = np.array([row for row, _ in batch])
        targets = [
            np.log(kept[row].target_tokens[start : start + MAX_TARGETS]) for row, start in batch
        ]
        padded = np.full((len(batch), max(map(len, targets))), np.nan, dtype=np.float32)
        for place, piece in enumerate(targets):
            padded[place, : len(piece)] = piece
        yield Pieces(
            batch=QueryBatch(
                curves=contexts,
                rows=rows,
                end=contexts.lengths[rows] - 1,
                targets=padded,
                planned=planned[rows].astype(np.float32),
                library=library if len(library) else contexts,
                references=references[rows],
            ),
            owners=[chosen[row] for row, _ in batch],
            starts=[start for _, start in batch],
            counts=[len(piece) for piece in targets],
        )


def answerable(queries: Sequence[Query]) -> list[int]:
    """Indices of the queries that have a context and targets."""
    return [
        place
        for place, query in enumerate(queries)
        if len(query.context.without_step_zero()) and len(query.target_steps)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Rows of the library for N queries, padded with -1.

    `nearest` (N, R) are their references, nearest first; `too_short` (N, M) end too early for the
    query.
    """

    nearest: IntArray
    too_short: IntArray


def nearest_references(
    queries: Sequence[Query],
    contexts: Curves,
    library: Curves,
    index: ReferenceIndex | None,
    *,
    count: int,
    familiar: Collection[str] | None = None,
) -> Found:
    """Finds the references of each query.

    Args:
        queries: N, with context and targets.
        contexts: of the queries.
        library: finished runs; may be empty.
        index: of the library, if it is at hand.
        count: maximum number of references of a query.
        familiar: families for which any reference will do, however early it ended; other families
            need one that is `far_enough`. None: all families.
    """
    rows = np.arange(len(contexts))
    if not len(library) or not len(rows):
        none = np.full((len(rows), 1), NONE, dtype=np.int64)
        return Found(nearest=none, too_short=none)
    found = candidates(index or index_references(library), contexts, rows)
    anywhere = [familiar is None or query.context.family in familiar for query in queries]
    end = np.where(anywhere, -np.inf, np.log([query.target_tokens[-1] for query in queries]))
    there = far_enough(library, found, contexts, rows, end)
    usable = np.where(there, found, NONE)
    return Found(
        nearest=nearest(usable, distances(library, usable, contexts, rows), count),
        too_short=np.where(there, NONE, found),
    )
