"""Small trajectories and a fake forecaster for tests of evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query, Sees


def trajectory(values: Sequence[float], **changes: Any) -> Trajectory:
    """Return a run on one task with checkpoints at steps 1, 2, ...; 100 tokens per step."""
    steps = np.arange(1, len(values) + 1)
    fields: dict[str, Any] = {
        "family": "f", "suite": "s", "run": "r", "params": 1e6, "num_fewshot": 0, "task": "t",
        "metric": "acc", "steps": steps, "tokens": steps * 100.0, "flops": steps * 6e8,
        "values": np.asarray(values, dtype=np.float64), "stderrs": np.full(len(steps), np.nan),
        "base_task": "t", "group": "g",
    } | changes  # fmt: skip
    return Trajectory(**fields)


class Shifted:
    """Persistence plus a constant, with intervals; NaN for unknown tasks."""

    def __init__(
        self,
        name: str = "shifted",
        *,
        shift: float = 0.0,
        levels: tuple[float, ...] = (0.1, 0.5, 0.9),
        half_width: float = 0.1,
        sees: Sees = "own",
        unknown: tuple[str, ...] = (),
    ) -> None:
        self.name, self.levels, self.sees = name, levels, sees
        self._shift, self._half_width, self._unknown = shift, half_width, unknown
        self.queries: list[Query] = []
        self.references: list[Trajectory] = []

    def fit(self, references: Sequence[Trajectory]) -> None:
        self.references = list(references)

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        self.queries = list(queries)
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> FloatArray:
        if query.context.task in self._unknown:
            return np.full((len(query.target_steps), len(self.levels)), np.nan)
        offsets = np.sign(np.array(self.levels) - 0.5) * self._half_width
        row = np.clip(query.context.values[-1] + self._shift + offsets, 0.0, 1.0)
        return np.tile(row, (len(query.target_steps), 1))
