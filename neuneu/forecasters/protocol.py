"""What a forecaster is: a query in, quantiles out. A query holds nothing of the future."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import FloatArray, IntArray, Trajectory

Sees = Literal["own", "reference", "oracle-loss"]
"""What a forecaster may look at: the run's own past; also finished other runs of the same task;
also the true future validation losses of the run itself (what no user has)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One question: the observed past of one trajectory, and h >= 1 later checkpoints.

    `context` ends where observation ends. `target_steps`, `target_tokens`, `target_flops` are
    (h,), increasing. `future_losses` (validation set -> (h,) nats a token) is given only to
    forecasters that declare `oracle-loss`. `word_losses` is (W,) float16 nats at the last
    context checkpoint, where the store has them.
    """

    context: Trajectory
    target_steps: IntArray
    target_tokens: FloatArray
    target_flops: FloatArray
    future_losses: dict[str, FloatArray] | None = None
    word_losses: npt.NDArray[np.float16] | None = None


class Forecaster(Protocol):
    """Answers queries with quantiles of future accuracy."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def sees(self) -> Sees:
        """What it looks at beyond nothing."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Quantile levels it gives, increasing; always with 0.5."""

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Learns from finished runs; those that cannot learn do nothing.

        No run group of a later query may be among `references`; the caller guarantees it.
        """

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, len(levels)) array a query: accuracies in [0, 1], non-decreasing in level.

        A query that the forecaster cannot answer (such as a task absent from the references)
        gives NaN throughout; no other NaN is allowed.
        """
