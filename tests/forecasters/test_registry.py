"""A second forecaster that answers questions: one file and one line of the registry."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from curves import ladder, write_table

import neuneu
from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import JointForecaster, Query, ReferenceRuns, Sees
from neuneu.forecasters.registry import KINDS, load_forecaster

END = 20_000.0


class Drift:
    """The last value plus a drift; intervals and samples 0.02 around it; no references."""

    sees: Sees = "own"
    levels = (0.1, 0.5, 0.9)
    calibration = None

    def __init__(self, name: str, drift: float) -> None:
        self.name, self._drift = name, drift

    @classmethod
    def load(cls, folder: Path, *, name: str) -> "Drift":
        return cls(name, json.loads((folder / "config.json").read_text())["drift"])

    def fit(self, references: Sequence[Trajectory]) -> None:
        pass

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        offsets = self._drift + np.array([-0.02, 0.0, 0.02])
        return [np.tile(q.context.values[-1] + offsets, (len(q.target_steps), 1)) for q in queries]

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        shift = np.linspace(-0.02, 0.02, count)
        return [shift[:, None] + answer[:, 1] for answer in answers]

    def calibration_groups(self, queries: Sequence[Query]) -> None:
        return None

    def reference_runs(self, queries: Sequence[Query]) -> list[ReferenceRuns]:
        return [ReferenceRuns(used=[], left_out=[]) for _ in queries]

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        return 0.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(KINDS, "drift", f"{__name__}:Drift")
    record = {"format_version": "1", "kind": "drift", "drift": 0.05}
    (tmp_path / "config.json").write_text(json.dumps(record))
    return tmp_path


def test_a_registered_forecaster_answers_every_question(folder: Path) -> None:
    runs = [t if t.run == "r0" else t.slice(0, 8) for t in ladder(3, tasks=1)]
    table = write_table(folder / "a.parquet", runs, planned_tokens=END)
    model = neuneu.load(folder)
    assert isinstance(model.forecaster, JointForecaster)
    now = {t.run: t.values[-1] for t in runs}
    for row in model.forecast(table, explain=True).rows:
        assert row["q0.5"] == pytest.approx(now[row["run"]] + 0.05, abs=1e-5)
        assert [warning["code"] for warning in row["warnings"]] == ["uncalibrated"]
    ranked = {row["run"]: row["q0.5"] for row in model.rank(table).rows}
    assert ranked["r0"] == pytest.approx(now["r0"], abs=1e-5)
    assert ranked["r1"] == pytest.approx(now["r1"] + 0.05, abs=1e-5)
    assert [row["run"] for row in model.stop(table, target=0.99).rows] == ["r1", "r2"]
    (passage,) = model.when(table, now["r1"] + 0.04, runs=["r1"]).rows
    assert passage["t0.5"] is not None
    saved = [{"run": "r1", "step": 9}]
    assert len(model.next_eval(table, checkpoints=saved).rows) == 1


def test_an_unknown_kind_is_refused_with_the_known_ones(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"format_version": "1", "kind": "x"}))
    with pytest.raises(DataError, match="expected kind window or cross-run or drift, found 'x'"):
        load_forecaster(folder, name="x")
