"""Interfaces of forecasters: a query in, quantiles out. A query holds nothing of the future."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.calibration import Calibration

Sees = Literal["own", "reference", "oracle-loss"]
"""What a forecaster reads: the run's own past; also finished other runs on the same task; also the
run's own true future validation losses, which no user has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """The observed past of one trajectory (`context`), and h >= 1 later checkpoints.

    A run that has not started has a context without checkpoints, which says what is planned.
    `target_steps`, `target_tokens`, `target_flops` are
    (h,), increasing. `future_losses` (validation set -> (h,) nats a token) is given only to
    forecasters that declare `oracle-loss`. `word_losses` is (W,) float16 nats at the last
    context checkpoint, where the store has them, of the text `corpus_hash`. `siblings` are the
    observed pasts of other trajectories of the same run. The context of a run that has not begun is
    empty.
    """

    context: Trajectory
    target_steps: IntArray
    target_tokens: FloatArray
    target_flops: FloatArray
    future_losses: dict[str, FloatArray] | None = None
    word_losses: npt.NDArray[np.float16] | None = None
    corpus_hash: str | None = None
    siblings: Sequence[Trajectory] = ()


class Forecaster(Protocol):
    """Answers queries with quantiles of future accuracy."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def sees(self) -> Sees:
        """What it reads."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Its quantile levels, increasing; always with 0.5."""

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references; forecasters that use none do nothing.

        The caller guarantees that no run group of a later query is among `references`.
        """

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """One (h, len(levels)) array a query: values of its metric, non-decreasing in level.

        They are in the metric's own units and within its bounds (`context.scale`).

        A query that the forecaster cannot answer (such as a task absent from the references)
        gives NaN throughout; no other NaN is allowed.
        """


@dataclass(frozen=True, kw_only=True)
class ReferenceRuns:
    """References of one query: those `used`, nearest first, and those `left_out`.

    Trajectories are left out where they end too early for the query.
    """

    used: list[Trajectory]
    left_out: list[Trajectory]


@runtime_checkable
class JointForecaster(Forecaster, Protocol):
    """What `neuneu.load` returns and `neuneu.decisions` asks: it samples, calibrates, explains.

    Its class has `load(folder, name=...)` and a line in `neuneu.forecasters.registry`.
    """

    @property
    def calibration(self) -> Calibration | None:
        """What its intervals are calibrated on; None if they are not."""

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """The calibration group of every target of every query; None without a calibration."""

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        """(count, h) futures of each query, drawn together, from the answers of `predict`."""

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        """The references of each query."""

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` that it was trained on."""
