"""Experiment trackers, each through its own library: optional extras, imported on use.

Ray's `setup_mlflow` cannot resume a run, and its `setup_wandb` adds nothing to `wandb.init`.
"""

import os
import re
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import pydantic
import yaml

from neuneu.core.config import config_dataclass
from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.redaction import cleaned
from neuneu.core.storage import Folder


@config_dataclass
class TrackingConfig:
    """Where to track a training or a search; credentials come from the tracker's own variables.

    `project`: project of Weights & Biases, or experiment of MLflow. `name`: name of the run (null:
    the last two parts of the output). `address`: MLflow's tracking URI (null:
    MLFLOW_TRACKING_URI, else a database in the output). Weights & Biases reads WANDB_BASE_URL and
    WANDB_MODE; TensorBoard's events are in the output's folder `tensorboard`.
    """

    kind: Literal["tensorboard", "wandb", "mlflow"]
    project: str = "neuneu"
    name: str | None = None
    address: str | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrackingConfig":
        if self.address is None:
            return self
        if self.kind != "mlflow":
            raise ValueError(f"address is MLflow's; leave it out for {self.kind}")
        if "@" in urlsplit(self.address).netloc:
            raise ValueError(
                "credentials do not belong in an address: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        if re.match("sqlite:///[^/]", self.address):
            raise ValueError(
                "address: expected sqlite:////absolute/path, since workers run in other folders"
            )
        return self


class Tracker(Protocol):
    """One run of a tracker; `run` is its id there. Methods raise whatever the library raises."""

    run: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics after this number of optimiser steps."""

    def close(self, *, finished: bool) -> None:
        """End the run, for now or for good."""


def check_tracking(config: TrackingConfig, output: Folder) -> None:
    """Check before anything runs that a training can be tracked.

    Raises:
        UserError: the tracker's package is missing, or it has no place for its data.
    """
    require("tracking", config.kind, extra=config.kind)
    if config.kind == "mlflow":
        mlflow_address(config, output)


def mlflow_address(config: TrackingConfig, output: Folder) -> str:
    """Return MLflow's tracking URI.

    Raises:
        UserError: there is none, and the output cannot hold a database.
    """
    named = config.address or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    if not output.is_local:
        raise UserError(
            f"tracking: MLflow cannot keep its database at {output}; set tracking.address or "
            "MLFLOW_TRACKING_URI to a server."
        )
    return f"sqlite:///{output}/mlflow.db"


def open_tracker(
    config: TrackingConfig,
    output: Folder,
    settings: Mapping[str, Any],
    *,
    name: str,
    run: str | None,
) -> Tracker:
    """Start a run of the tracker and log the settings, or resume a run.

    Args:
        config: the tracker.
        output: the training's folder.
        settings: the resolved config; secrets are removed.
        name: display name of a new run.
        run: id of the run to resume (`Tracker.run`); None starts one.
    """
    kinds: dict[str, type[_Run]] = {
        "tensorboard": _TensorBoard, "wandb": _WeightsAndBiases, "mlflow": _MLflow,
    }  # fmt: skip
    return kinds[config.kind](
        config=config, output=output, settings=cleaned(dict(settings)), name=name, run=run or ""
    )


@dataclass(kw_only=True)
class _Run(Tracker):
    """Arguments of `open_tracker`; the id `run` of a new run is empty until it is opened."""

    config: TrackingConfig
    output: Folder
    settings: dict[str, Any]
    name: str
    run: str

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Start or resume the run."""
        raise NotImplementedError


class _TensorBoard(_Run):
    """Event files in a folder; on S3 they are uploaded again after each epoch."""

    def open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        new, self._folder = not self.run, self.output / "tensorboard"
        self.run = str(self._folder)
        local = self._folder.is_local
        self._upload = None if local else tempfile.TemporaryDirectory(prefix="neuneu-")
        self._writer = SummaryWriter(self._upload.name if self._upload else self.run)
        if new:
            self._writer.add_text("config", f"```\n{yaml.safe_dump(self.settings)}```")
        self._flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._flush()

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - events have no end
        self._writer.close()
        if self._upload is not None:
            self._upload.cleanup()

    def _flush(self) -> None:
        self._writer.flush()
        if self._upload is not None:
            for path in Path(self._upload.name).iterdir():
                self._folder.write(path.name, path.read_bytes())


class _WeightsAndBiases(_Run):
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the output."""

    def open(self) -> None:
        import wandb

        self.run = self.run or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=self.config.project, name=self.name, id=self.run, resume="allow",
            config=self.settings, dir=str(self.output) if self.output.is_local else None,
            # Nothing about the machine: command lines and git addresses can hold secrets.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_meta=True
            ),
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _MLflow(_Run):
    """A run on an MLflow server or in a database."""

    def open(self) -> None:
        # By default MLflow would wait for a missing server for minutes, every epoch.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(mlflow_address(self.config, self.output))
        if self.run:
            client.update_run(self.run, status="RUNNING")
            return
        project = self.config.project
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project)
        self.run = str(client.create_run(experiment, run_name=self.name).info.run_id)
        params = [Param(key, str(value)) for key, value in _flat(self.settings).items()]
        client.log_batch(self.run, params=params)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self.run, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
        )

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self.run, "FINISHED" if finished else "FAILED")


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return `{"optim": {"epochs": 2}}` as `{"optim.epochs": 2}`."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {
        flat: leaf
        for name, part in value.items()
        for flat, leaf in _flat(part, f"{key}.{name}" if key else name).items()
    }
