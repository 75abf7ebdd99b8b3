"""Training a forecaster: TrainConfig in, a folder with weights, config and model card out."""

import csv
import io
import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from neuneu.core import logs
from neuneu.core.config import config_hash, config_text, config_to_dict
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.storage import Folder, written_to
from neuneu.forecasters.window.export import CONFIG, WEIGHTS, read_record
from neuneu.training.config import TrainConfig
from neuneu.training.data import Source
from neuneu.training.observer import PROGRESS
from neuneu.training.subjects import Subject, load_subject
from neuneu.training.tracker import check_tracking

HISTORY: Final = "history.csv"
SETTINGS: Final = "train.yaml"
IDENTITY: Final = "identity.txt"
STATES: Final = "ray"
RUN: Final = "state"
"""What Ray Train calls a training, and its folder in `STATES`."""
_log = logging.getLogger(__name__)


_NOT_IDENTITY: Final = frozenset(
    {"output", "store", "accuracies", "losses", "tasks", "workers", "cpus_per_worker", "use_gpu"}
    | {"gpus_per_worker", "max_failures", "checkpoint_steps", "tracking"}
)
"""Where and on what it runs; the data counts by its contents."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left in `folder`; `finished_before` is true when nothing was done."""

    folder: Folder
    metrics: dict[str, float]
    history: list[dict[str, float]]
    finished_before: bool


def train(
    config: TrainConfig,
    *,
    address: str | None = None,
    callbacks: Sequence[Any] = (),
    source: Source | None = None,
    start: Any = None,
) -> TrainResult:
    """Trains a forecaster on Ray, or returns the finished one; resumes an interrupted one.

    Args:
        config: what to train.
        address: a Ray cluster; None: the one there is, else a small one on this machine.
        callbacks: `ray.train.UserCallback`s, such as Ray Tune's report callback.
        source: what the config's source holds, where it was read before.
        start: a `ray.train.Checkpoint` of another training of the same network, to go on from.

    Raises:
        UserError: nothing to train on, unknown runs, or an output folder of another training.
        NeuneuError: training diverged, or workers failed more often than `max_failures`.
    """
    if config.tracking is not None:
        check_tracking(config.tracking, Folder(config.output).absolute())
    subject = load_subject(config, source)
    identity = training_identity(config, subject.digest)
    output = Folder(config.output).absolute()
    finished = _finished(output, identity)
    if finished is not None:
        _log.info("finished before", extra={"output": str(output), "identity": identity})
        return finished
    _log.info("training", extra={"output": str(output), "identity": identity})
    _claim(output, config, identity)
    from neuneu.core.ray_session import ray_session

    with ray_session(address), _progress(output):
        payload = _run_on_ray(config, subject, output, callbacks, start)
    return _export(output, config, subject, identity, payload)


def training_identity(config: TrainConfig, digest: str) -> str:
    """Sixteen hex digits that change with anything the weights depend on, data included."""
    settings = {k: v for k, v in config_to_dict(config).items() if k not in _NOT_IDENTITY}
    return config_hash({"settings": settings, "data": digest})


def _finished(output: Folder, identity: str) -> TrainResult | None:
    if not output.exists(CONFIG) or not output.exists(WEIGHTS):
        return None
    found = read_record(output)["provenance"]
    if found["identity"] != identity:
        _refuse(output, str(found["identity"]), identity)
    return TrainResult(
        folder=output,
        metrics=dict(found["evaluation"]),
        history=_read_history(output),
        finished_before=True,
    )


def _claim(output: Folder, config: TrainConfig, identity: str) -> None:
    """Marks the folder as this training's, so that no other resumes from its state."""
    if output.create(IDENTITY, f"{identity}\n".encode()):
        output.write(SETTINGS, config_text(config).encode())
        return
    found = output.read(IDENTITY).decode().strip()
    if found != identity:
        _refuse(output, found, identity)


def _refuse(output: Folder, found: str, identity: str) -> None:
    raise UserError(
        f"{output}: holds another training (identity {found}, this one {identity}: the config "
        f"or the data differ; see {SETTINGS} there). Choose another output or delete it."
    )


def _run_on_ray(
    config: TrainConfig, subject: Subject, output: Folder, callbacks: Sequence[Any], start: Any
) -> dict[str, Any]:
    """The final state of the worker loop."""
    import ray
    import ray.train
    import ray.train.torch

    from neuneu.training.states import unlisted_state
    from neuneu.training.worker import load_state, worker

    states = output / STATES
    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config={
            "config": config,
            "learner": ray.put(subject.learner),
            "output": output,
            "start": unlisted_state(states / RUN) or start,
            "logs": logs.environment(),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker}
            | ({"GPU": config.gpus_per_worker} if config.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=RUN,
            storage_path=str(states),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    try:
        with _interruptible():
            result = trainer.fit()
    except ray.exceptions.RayActorError as error:
        raise NeuneuError(
            f"training was interrupted ({error}). Run it again to resume from the state in "
            f"{states}."
        ) from error
    except ray.train.TrainingFailedError as error:
        raise NeuneuError(
            f"training failed after {config.max_failures} retries: {error}. "
            f"Run it again to resume from the state in {states}."
        ) from error
    if result.return_value:
        raise NeuneuError(str(result.return_value))
    if result.checkpoint is None:
        raise NeuneuError(f"training was stopped before its first state; see {states}.")
    return load_state(result.checkpoint)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Takes Ctrl-C back afterwards: Ray Train's handler ends the run, and then leaves Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        raise KeyboardInterrupt from left
    finally:
        signal.signal(signal.SIGINT, before)


def _export(
    output: Folder, config: TrainConfig, subject: Subject, identity: str, payload: dict[str, Any]
) -> TrainResult:
    history: list[dict[str, float]] = payload["history"]
    best = payload["best"]
    if payload["step"] < payload["total"] and not payload["stopped"]:
        raise NeuneuError(
            f"training was stopped at step {payload['step']} of {payload['total']}; "
            "run it again to resume."
        )
    row = history[-1]
    if best is not None:
        weights = best["weights"]
        row = next(row for row in history if row["step"] == best["step"])
        selection = (
            f"those of epoch {row['epoch']:g} of {len(history)}, which has the best pinball loss "
            "on the validation runs"
        )
    elif payload["average"] is not None:
        weights, selection = payload["average"], f"the mean of the last {payload['averaged']} steps"
    else:
        weights, selection = payload["model"], "those of the last epoch"
    prefix = "validation_"
    metrics = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    with written_to(output, last=CONFIG) as folder:
        write_text_atomic(folder / HISTORY, _history_csv(history))
        subject.save(
            folder, weights,
            {"identity": identity, "selection": selection, "evaluation": metrics,
             "validation_runs": list(config.validation_runs),
             "held_out_runs": list(config.held_out_runs), "training": config_to_dict(config)},
        )  # fmt: skip
    output.delete(PROGRESS)
    return TrainResult(folder=output, metrics=metrics, history=history, finished_before=False)


def _history_csv(history: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _read_history(folder: Folder) -> list[dict[str, float]]:
    try:
        text = folder.read(HISTORY).decode()
    except FileNotFoundError:
        return []
    rows = csv.DictReader(io.StringIO(text))
    return [{key: float(value) for key, value in row.items()} for row in rows]


@contextmanager
def _progress(output: Folder) -> Iterator[None]:
    """Shows what the first worker writes to `progress.json` while the block runs."""
    stop = threading.Event()
    seconds = 0.5 if output.is_local else 10.0  # each look at S3 is a request
    with stage("Training the forecaster") as bar:

        def poll() -> None:
            while not stop.wait(seconds):
                try:
                    now = json.loads(output.read(PROGRESS))
                except (OSError, json.JSONDecodeError):
                    continue
                bar.set(now["step"], now["total"], f"pinball loss {now['loss']:.4f}")

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
