"""Questions to the network as arrays: what was observed, what is asked, who may be compared.

Shapes: B questions, K observed checkpoints (padded at the front), H targets, R references.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import IntArray
from neuneu.forecasters.cross_run.curves import Curves, Float32Array

MAX_OBSERVED: Final = 256
"""Of a longer past only the last checkpoints are read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """B questions about trajectories of `asked`, whose observed past ends at `end`.

    `rows` (B,) of `asked`; `end` (B,) index of the last observed checkpoint of each;
    `targets` (B, H) ln tokens, NaN where there are fewer; `planned` (B,) ln of the tokens the run
    is planned for, NaN where unknown; `references` (B, R) rows of `library`, -1 where there are
    fewer; where there are none at all the library may be any table that is not empty. `kept`
    (B, MAX_OBSERVED) is false where an observed checkpoint is to be overlooked, the last of the
    past at the end; None keeps all.
    """

    asked: Curves
    rows: IntArray
    end: IntArray
    targets: Float32Array
    planned: Float32Array
    library: Curves
    references: IntArray
    kept: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """The number of questions B."""
        return len(self.rows)

    def take(self, index: IntArray) -> "Questions":
        """The questions at `index`, in its order."""
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
    """The past of B questions, (B, K) float32: `x` ln tokens before the last one (<= 0),
    `values`, `losses` (NaN where unknown), and `mask`, false where padded."""

    x: Float32Array
    values: Float32Array
    losses: Float32Array
    mask: npt.NDArray[np.bool_]
    now: Float32Array


def observed(questions: Questions) -> Observed:
    """Gathers what each question may see of its own run; `now` (B,) is ln tokens at its end."""
    asked = questions.asked
    start = asked.starts[questions.rows]
    last = start + questions.end
    longest = int(min(questions.end.max(initial=0) + 1, MAX_OBSERVED))
    place = last[:, None] - np.arange(longest - 1, -1, -1)[None, :]
    mask = place >= start[:, None]
    if questions.kept is not None:
        mask &= questions.kept[:, MAX_OBSERVED - longest :]
    place = np.where(mask, place, last[:, None])
    now = asked.x[last]
    return Observed(
        x=asked.x[place] - now[:, None],
        values=asked.values[place],
        losses=asked.losses[place],
        mask=mask,
        now=now,
    )
