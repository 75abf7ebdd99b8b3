"""Queries as batches of questions: contexts of like length together, long horizons in pieces.

Shapes: B rows of a batch, H targets, Q levels.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import FloatArray, IntArray
from neuneu.forecasters.cross_run.curves import Codes, Curves, build_curves
from neuneu.forecasters.cross_run.questions import Questions
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

BATCH: Final = 64
MAX_TARGETS: Final = 64
"""Targets answered in one row of a batch; longer horizons take several rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One batch; row i asks targets `starts[i]` onwards of query `owners[i]`, `counts[i]` many."""

    questions: Questions
    owners: list[int]
    starts: list[int]
    counts: list[int]

    def put(self, answers: list[FloatArray], quantiles_BHQ: npt.NDArray) -> None:
        """Writes a batch's quantiles where they belong."""
        for row, (owner, start, count) in enumerate(
            zip(self.owners, self.starts, self.counts, strict=True)
        ):
            answers[owner][start : start + count] = quantiles_BHQ[row, :count]


def ask(
    queries: Sequence[Query],
    library: Curves,
    codes: Codes,
    *,
    n_references: int,
    index: ReferenceIndex | None = None,
    assume_end: bool = True,
    familiar: Collection[str] | None = None,
) -> Iterator[Asked]:
    """Batches of the queries that have a past and a future; others are left out.

    Args:
        queries: any number.
        library: finished runs; may be empty.
        codes: of the library.
        n_references: at most so many of them for a question, the nearest.
        index: of the library, if it was made already.
        assume_end: take the last target for the planned end of a run that tells none.
        familiar: see `nearest_references`.

    Raises:
        DataError: tokens that are not positive.
    """
    asked = answerable(queries)
    kept = [queries[place] for place in asked]
    contexts = build_curves([query.context for query in kept], codes)
    found = nearest_references(
        kept, contexts, library, index, count=n_references, familiar=familiar
    )
    references = found.nearest
    planned = contexts.end
    if assume_end:
        last = np.log([float(queries[place].target_tokens[-1]) for place in asked])
        planned = np.where(np.isfinite(planned), planned, last)
    pieces = [
        (row, start)
        for row, place in enumerate(asked)
        for start in range(0, len(queries[place].target_steps), MAX_TARGETS)
    ]
    pieces.sort(key=lambda piece: (contexts.lengths[piece[0]], piece))
    for begin in range(0, len(pieces), BATCH):
        chosen = pieces[begin : begin + BATCH]
        rows = np.array([row for row, _ in chosen])
        targets = [
            np.log(queries[asked[row]].target_tokens[start : start + MAX_TARGETS])
            for row, start in chosen
        ]
        padded = np.full((len(chosen), max(map(len, targets))), np.nan, dtype=np.float32)
        for place, piece in enumerate(targets):
            padded[place, : len(piece)] = piece
        yield Asked(
            questions=Questions(
                asked=contexts,
                rows=rows,
                end=contexts.lengths[rows] - 1,
                targets=padded,
                planned=planned[rows].astype(np.float32),
                library=library if len(library) else contexts,
                references=references[rows],
            ),
            owners=[asked[row] for row, _ in chosen],
            starts=[start for _, start in chosen],
            counts=[len(piece) for piece in targets],
        )


def answerable(queries: Sequence[Query]) -> list[int]:
    """The places of the queries that have a past and a future."""
    return [
        place
        for place, query in enumerate(queries)
        if len(query.context.without_step_zero()) and len(query.target_steps)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Rows of the library for each of N queries, -1 pads.

    `nearest` (N, R) are compared with, nearest first; `too_short` (N, M) would be, but ended too
    early for the question.
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
    """Which runs of the library each query is compared with.

    Args:
        queries: N, with a past and a future.
        contexts: their pasts.
        library: finished runs; may be empty.
        index: of the library, if it was made already.
        count: at most so many for a query.
        familiar: families of whose runs any reference will do, however early it ended; of other
            runs only one that is `far_enough`. None: all families.
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
