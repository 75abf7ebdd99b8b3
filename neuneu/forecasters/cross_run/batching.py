"""Queries as batches of arrays: contexts of similar length together, long horizons in pieces.

Shapes: B rows of a batch, K observed checkpoints (padded at the front), H targets, R references,
M candidates, N queries, Q levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, IntArray
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
from neuneu.forecasters.cross_run.siblings import OwnerIndex, index_owners
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import MAX_SIBLINGS

MAX_OBSERVED: Final = 256
"""Only the last checkpoints of a longer context are read."""

BATCH: Final = 64
MAX_TARGETS: Final = 64
"""Targets in one row of a batch; longer horizons take several rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryBatch:
    """B queries about trajectories of `curves`, whose context ends at `end`.

    `rows` (B,) of `curves`; `end` (B,) index of the last observed checkpoint of each, -1 for a run
    that has not begun, which is forecast from `begin` (B,) ln tokens on;
    `targets` (B, H) ln tokens, NaN where there are fewer; `planned` (B,) ln of the run's planned
    tokens, NaN where unknown; `references` (B, R) rows of `library`, -1 where there are fewer;
    where there are none at all the library may be any table that is not empty. `kept`
    (B, MAX_OBSERVED), aligned at the end of the context, is false where an observed checkpoint is
    dropped; None keeps all. `siblings` (B, S) are rows of `curves`: other trajectories of the same
    run, of which only what lies before the end of the context is read; -1 where there are fewer.
    `blur` (B, 2) is added to absolute ln parameters and ln tokens; None adds nothing.
    `log_params`, `schedules` and `recipes` (B,) are what is known of the run, as in `Curves`.
    """

    curves: Curves
    rows: IntArray
    end: IntArray
    begin: Float32Array
    targets: Float32Array
    planned: Float32Array
    library: Curves
    references: IntArray
    siblings: IntArray
    owners: OwnerIndex
    log_params: Float32Array
    schedules: IntArray
    recipes: IntArray
    kept: npt.NDArray[np.bool_] | None = None
    blur: Float32Array | None = None

    def __len__(self) -> int:
        """The number of queries B."""
        return len(self.rows)

    def take(self, index: IntArray) -> "QueryBatch":
        """The queries at `index`, in its order."""
        return replace(
            self,
            rows=self.rows[index],
            end=self.end[index],
            begin=self.begin[index],
            siblings=self.siblings[index],
            log_params=self.log_params[index],
            schedules=self.schedules[index],
            recipes=self.recipes[index],
            targets=self.targets[index],
            planned=self.planned[index],
            references=self.references[index],
            kept=None if self.kept is None else self.kept[index],
            blur=None if self.blur is None else self.blur[index],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """The contexts of B queries, (B, K) float32.

    `x` is ln tokens before the last one (<= 0); `values`; `losses` (NaN where unknown); `mask` is
    false where padded; `now` (B,) is ln tokens at the end of the context. A run that has not begun
    (`started` (B,) is false) has one made-up observation of value 0 at `begin`.
    """

    x: Float32Array
    values: Float32Array
    losses: Float32Array
    mask: npt.NDArray[np.bool_]
    now: Float32Array
    started: npt.NDArray[np.bool_]


def observed(batch: QueryBatch) -> Observed:
    """Gathers the contexts."""
    curves = batch.curves
    start = curves.starts[batch.rows]
    started = batch.end >= 0
    last = start + np.maximum(batch.end, 0)
    longest = int(min(batch.end.max(initial=0) + 1, MAX_OBSERVED))
    place = last[:, None] - np.arange(longest - 1, -1, -1)[None, :]
    mask = place >= start[:, None]
    if batch.kept is not None:
        mask &= batch.kept[:, MAX_OBSERVED - longest :]
    place = np.where(mask, place, last[:, None])
    now = np.where(started, curves.x[last], batch.begin).astype(np.float32)
    begun = started[:, None]
    return Observed(
        x=np.where(begun, curves.x[place] - now[:, None], 0.0).astype(np.float32),
        values=np.where(begun, curves.values[place], 0.0).astype(np.float32),
        losses=np.where(begun, curves.losses[place], np.nan).astype(np.float32),
        mask=mask,
        now=now,
        started=started,
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
) -> Iterator[Pieces]:
    """Batches the queries that have targets, and a context or references; others are left out.

    Args:
        queries: any number.
        library: finished runs; may be empty.
        codes: of the library.
        n_references: maximum number of references of a query.
        index: of the library, if it is at hand.
        assume_end: take the last target as the planned end of a run without one.

    Raises:
        DataError: tokens that are not positive.
    """
    chosen = answerable(queries)
    kept = [queries[place] for place in chosen]
    contexts, siblings = _lay_out(kept, codes)
    references = nearest_references(kept, contexts, library, index, count=n_references).nearest
    planned = contexts.end[: len(kept)]
    first = np.log([float(query.target_tokens[0]) for query in kept])
    last = np.log([float(query.target_tokens[-1]) for query in kept])
    since = begins(np.where(np.isfinite(planned), planned, last), first)
    if assume_end:
        planned = np.where(np.isfinite(planned), planned, last)
    owners = index_owners(library)
    # A run that has not begun is known from its references alone.
    answered = (contexts.lengths[: len(kept)] > 0) | (references != NONE).any(axis=1)
    pieces = [
        (row, start)
        for row, query in enumerate(kept)
        for start in range(0, len(query.target_steps), MAX_TARGETS)
        if answered[row]
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
                begin=since[rows],
                siblings=siblings[rows],
                owners=owners,
                log_params=contexts.log_params[rows],
                schedules=contexts.schedules[rows],
                recipes=contexts.recipes[rows],
                targets=padded,
                planned=planned[rows].astype(np.float32),
                library=library if len(library) else contexts,
                references=references[rows],
            ),
            owners=[chosen[row] for row, _ in batch],
            starts=[start for _, start in batch],
            counts=[len(piece) for piece in targets],
        )


def _lay_out(queries: Sequence[Query], codes: Codes) -> tuple[Curves, IntArray]:
    """The contexts of N queries and then their siblings, and (N, S) rows of the siblings."""
    trajectories = [query.context for query in queries]
    rows = {id(context): row for row, context in enumerate(trajectories)}
    chosen = []
    for query in queries:
        few = query.siblings[:MAX_SIBLINGS]
        for sibling in few:
            if id(sibling) not in rows:
                rows[id(sibling)] = len(trajectories)
                trajectories.append(sibling)
        chosen.append([rows[id(sibling)] for sibling in few])
    found = np.full((len(queries), max(map(len, chosen), default=0) or 1), NONE, dtype=np.int64)
    for row, several in enumerate(chosen):
        found[row, : len(several)] = several
    return build_curves(trajectories, codes), found


def answerable(queries: Sequence[Query]) -> list[int]:
    """Indices of the queries that have targets."""
    return [place for place, query in enumerate(queries) if len(query.target_steps)]


def begins(end: npt.NDArray, first: npt.NDArray) -> Float32Array:
    """ln tokens from which a run that has not begun is forecast: 1 % of its end, before targets."""
    return np.minimum(end - np.log(100.0), first - 0.1).astype(np.float32)


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
) -> Found:
    """Finds the references of each query.

    Args:
        queries: N, with context and targets.
        contexts: of the queries, in their order; more may follow.
        library: finished runs; may be empty.
        index: of the library, if it is at hand.
        count: maximum number of references of a query.
    """
    rows = np.arange(len(queries))
    if not len(library) or not len(rows):
        none = np.full((len(rows), 1), NONE, dtype=np.int64)
        return Found(nearest=none, too_short=none)
    found = candidates(index or index_references(library), contexts, rows)
    end = np.log([query.target_tokens[-1] for query in queries])
    there = far_enough(library, found, contexts, rows, end)
    usable = np.where(there, found, NONE)
    return Found(
        nearest=nearest(usable, distances(library, usable, contexts, rows), count),
        too_short=np.where(there, NONE, found),
    )
