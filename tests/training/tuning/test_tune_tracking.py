"""Searches that are followed by Ray's own integrations with wandb and mlflow.

Tests skip where these packages are missing: they are no part of the locked environment.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from curves import ladder, write_table
from tracked import tracked, wandb_records

from neuneu.core.config import build_config
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder


class Trial:
    """What Ray's integration asks of a trial of Ray Tune."""

    config: Mapping[str, Any] = {"width": 96}

    def __str__(self) -> str:
        return "_trial_1"


def test_a_restored_search_goes_on_in_the_runs_of_mlflow(tmp_path: Path) -> None:
    """Ray restores callbacks by unpickling; a trial that was interrupted is started again."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("ray")
    import cloudpickle

    from neuneu.training.tuning.tracking import callbacks

    config = tracked("mlflow", address=f"sqlite:///{tmp_path}/mlflow.db")
    for name, times in (("one", 2), ("other", 1)):
        (made,) = callbacks(config, Folder(tmp_path / name), changing=False)
        pickled = cloudpickle.dumps(made)
        for time in range(times):
            callback, trial = cloudpickle.loads(pickled), Trial()
            callback.setup()
            callback.log_trial_start(trial)
            callback.log_trial_result(1, trial, {"training_iteration": time + 1, "epoch": time})
            if time == 1:
                callback.log_trial_end(trial)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.data.tags["search"]: run.info.status for run in runs} == {
        "one": "FINISHED", "other": "RUNNING",
    }  # fmt: skip
    (one,) = (run for run in runs if run.data.tags["search"] == "one")
    history = mlflow.tracking.MlflowClient().get_metric_history(one.info.run_id, "epoch")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.0), (2, 1.0)]


def test_search_with_wandb_needs_a_key_or_offline_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("ray")
    from neuneu.training.tuning.tracking import callbacks

    monkeypatch.setattr(wandb, "api", SimpleNamespace(api_key=None))  # nobody logged in
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="expects WANDB_API_KEY, a login, or WANDB_MODE=offline"):
        callbacks(tracked("wandb"), Folder(tmp_path), changing=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (made,) = callbacks(tracked("wandb"), Folder(tmp_path / "search"), changing=True)
    assert (made.project, made.group, made.log_config) == ("tests", "search", True)
    assert callbacks(tracked("tensorboard"), Folder(tmp_path), changing=False) == []


SPACE = """
from neuneu.training.tuning.space import real
SPACE = (
    real("cross_run.optim.learning_rate", 1e-4, 1e-2, log=True, default=2e-3, reason="a test"),
)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_searches_are_followed_by_rays_own_integrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    import mlflow

    from neuneu.core.ray_session import ray_session
    from neuneu.training.tuning.run import TuneConfig, tune

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "space.py").write_text(SPACE)
    table = write_table(tmp_path / "table.parquet", ladder(5, n=12))

    def search(output: str, kind: str, trials: int) -> TuneConfig:
        settings = {
            "output": str(tmp_path / output), "space": str(tmp_path / "space.py"),
            "trials": trials, "concurrent": 1, "scheduler": "none", "tracking": {"kind": kind},
            "train": {
                "accuracies": str(table), "validation_runs": ["r4"],
                "cross_run": {"optim": {"max_steps": 10, "batch_size": 8}, "report_steps": 5},
            },
        }  # fmt: skip
        return build_config(TuneConfig, settings)

    with ray_session(num_cpus=2, dashboard=True):
        for kind, trials in (("mlflow", 2), ("wandb", 1)):
            assert tune(search(kind, kind, trials)).finished == trials

    trials = {p.parent.name for p in (tmp_path / "mlflow" / "experiment").glob("*/result.json")}
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(runs) == len(trials) == 2
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params.keys() == {"cross_run.optim.learning_rate"}
        assert run.data.metrics["epoch"] == 2.0
        assert run.data.metrics["validation_pinball"] > 0
        # TensorBoard's events are Tune's default.
    assert len(list((tmp_path / "mlflow" / "experiment").glob("*/events.out.tfevents.*"))) == 2
    (folder,) = (tmp_path / "wandb" / "experiment").glob("*/wandb")
    records = list(wandb_records(folder.parent))
    (run,) = (record.run for record in records if record.HasField("run"))
    assert (run.project, run.run_group) == ("neuneu", "wandb")
    assert sum(record.HasField("history") for record in records) == 2
