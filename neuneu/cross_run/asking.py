"""Queries as batches of questions: contexts of like length together, long horizons in pieces.

Shapes: B rows of a batch, H targets, Q levels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.cross_run.curves import Codes, Curves, build_curves
from neuneu.cross_run.questions import Questions
from neuneu.cross_run.references import (
    NONE,
    ReferenceIndex,
    candidates,
    distances,
    index_references,
    nearest,
)
from neuneu.forecaster import Query
from neuneu.trajectories import FloatArray, IntArray

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
) -> Iterator[Asked]:
    """Batches of the queries that have a past and a future; others are left out.

    Args:
        queries: any number.
        library: finished runs; may be empty.
        codes: of the library.
        n_references: at most so many of them for a question, the nearest.
        index: of the library, if it was made already.
        assume_end: take the last target for the planned end of a run that tells none.

    Raises:
        DataError: tokens that are not positive.
    """
    asked = [
        place
        for place, query in enumerate(queries)
        if len(query.context.without_step_zero()) and len(query.target_steps)
    ]
    contexts = build_curves([queries[place].context for place in asked], codes)
    references = nearest_references(contexts, library, index, n_references)
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


def nearest_references(
    contexts: Curves, library: Curves, index: ReferenceIndex | None, count: int
) -> IntArray:
    """(N, R <= count) rows of the library to compare each context with, nearest first; -1 pads."""
    rows = np.arange(len(contexts))
    if not len(library) or not len(rows):
        return np.full((len(rows), 1), NONE, dtype=np.int64)
    found = candidates(index or index_references(library), contexts, rows)
    return nearest(found, distances(library, found, contexts, rows), count)
