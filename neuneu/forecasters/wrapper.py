"""What forecasters that wrap another one pass on to it."""

from collections.abc import Sequence

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.protocol import Forecaster, JointForecaster, Query, ReferenceRuns, Sees


class ForecasterWrapper:
    """A `Forecaster` that answers as another one does, except in what a subclass changes."""

    def __init__(self, forecaster: Forecaster) -> None:
        """Wraps a forecaster."""
        self.forecaster = forecaster

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.forecaster.name

    @property
    def sees(self) -> Sees:
        """What it reads."""
        return self.forecaster.sees

    @property
    def levels(self) -> tuple[float, ...]:
        """Its quantile levels."""
        return self.forecaster.levels

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes finished runs as references."""
        self.forecaster.fit(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of each query."""
        return self.forecaster.predict(queries)


class JointForecasterWrapper(ForecasterWrapper):
    """A `JointForecaster` that answers as another one does, except in what a subclass changes."""

    forecaster: JointForecaster

    def __init__(self, forecaster: JointForecaster) -> None:
        """Wraps a forecaster."""
        super().__init__(forecaster)

    @property
    def calibration(self) -> Calibration | None:
        """The forecaster's."""
        return self.forecaster.calibration

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        """(count, h) futures of each query, from the answers of `predict`."""
        return self.forecaster.draw(queries, answers, count=count, seed=seed)

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """The calibration group of every target of every query."""
        return self.forecaster.calibration_groups(queries)

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        """The references of each query."""
        return self.forecaster.reference_runs(queries)

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of `trajectories` that the forecaster was trained on."""
        return self.forecaster.seen_share(trajectories)
