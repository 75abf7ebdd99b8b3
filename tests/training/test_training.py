"""Training on Ray: files it leaves, resuming after a kill, workers, refusals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from curves import family
from ray.train import Checkpoint
from rows import accuracy
from s3_server import S3Server
from safetensors.torch import load_file

from neuneu.core.config import build_config
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.ray_session import ray_session
from neuneu.core.storage import Folder
from neuneu.forecasters.registry import load_forecaster
from neuneu.forecasters.window.export import CARD, CONFIG, WEIGHTS
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.training.config import TrainConfig
from neuneu.training.run import HISTORY, SETTINGS, TrainResult, train

RUNS = ["a", "b", "v", "h"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        accuracy(run=t.run, task=t.task, step=int(step), value=float(value))
        for t in family(RUNS)
        for step, value in zip(t.steps, t.values, strict=True)
    ]
    path = tmp_path_factory.mktemp("training") / "accuracies.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def settings(table: Path, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "output": str(table.parent / output),
        "accuracies": str(table),
        "validation_runs": ["v"],
        "held_out_runs": ["h"],
        "model": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32},
        "optim": {"batch_size": 32, "epochs": 2},
    } | changes


def config(table: Path, output: str, **changes: Any) -> TrainConfig:
    return build_config(TrainConfig, settings(table, output, **changes))


def assert_same_weights(one: Folder, other: Folder, tolerance: float) -> None:
    left, right = load_file(f"{one}/{WEIGHTS}"), load_file(f"{other}/{WEIGHTS}")
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=tolerance, rtol=0)


@pytest.mark.ray
@pytest.mark.slow
def test_training_leaves_a_forecaster_and_is_not_repeated(table: Path) -> None:
    wanted = config(table, "one")
    with ray_session(num_cpus=2):
        result = train(wanted)
        pair = train(config(table, "two", workers=2))
        folder = Path(str(result.folder))
        state = max(folder.glob("ray/state/*/state.pt")).parent
        taken = train(config(table, "taken"), start=Checkpoint.from_directory(state))
    assert not result.finished_before
    assert taken.history == result.history  # a state at its end leaves nothing to learn
    assert_same_weights(taken.folder, result.folder, 0.0)
    for name in (WEIGHTS, CONFIG, CARD, HISTORY, SETTINGS):
        assert (folder / name).stat().st_size
    assert len((folder / HISTORY).read_text().splitlines()) == 3
    record = json.loads((folder / CONFIG).read_text())
    assert list(record["provenance"]["training_runs"]) == ["f/a", "f/b"]
    assert set(result.metrics) == {"pinball", "mae", "coverage_80"}
    held_out = [t for t in family(RUNS) if t.run == "h"]
    forecaster = NeuralForecaster.load(folder)
    assert forecaster.seen_share(held_out) == 0.0
    assert forecaster.seen_share([t for t in family(RUNS) if t.run == "a"]) == 1.0

    # Two ranks take the same samples a step as one; only the order of summation differs.
    assert_same_weights(result.folder, pair.folder, 1e-4)
    assert pair.metrics == pytest.approx(result.metrics, abs=1e-4)

    again = train(wanted)  # needs no Ray
    assert again.finished_before
    assert (again.metrics, again.history) == (result.metrics, result.history)
    with pytest.raises(UserError, match="holds another training"):
        train(config(table, "one", seed=1))


LONGER: dict[str, Any] = {
    "optim": {"batch_size": 8, "epochs": 6},
    "keep": "best",
    "checkpoint_steps": 40,
}


@pytest.fixture(scope="module")
def uninterrupted(table: Path) -> TrainResult:
    with ray_session(num_cpus=2):
        return train(config(table, "uninterrupted", **LONGER))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kill", "torn"),
    [
        (signal.SIGKILL, False),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.soak),
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.soak, id="and half a list of states"),
    ],
)
def test_killed_training_resumes_to_the_same_weights(
    table: Path, uninterrupted: TrainResult, kill: signal.Signals, torn: bool
) -> None:
    output = f"killed-by-{kill.name}-{torn}"
    written = table.parent / f"{output}.yaml"
    written.write_text(json.dumps(settings(table, output, **LONGER)))
    snapshot = table.parent / output / "ray" / "state" / "checkpoint_manager_snapshot.json"
    command = [Path(sys.executable).with_name("neuneu"), "train", "--config", written]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not snapshot.exists():
            assert process.poll() is None, "the driver ended before its first state"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, kill)
        assert process.wait(120) == (130 if kill == signal.SIGINT else -kill)
    finally:
        process.kill()
    assert not (table.parent / output / WEIGHTS).exists(), "killed too late to test anything"
    if torn:
        snapshot.write_bytes(snapshot.read_bytes()[:40])
    with ray_session(num_cpus=2):
        resumed = train(config(table, output, **LONGER))
    assert_same_weights(resumed.folder, uninterrupted.folder, 0.0)
    assert resumed.history == uninterrupted.history


@pytest.mark.ray
@pytest.mark.slow
def test_diverging_training_stops_with_a_message(table: Path) -> None:
    wild = {"learning_rate": 1e30, "batch_size": 32, "clip_norm": 1e30}
    with (
        ray_session(num_cpus=2),
        pytest.raises(NeuneuError, match=r"diverged at step .* Lower optim.learning_rate"),
    ):
        train(config(table, "wild", optim=wild))
    assert not (table.parent / "wild" / WEIGHTS).exists()


def test_keep_best_without_validation_runs_is_refused(table: Path) -> None:
    with pytest.raises(UserError, match="name validation_runs"):
        config(table, "x", keep="best", validation_runs=[])


def test_importing_training_imports_no_ray() -> None:
    modules = (
        "training.run", "training.loop", "training.worker", "training.data", "training.tuning.run",
        "training.tuning.space", "training.tuning.trial", "reports.tuning.report",
        "forecasters.window.forecaster", "forecasters.window.windows",
        "forecasters.window.batching",
    )  # fmt: skip
    imports = ", ".join(f"neuneu.{module}" for module in modules)
    code = f"import sys, {imports}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


CROSS_RUN: dict[str, Any] = {
    "model": {},
    "optim": {},
    "cross_run": {
        "network": {"width": 32, "heads": 2, "blocks": 1, "dropout": 0.0},
        "optim": {"max_steps": 40, "batch_size": 16},
        "report_steps": 10,
    },
}


@pytest.mark.ray
@pytest.mark.slow
def test_the_network_that_reads_other_runs_is_trained_likewise(table: Path) -> None:
    with ray_session(num_cpus=2):
        one = train(config(table, "cross-one", **CROSS_RUN))
        two = train(config(table, "cross-two", **CROSS_RUN, workers=2))
    assert_same_weights(one.folder, two.folder, 1e-4)
    assert [row["step"] for row in one.history] == [10, 20, 30, 40]
    assert one.metrics == pytest.approx(two.metrics, abs=1e-4)
    assert {"pinball", "mae", "coverage_80", "own_mae"} <= set(one.metrics)
    forecaster = load_forecaster(one.folder, name="x")
    held_out = [t for t in family(RUNS) if t.run == "h"]
    assert forecaster.seen_share(held_out) == 0.0
    assert forecaster.seen_share([t for t in family(RUNS) if t.run == "a"]) == 1.0
    card = one.folder.read(CARD).decode()
    assert "the mean of the last 12 steps" in card
    assert "* Held-out runs, never read: h" in card
    assert train(config(table, "cross-one", **CROSS_RUN)).finished_before


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_worker_is_replaced_and_resumes_to_the_same_weights(
    table: Path, uninterrupted: TrainResult
) -> None:
    output = table.parent / "worker-killed"
    snapshot = output / "ray" / "state" / "checkpoint_manager_snapshot.json"
    killed: list[int] = []

    def kill_one() -> None:
        while not snapshot.exists():
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return

    with ray_session(num_cpus=2):
        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        result = train(config(table, output.name, **LONGER))
        killer.join(60)
    assert killed, "no worker was there to kill"
    assert_same_weights(result.folder, uninterrupted.folder, 0.0)
    assert result.history == uninterrupted.history


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 2, "validation_runs": []}, "patience watches the validation loss"),
        ({"workers": [3, 2]}, "must be"),
        ({"cross_run": {}}, "set cross_run.network"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    table: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config(table, "refused", **changes)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_on_s3_is_as_on_disk(
    table: Path, uninterrupted: TrainResult, s3: S3Server
) -> None:
    address = f"s3://{s3.bucket}/deep/forecaster"

    def there(**changes: Any) -> TrainConfig:
        given = settings(table, "unused", **LONGER) | {"output": address} | changes
        return build_config(TrainConfig, given)

    with ray_session(num_cpus=2):
        s3.when("PUT", at=6, do=lambda: s3.fail_for(2.0))
        result = train(there())
        assert result.history == uninterrupted.history
        files = result.folder.files()
        assert {WEIGHTS, CONFIG, CARD, HISTORY, SETTINGS} <= files.keys()
        assert any(name.endswith("state.pt") for name in files)
        assert "progress.json" not in files
        remote = load_forecaster(address, name="x")
        local = load_forecaster(uninterrupted.folder, name="x")
        for left, right in zip(
            remote.network.parameters(), local.network.parameters(), strict=True
        ):
            torch.testing.assert_close(left, right, atol=0.0, rtol=0)

        # A driver killed while it exports: the config was to come last.
        result.folder.delete(CONFIG)
        again = train(there())
    assert not again.finished_before
    assert again.history == uninterrupted.history
    assert train(there()).finished_before
    with pytest.raises(UserError, match="holds another training"):
        train(there(seed=1))
