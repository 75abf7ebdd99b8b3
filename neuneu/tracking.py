"""Following trainings with TensorBoard, Weights & Biases or MLflow.

The tracker gets the resolved config and every epoch's metrics. Which of its runs a training is,
and how many epochs it has, lies in `tracking.json` of the output: a training that goes on goes on
in the same run, and no epoch comes twice. A tracker that does not answer holds nothing up: what it
missed comes with the next epoch.
"""

import importlib.util
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import pydantic

from neuneu.config import config_dataclass
from neuneu.errors import NeuneuError, UserError
from neuneu.storage import Folder

RECORD: Final = "tracking.json"
_log = logging.getLogger(__name__)

Kind = Literal["tensorboard", "wandb", "mlflow"]


@config_dataclass
class TrackingConfig:
    """Where to follow a training or a search; credentials come from the tracker's own variables.

    `project` is Weights & Biases' project or MLflow's experiment. `name` is that of the run (null:
    the last two parts of the output). `address` is MLflow's tracking URI (null:
    MLFLOW_TRACKING_URI, else a database in the output). Weights & Biases takes WANDB_BASE_URL and
    WANDB_MODE; TensorBoard's events lie in the output's folder `tensorboard`.
    """

    kind: Kind
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


class TrackerError(NeuneuError):
    """A tracker that does not take what it is told."""


class Tracker(Protocol):
    """One run of a tracker; `run` is its name there. All calls raise `TrackerError`."""

    run: str

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics after so many optimiser steps."""

    def close(self, *, finished: bool) -> None:
        """Ends the run, for now or for good."""


def check_tracking(config: TrackingConfig, output: Folder) -> None:
    """Says before anything runs that it cannot be tracked.

    Raises:
        UserError: the tracker's package is missing, or it has no place for its data.
    """
    require(config.kind, config.kind)
    if config.kind == "mlflow":
        mlflow_address(config, output)


def require(package: str, extra: str) -> None:
    """Sees to an optional package.

    Raises:
        UserError: it is not installed; the message names the extra.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:  # a folder of that name is no package
        raise UserError(
            f"tracking: expected the package {package}, found none: pip install 'neuneu[{extra}]'."
        )


def mlflow_address(config: TrackingConfig, output: Folder) -> str:
    """MLflow's tracking URI.

    Raises:
        UserError: there is none, and the output is no place for a database.
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


class FollowedTraining:
    """One training in its tracker, for the one process that tells it."""

    def __init__(
        self, config: TrackingConfig, output: Folder, settings: Mapping[str, Any], name: str
    ) -> None:
        """Opens the tracker's run, or goes on in it.

        Args:
            config: the tracker.
            output: the training's folder.
            settings: its resolved config.
            name: of the run, unless the config has one.

        Raises:
            TrackerError: a first run could not be opened.
        """
        self._config, self._output, self._settings = config, output, settings
        self._name = config.name or name
        self._run, self._epochs = self._recorded()
        self._tracker: Tracker | None = None
        try:
            self._opened()
        except TrackerError as error:
            if self._run is None:
                raise
            _log.warning("%s; tried again with the next epoch", error)

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Logs what the tracker does not have of a training's rows, one an epoch."""
        try:
            tracker = self._opened()
            for row in history[self._epochs :]:
                tracker.log(int(row["step"]), row)
                self._epochs += 1
                self._write()
        except TrackerError as error:
            _log.warning("%s; tried again with the next epoch", error)

    def close(self, *, finished: bool) -> None:
        """Ends the run; it can be gone on with later."""
        if self._tracker is None:
            return
        try:
            self._tracker.close(finished=finished)
        except TrackerError as error:
            _log.warning("%s; its run stays open there", error)

    def _opened(self) -> Tracker:
        if self._tracker is None:
            from neuneu.trackers import open_tracker

            self._tracker = open_tracker(
                self._config, self._output, self._settings, name=self._name, run=self._run
            )
            self._run = self._tracker.run
            self._write()
        return self._tracker

    def _key(self) -> dict[str, Any]:
        """What runs are looked up by: in another place there is no such run."""
        config = self._config
        return {"kind": config.kind, "project": config.project, "address": config.address}

    def _recorded(self) -> tuple[str | None, int]:
        try:
            record = json.loads(self._output.read(RECORD))
        except FileNotFoundError:
            return None, 0
        if {name: record.get(name) for name in self._key()} != self._key():
            return None, 0
        return str(record["run"]), int(record["epochs"])

    def _write(self) -> None:
        record = self._key() | {"run": self._run, "epochs": self._epochs}
        self._output.write(RECORD, (json.dumps(record, indent=1) + "\n").encode())
