"""Trackers by their own libraries: what was told is read back, each epoch once, without secrets.

wandb and mlflow are no part of the locked environment: their tests skip where they are missing.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from curves import family, write_table
from s3_server import S3Server
from tracked import tracked, wandb_records

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.training import trackers
from neuneu.training.config import TrainConfig
from neuneu.training.learner import Ranks
from neuneu.training.loop import train_from
from neuneu.training.run import load_learner, train
from neuneu.training.trackers import TrackingConfig
from neuneu.training.tracking import RECORD, TrackedTraining, TrackerError
from neuneu.training.worker import TrainingObserver

HISTORY = [
    {"epoch": float(n), "step": 10.0 * n, "train_pinball": 0.5 / n, "validation_mae": 0.1 * n}
    for n in (1, 2, 3)
]
SETTINGS = {
    "optim": {"epochs": 3, "learning_rate": 0.001},
    "store": "https://me:hunter2@host/store",
    "held_out_runs": ["a", "b"],
    "patience": None,
}
Lines = Callable[[], list[dict[str, Any]]]


def in_two_parts(config: TrackingConfig, output: Folder) -> None:
    """A training of three epochs that is interrupted after the second."""
    first = TrackedTraining(config, output, SETTINGS, "demo/forecaster")
    for epochs in (1, 2):
        first.follow(HISTORY[:epochs])
    first.close(finished=False)
    second = TrackedTraining(config, output, SETTINGS, "demo/forecaster")
    second.follow(HISTORY[:2])  # as a worker that goes on does first
    second.follow(HISTORY)
    second.close(finished=True)
    assert json.loads(output.read(RECORD))["epochs"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "neptune"}, "kind"),
        ({"kind": "wandb", "address": "https://x"}, "leave it out for wandb"),
        ({"kind": "mlflow", "address": "https://me:hunter2@x"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"kind": "mlflow", "address": "sqlite:///mlflow.db"}, "absolute"),
    ],
)
def test_mistakes_are_explained_without_secrets(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_config(TrackingConfig, settings)
    assert "hunter2" not in str(caught.value)


def test_missing_package_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "table.parquet", family(["a"]))
    output = tmp_path / "out"
    settings = {"output": str(output), "accuracies": str(table), "tracking": {"kind": "wandb"}}
    monkeypatch.setattr("neuneu.core.extras.importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"tracking needs wandb: pip install 'neuneu\[wandb\]'"):
        train(build_config(TrainConfig, settings))
    assert not output.exists()


def test_tracking_does_not_change_what_a_training_is() -> None:
    from neuneu.training.run import training_identity

    plain = build_config(TrainConfig, {"output": "x"})
    followed = build_config(TrainConfig, {"output": "x", "tracking": {"kind": "wandb"}})
    assert training_identity(plain, "d") == training_identity(followed, "d")


class Scripted:
    """A tracker that fails when it is told to."""

    def __init__(self) -> None:
        self.run, self.away = "r1", False
        self.steps: list[int] = []
        self.opened: list[str | None] = []

    def open(self, *_: Any, run: str | None, **__: Any) -> "Scripted":
        self._fail()
        self.opened.append(run)
        return self

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._fail()
        self.steps.append(step)

    def close(self, *, finished: bool) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.away:
            raise TrackerError("tracking: nobody there")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted()
    monkeypatch.setattr(trackers, "open_tracker", made.open)
    return made


def test_epochs_that_were_missed_come_with_the_next(
    scripted: Scripted, tmp_path: Path, log_lines: Lines
) -> None:
    output = Folder(tmp_path)
    followed = TrackedTraining(tracked("mlflow"), output, {}, "n")
    followed.follow(HISTORY[:1])
    scripted.away = True
    followed.follow(HISTORY[:2])
    followed.close(finished=False)
    assert [line["level"] for line in log_lines()] == ["warning", "warning"]
    again = TrackedTraining(tracked("mlflow"), output, {}, "n")
    again.follow(HISTORY[:2])
    scripted.away = False
    again.follow(HISTORY)
    assert (scripted.steps, scripted.opened) == ([10, 20, 30], [None, "r1"])


def test_a_first_run_that_cannot_be_opened_ends_the_training(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.away = True
    with pytest.raises(TrackerError, match="nobody there"):
        TrackedTraining(tracked("wandb"), Folder(tmp_path), {}, "n")


def test_another_tracker_gets_all_epochs(scripted: Scripted, tmp_path: Path) -> None:
    for project in ("one", "other", "other"):
        config = tracked("wandb", project=project)
        TrackedTraining(config, Folder(tmp_path), {}, "n").follow(HISTORY[:2])
    assert scripted.opened == [None, None, "r1"]
    assert scripted.steps == [10, 20, 10, 20]


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(tmp_path / "output")
    return Folder(f"s3://{request.getfixturevalue('s3').bucket}/output")


def scalars(folder: Folder, to: Path) -> tuple[dict[str, list[tuple[int, float]]], str]:
    """Name -> (step, value) in TensorBoard's order, and the config's text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in folder.files():
        folder.download(name, to / name)
    events = EventAccumulator(str(to)).Reload()
    (config,) = events.Tensors("config/text_summary")
    return (
        {
            name: [(event.step, event.value) for event in events.Scalars(name)]
            for name in events.Tags()["scalars"]
        },
        config.tensor_proto.string_val[0].decode(),
    )


def test_tensorboard_reads_back_each_epoch_once(output: Folder, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    in_two_parts(tracked("tensorboard"), output)
    found, config = scalars(output / "tensorboard", tmp_path / "read")
    assert found.keys() == HISTORY[0].keys()
    assert found["train_pinball"] == [(10, 0.5), (20, 0.25), (30, pytest.approx(0.5 / 3))]
    assert "learning_rate: 0.001" in config
    assert "https://***@host/store" in config


def test_observer_follows_a_real_training_without_ray(tmp_path: Path, log_lines: Lines) -> None:
    pytest.importorskip("tensorboard")
    settings = {
        "output": str(tmp_path / "out"),
        "accuracies": str(write_table(tmp_path / "table.parquet", family(["a", "v"]))),
        "validation_runs": ["v"],
        "model": {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32},
        "optim": {"batch_size": 32, "epochs": 2},
        "checkpoint_steps": 3,
        "tracking": {"kind": "tensorboard"},
    }
    config = build_config(TrainConfig, settings)
    learner, folder = load_learner(config), Folder(config.output)
    observer = TrainingObserver(config, folder)
    other = TrainingObserver(config, folder, rank=1)
    samples = []

    def tick(step: int, total: int, loss: float, count: int) -> None:
        samples.append(count)
        observer.tick(step, total, loss, count)
        other.tick(step, total, -1.0, count)

    def save(state: dict[str, Any]) -> None:
        for each in (observer, other):
            each.saved(state)

    state = train_from(None, learner, config.loop, save=save, tick=tick)
    for each in (observer, other):
        each.close(finished=True)
    per_epoch = learner.steps_per_epoch(32)
    assert samples[0] == 32
    assert samples == [learner.draw(n // per_epoch, n % per_epoch, Ranks())[1]
                       for n in range(2 * per_epoch)]  # fmt: skip
    assert json.loads(folder.read("progress.json"))["loss"] >= 0
    assert [line["epoch"] for line in log_lines() if line["message"] == "epoch"] == [1.0, 2.0]
    found, text = scalars(folder / "tensorboard", tmp_path / "read")
    expected = [(int(row["step"]), row["validation_pinball"]) for row in state["history"]]
    assert found["validation_pinball"] == [(step, pytest.approx(v)) for step, v in expected]
    assert config_to_dict(config)["accuracies"] in text


def test_mlflow_reads_back_each_epoch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    many = {f"key{n}": n for n in range(150)}  # more than it takes at once
    monkeypatch.setitem(SETTINGS, "many", many)
    output = Folder(tmp_path / "output")
    output.write("x", b"")
    in_two_parts(tracked("mlflow"), output)
    client = MlflowClient(f"sqlite:///{tmp_path}/output/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("demo/forecaster", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train_pinball")
    assert [(m.step, m.value) for m in history] == [(10, 0.5), (20, 0.25), (30, 0.5 / 3)]
    params = run.data.params
    assert (params["optim.epochs"], params["store"]) == ("3", "https://***@host/store")
    assert {f"many.{key}" for key in many} <= params.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


def test_mlflow_server_that_is_away_is_told_of_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    config = tracked("mlflow", address="http://127.0.0.1:9")
    with pytest.raises(TrackerError, match="tracking: mlflow failed") as caught:
        TrackedTraining(config, Folder(tmp_path), {}, "n")
    assert "hunter2" not in str(caught.value)


def test_mlflow_database_cannot_lie_on_s3(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI to a server"):
        trackers.mlflow_address(tracked("mlflow"), Folder(f"s3://{s3.bucket}/x"))


def test_wandb_keeps_one_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    output = Folder(tmp_path / "output")
    output.write("x", b"")
    in_two_parts(tracked("wandb", name="mine"), output)
    records = list(wandb_records(tmp_path / "output"))
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {
        (json.loads(output.read(RECORD))["run"], "tests", "mine")
    }
    config = {update.key: update.value_json for update in runs[0].config.update}
    assert json.loads(config["optim"]) == SETTINGS["optim"]
    assert json.loads(config["store"]) == "https://***@host/store"
    rows = [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.HasField("history")
    ]
    assert [(row["_step"], row["train_pinball"]) for row in rows] == [
        (10, 0.5), (20, 0.25), (30, 0.5 / 3),
    ]  # fmt: skip
    for path in (tmp_path / "output").rglob("*"):
        if path.is_file():
            assert b"0123456789" * 4 not in path.read_bytes()
            assert b"hunter2" not in path.read_bytes()
