"""From tables to a shipped folder and back: seen runs are known, damaged folders are refused."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from curves import ask, ladder, write_table
from fitted import fit
from test_cross_run import SMALL

from neuneu.core.errors import DataError, NeuneuError
from neuneu.core.storage import Folder
from neuneu.data.splits import deal_by_size
from neuneu.forecasters.cross_run.export import load_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.groups import group_names
from neuneu.forecasters.registry import load_forecaster
from neuneu.training.cross_run import parallel
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.parallel import fit_all
from neuneu.training.cross_run.pretraining import PretrainConfig, pretrain
from neuneu.training.cross_run.sampling import SamplingConfig
from neuneu.training.worker import TrainingObserver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrained")
    config = PretrainConfig(
        accuracies=write_table(root / "accuracies.parquet", ladder(5)),
        output=root / "model",
        fit=FitConfig(
            network=SMALL,
            optim=CrossRunOptim(max_steps=30, batch_size=16),
            sampling=SamplingConfig(references=4),
        ),
        networks=2,
        folds=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "has_ray", lambda: False)  # quicker; the networks are the same
        result = pretrain(config)
    assert result["runs"] == 5
    assert result["trajectories"] == 20
    files = {path.name for path in (root / "model").iterdir()}
    assert files == {"MODEL_CARD.md", "config.json", "model.safetensors"}
    return root / "model"


def test_folds_hold_out_sizes_together() -> None:
    runs = [
        replace(t, run=f"{size}-{mix}", params=params)
        for size, params in (("70m", 7.01e7), ("160m", 1.6e8), ("410m", 4.1e8), ("1b", 1e9))
        for mix in ("plain", "deduped")
        for t in ladder(1)
    ]
    few = [replace(t, family="other", run=f"x-{mix}") for mix in range(3) for t in ladder(1)]
    family = runs[0].family
    folds = deal_by_size(runs + few, 3, seed=0)
    names = [sorted(run for owner, run in fold if owner == family) for fold in folds]
    assert names == [
        ["1b-deduped", "1b-plain", "70m-deduped", "70m-plain"],
        ["160m-deduped", "160m-plain"],
        ["410m-deduped", "410m-plain"],
    ]
    assert [sum(owner == "other" for owner, _ in fold) for fold in folds] == [1, 1, 1]
    assert deal_by_size(runs + few, 3, seed=0) == folds


ON_RAY = pytest.param(True, marks=[pytest.mark.ray, pytest.mark.slow])


@pytest.mark.parametrize("ray", [False, ON_RAY])
def test_trainings_side_by_side_equal_trainings_in_turn(
    ray: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "has_ray", lambda: ray)
    runs = ladder(4)
    config = FitConfig(network=SMALL, optim=CrossRunOptim(max_steps=5, batch_size=8))
    learners = [
        CrossRunLearner(learn=runs, config=config),
        CrossRunLearner(learn=runs[:8], config=replace(config, seed=3)),
    ]
    together = fit_all(learners, workers=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = [fit(runs, config), fit(runs[:8], replace(config, seed=3))]
    torch.set_num_threads(threads)
    for left, right in zip(together, alone, strict=True):
        assert left.config == right.config
        for name, value in left.state_dict().items():
            torch.testing.assert_close(value, right.state_dict()[name], rtol=0, atol=0)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_end_with_a_killed_driver() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from curves import ladder
from test_cross_run import SMALL
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.parallel import fit_all
if __name__ == "__main__":
    runs = ladder(2)
    optim = CrossRunOptim(max_steps=100_000, batch_size=8)
    learner = CrossRunLearner(learn=runs, config=FitConfig(network=SMALL, optim=optim))
    fit_all([learner, learner], workers=2)
"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "driver.py"
        script.write_text(code, encoding="utf-8")
        tests = Path(__file__).parents[2]
        paths = os.pathsep.join([str(tests / "support"), str(tests.parent)])
        driver = subprocess.Popen(
            [sys.executable, script, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        watched = psutil.Process(driver.pid)
        assert driver.stderr is not None
        while "train: " not in (line := driver.stderr.readline()):
            assert line, "the driver ended before it trained"
        workers = watched.children(recursive=True)
        assert len(workers) >= 2
        driver.kill()
        driver.wait()
        _, alive = psutil.wait_procs(workers, timeout=120)
        assert not alive


@pytest.mark.parametrize(
    "ray", [False, pytest.param(True, marks=[*ON_RAY.marks, pytest.mark.soak])]
)
def test_a_failed_training_ends_all(ray: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "has_ray", lambda: ray)
    wild = CrossRunOptim(max_steps=5, batch_size=8, learning_rate=1e30, clip_norm=1e30)
    learner = CrossRunLearner(learn=ladder(1), config=FitConfig(network=SMALL, optim=wild))
    with pytest.raises(NeuneuError, match=r"^training diverged at step"):
        fit_all([learner, learner], workers=2)


def test_an_interrupted_pretraining_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "has_ray", lambda: False)
    optim = CrossRunOptim(max_steps=6, batch_size=8)
    config = FitConfig(network=SMALL, optim=optim, report_steps=2)
    runs, folder = ladder(2), Folder(tmp_path)
    learners = [CrossRunLearner(learn=runs, config=replace(config, seed=seed)) for seed in (0, 1)]
    steps: list[int] = []

    def tick(self: TrainingObserver, step: int, *_: float) -> None:
        steps.append(step)
        if len(steps) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingObserver, "tick", tick)
    with pytest.raises(KeyboardInterrupt):
        fit_all(learners, folder=folder)
    resumed = fit_all(learners, folder=folder)
    assert steps == [1, 2, 3, 4, 5, 6, 1, 2, 3, 3, 4, 5, 6]
    monkeypatch.undo()
    for network, learner in zip(resumed, learners, strict=True):
        whole = fit(runs, learner.config)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=1e-6)


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="at least two checkpoints"):
        CrossRunLearner(learn=(), config=FitConfig())


def test_loaded_forecaster_answers_and_knows_what_it_saw(folder: Path) -> None:
    forecaster = CrossRunForecaster.load(folder)
    known, unknown = ladder(5), ladder(2, seed=11)
    assert forecaster.seen_share(known) == 1.0
    assert forecaster.seen_share(unknown) == 0.0
    forecaster.fit(known)
    (answer,) = forecaster.predict([ask(unknown[0], 5)])
    assert answer.shape == (15, 7)
    assert (np.diff(answer, axis=1) >= 0).all()
    assert isinstance(load_forecaster(folder, name="x"), CrossRunForecaster)
    card = (folder / "MODEL_CARD.md").read_text()
    assert len(load_networks(folder).networks) == 2
    assert "* Families trained on: f" in card
    assert all(f"* f/r{index} (4 trajectories)" in card for index in range(5))
    assert "| all | 5 |" in card


def test_futures_are_sampled_with_the_forecast_margins(folder: Path) -> None:
    forecaster = CrossRunForecaster.load(folder)
    runs = ladder(5)
    forecaster.fit(runs[:12])
    query = ask(runs[-1], 8)
    (drawn,) = forecaster.sample([query], count=4000, seed=1)
    (answer,) = forecaster.predict([query])
    assert drawn.shape == (4000, len(query.target_steps))
    found = np.quantile(drawn, forecaster.levels, axis=0).T
    np.testing.assert_allclose(found, answer, atol=0.15 * np.ptp(answer, axis=1).max())
    np.testing.assert_array_equal(drawn, forecaster.sample([query], count=4000, seed=1)[0])
    forecaster.joint = None
    with pytest.raises(DataError, match="neuneu pretrain"):
        forecaster.sample([query])


def test_bands_are_calibrated_by_group(folder: Path) -> None:
    calibrated = CrossRunForecaster.load(folder)
    assert calibrated.calibration is not None
    assert calibrated.calibration.groups["all"].n_runs == 5
    raw = CrossRunForecaster.load(folder)
    raw.calibration = None
    query = ask(ladder(1)[0], 5)
    with_, without = (f.predict([query])[0] for f in (calibrated, raw))
    np.testing.assert_array_equal(with_[:, 3], without[:, 3])
    assert (with_ != without).any()
    assert raw.calibration_groups([query]) is None
    # Five runs are too few for groups of their own.
    assert calibrated.calibration_groups([query]) == [["all"] * 15]
    assert "alone, several, near" in calibrated.calibration.groups
    for references, seen in (([], "alone"), (ladder(3)[:4], "alone"), (ladder(3)[4:], "compared")):
        raw.fit(references)
        compared = [bool(runs.used) for runs in raw.reference_runs([query])]
        assert group_names([query], compared)[0][0] == f"{seen}, several, near"


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="does not hold the weights"):
        CrossRunForecaster.load(broken)
    record = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(record | {"kind": "other"}))
    with pytest.raises(DataError, match="expected kind 'cross-run'"):
        CrossRunForecaster.load(broken)


def test_backtest_of_a_table_by_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from neuneu.cli.app import app

    monkeypatch.setattr("neuneu.forecasters.registry.PRETRAINED", folder)
    table = write_table(tmp_path / "a.parquet", [*ladder(5), *ladder(3, seed=5, prefix="new")])
    command = [
        "backtest", str(table), "--context", "0.3", "-o", str(tmp_path / "out"),
        "--forecasters", "persistence,neuneu", "--set", "figures=false",
        "--set", "protocol=by-compute", "--set", "folds=2", "--set", "bootstrap_samples=100",
        "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["protocol"] == "by-compute-0.3"
    assert set(summary["forecasters"]) == {"persistence", "neuneu"}
    # Those that it was trained on are marked; the others are not.
    assert len(summary["forecasters"]["neuneu"]["trained_on"]) == 5
    forecasts = pq.read_table(tmp_path / "out/forecasts.parquet")
    groups = set(forecasts.column("calibration_group").to_pylist())
    assert groups == {"all", None}


def test_forecast_by_command_line(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from neuneu.cli.app import app

    table = write_table(tmp_path / "a.parquet", ladder(2))
    command = ["forecast", str(table), "--until", "40000", "--model", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "40K" in result.output
    assert "warning: calibrated on 5 runs" in result.output
    missing = CliRunner().invoke(app, ["forecast", str(tmp_path / "none.csv"), "--until", "1e9"])
    assert missing.exit_code == 2
