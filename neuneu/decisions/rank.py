"""Which run will score best: probabilities from samples that were drawn together.

Shapes: R runs, S samples.
"""

from dataclasses import dataclass

import numpy as np

from neuneu.data.trajectories import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """`order` (R,) rows, the likely best first; the rest by row as given.

    `best` (R,) is the probability of being the best of all; `beats` (R, R) that the row scores
    higher than the column (a tie counts half; 0.5 on the diagonal); `regret` (R,) the accuracy
    that choosing the row is expected to lose against choosing with hindsight.
    """

    order: tuple[int, ...]
    best: FloatArray
    beats: FloatArray
    regret: FloatArray


def rank(final_RS: FloatArray) -> Ranking:
    """Ranks R runs by S samples of their finals, drawn together.

    A tie for the first place is shared. The order is by the mean final, which loses least.
    """
    beats = np.array(
        [
            [(mine > other).mean() + 0.5 * (mine == other).mean() for other in final_RS]
            for mine in final_RS
        ]
    )
    top = final_RS.max(axis=0)
    first = final_RS == top
    return Ranking(
        order=tuple(int(row) for row in np.argsort(-final_RS.mean(axis=1), kind="stable")),
        best=(first / first.sum(axis=0)).mean(axis=1),
        beats=beats,
        regret=(top - final_RS).mean(axis=1),
    )
