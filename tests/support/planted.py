"""A forecaster of planted quality, and runs whose outcomes it should forecast."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from curves import trajectory

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.copula import Joint, sample_futures
from neuneu.forecasters.protocol import Query, ReferenceRuns, Sees

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
NOISE = 0.03


class Planted:
    """Forecasts 0.5 with the noise of `noisy_runs`, intervals too wide by given factors.

    `asked` has one (references, queries) for each call of `predict`.
    """

    name = "planted"
    sees: Sees = "reference"
    levels = LEVELS
    calibration: Calibration | None = None

    def __init__(
        self, below: float = 1.0, above: float | None = None, trained_on: Sequence[str] = ()
    ) -> None:
        self._factors = (below, below if above is None else above)
        self._trained_on = frozenset(trained_on)
        self._references: list[Trajectory] = []
        self.asked: list[tuple[list[Trajectory], list[Query]]] = []

    def fit(self, references: Sequence[Trajectory]) -> None:
        self._references = list(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        self.asked.append((self._references, list(queries)))
        z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
        row = 0.5 + NOISE * z * np.where(z < 0, *self._factors)
        return [np.tile(row, (len(query.target_steps), 1)) for query in queries]

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        contexts = [query.context for query in queries]
        return sample_futures(
            answers, LEVELS, [np.log(query.target_tokens) for query in queries],
            Joint(reach=1.0, noise=0.5), trajectories=[c.key for c in contexts],
            runs=[c.run for c in contexts], tasks=[c.task for c in contexts],
            count=count, seed=seed,
        )  # fmt: skip

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        return None

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        return [ReferenceRuns(used=list(self._references), left_out=[]) for _ in queries]

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        return float(np.mean([t.run in self._trained_on for t in trajectories]))


def noisy_runs(
    n_runs: int, *, tasks: int = 6, n: int = 20, seed: int = 0, prefix: str = "r"
) -> list[Trajectory]:
    """Finished runs of one size at 0.5, with independent noise at every checkpoint."""
    generator = np.random.default_rng(seed)
    return [
        replace(
            trajectory(
                0.5 + generator.normal(0.0, NOISE, n), run=f"{prefix}{run}", task=f"t{task}"
            ),
            planned_tokens=n * 1e3,
        )
        for run in range(n_runs)
        for task in range(tasks)
    ]
