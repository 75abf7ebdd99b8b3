"""What a tracker is, and where one is found: settings and checks of them."""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Literal, Protocol
from urllib.parse import urlsplit

import pydantic

from neuneu.core.config import config_dataclass
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.storage import Folder

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
