"""The trackers, each through its own library: an optional extra, imported when it is asked for."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from neuneu.core.redaction import cleaned, without_secrets
from neuneu.core.storage import Folder
from neuneu.training.tracker import Tracker, TrackerError, TrackingConfig, mlflow_address

_MLFLOW_PARAMS_AT_ONCE: Final = 100
_MLFLOW_LONGEST_PARAM: Final = 500


def open_tracker(
    config: TrackingConfig,
    output: Folder,
    settings: Mapping[str, Any],
    *,
    name: str,
    run: str | None,
) -> Tracker:
    """A run of the tracker, told the settings if it is new.

    Args:
        config: which tracker.
        output: the training's folder.
        settings: the resolved config, of which secrets are left out.
        name: of a new run, for people.
        run: what an earlier `Tracker.run` was, to go on with it.

    Raises:
        TrackerError: it cannot be opened.
    """
    kinds: dict[str, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    return kinds[config.kind](config, output, cleaned(dict(settings)), name, run)


class _TensorBoard:
    """Event files in a folder; on S3 they are put there again after each epoch."""

    def __init__(
        self,
        config: TrackingConfig,  # noqa: ARG002 - the folder is project and name
        output: Folder,
        settings: dict[str, Any],
        name: str,  # noqa: ARG002
        run: str | None,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = output / "tensorboard"
        self.run = str(self._folder)
        self._local = Path(self.run)
        with _answered("TensorBoard's folder", OSError):
            if not self._folder.is_local:
                self._local = Path(tempfile.mkdtemp(prefix="neuneu-tensorboard-"))
            self._writer = SummaryWriter(str(self._local))
            if run is None:
                self._writer.add_text("config", f"```\n{yaml.safe_dump(settings)}```")
            self._flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with _answered("TensorBoard's folder", OSError):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._flush()

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - events have no end
        with _answered("TensorBoard's folder", OSError):
            self._writer.close()
            if not self._folder.is_local:
                shutil.rmtree(self._local)

    def _flush(self) -> None:
        self._writer.flush()
        if not self._folder.is_local:
            for path in self._local.iterdir():
                self._folder.write(path.name, path.read_bytes())


class _WeightsAndBiases:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the output."""

    def __init__(
        self,
        config: TrackingConfig,
        output: Folder,
        settings: dict[str, Any],
        name: str,
        run: str | None,
    ) -> None:
        import wandb

        self._failures = (wandb.Error, OSError)
        self.run = run or uuid.uuid4().hex[:12]
        with _answered("Weights & Biases", *self._failures):
            self._run = wandb.init(
                project=config.project, name=name, id=self.run, resume="allow", config=settings,
                dir=str(output) if output.is_local else None,
                # Nothing of the machine: its command lines and git addresses can hold secrets.
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, x_disable_meta=True
                ),
            )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with _answered("Weights & Biases", *self._failures):
            self._run.log(dict(metrics), step=step)

    def close(self, *, finished: bool) -> None:
        with _answered("Weights & Biases", *self._failures):
            self._run.finish(exit_code=0 if finished else 1)


class _MLflow:
    """A run of an MLflow server or database."""

    def __init__(
        self,
        config: TrackingConfig,
        output: Folder,
        settings: dict[str, Any],
        name: str,
        run: str | None,
    ) -> None:
        # Else a server that is away is waited for several minutes, every epoch.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._failures = (MlflowException, OSError)
        with _answered("MLflow", *self._failures):
            self._client = MlflowClient(mlflow_address(config, output))
            if run is None:
                self.run = self._new_run(config.project, name, settings)
            else:
                self.run = run
                self._client.update_run(run, status="RUNNING")

    def _new_run(self, experiment: str, name: str, settings: dict[str, Any]) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        run = str(self._client.create_run(number, run_name=name).info.run_id)
        params = [
            Param(key, str(value)[:_MLFLOW_LONGEST_PARAM]) for key, value in _flat(settings).items()
        ]
        for start in range(0, len(params), _MLFLOW_PARAMS_AT_ONCE):
            some = params[start : start + _MLFLOW_PARAMS_AT_ONCE]
            self._client.log_batch(run, params=some)
        return run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with _answered("MLflow", *self._failures):
            self._client.log_batch(
                self.run, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
            )

    def close(self, *, finished: bool) -> None:
        with _answered("MLflow", *self._failures):
            self._client.set_terminated(self.run, "FINISHED" if finished else "FAILED")


@contextmanager
def _answered(who: str, *failures: type[Exception]) -> Iterator[None]:
    try:
        yield
    except failures as error:
        text = without_secrets(f"{type(error).__name__}: {error}")
        raise TrackerError(f"tracking: {who} did not take it ({text})") from None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"epochs": 2}}` as `{"optim.epochs": 2}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
