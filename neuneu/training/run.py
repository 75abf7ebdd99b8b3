"""Train a forecaster: TrainConfig in, a folder with weights, config and model card out."""

import csv
import io
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from neuneu.core import logs
from neuneu.core.config import config_hash, config_text, config_to_dict
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.storage import Folder, written_to
from neuneu.forecasters.window.export import CONFIG, WEIGHTS, read_record
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.fitting import CrossRunLearner
from neuneu.training.data import Source, prepare, read_source, split_by_run
from neuneu.training.learner import Learner
from neuneu.training.trackers import check_tracking
from neuneu.training.window_learner import WindowLearner
from neuneu.training.worker import PROGRESS, load_state, unlisted_state, worker

HISTORY: Final = "history.csv"
SETTINGS: Final = "train.yaml"
IDENTITY: Final = "identity.txt"
STATES: Final = "ray"
RUN: Final = "state"
"""Name of a training in Ray Train, and its folder in `STATES`."""
_log = logging.getLogger(__name__)

_NOT_IDENTITY: Final = frozenset(
    {"output", "store", "corpus", "accuracies", "losses", "tasks", "workers", "cpus_per_worker"}
    | {"use_gpu", "gpus_per_worker", "max_failures", "checkpoint_steps", "tracking"}
)
"""Where and on what hardware it runs; the data count by their contents."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a training in `folder`; `finished_before`: it had finished and nothing was done."""

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
    """Train a forecaster on Ray; resume an interrupted training, return a finished one.

    Args:
        config: settings.
        address: a Ray cluster; None: the current one, else a small one on this machine.
        callbacks: `ray.train.UserCallback`s, such as Ray Tune's report callback.
        source: the training data, if already read.
        start: a `ray.train.Checkpoint` of another training of the same network to start from.

    Raises:
        UserError: nothing to train on, unknown runs, or an output folder of another training.
        NeuneuError: training diverged, or workers failed more often than `max_failures`.
    """
    if config.tracking is not None:
        check_tracking(config.tracking, Folder(config.output).absolute())
    learner = load_learner(config, source)
    identity = training_identity(config, learner.digest)
    output = Folder(config.output).absolute()
    finished = _finished(output, identity)
    if finished is not None:
        _log.info("finished before", extra={"output": str(output), "identity": identity})
        return finished
    _log.info("training", extra={"output": str(output), "identity": identity})
    _claim(output, config, identity)
    from neuneu.core.ray_session import ray_session

    with ray_session(address), progress("Training the forecaster", [output]):
        payload = _run_on_ray(config, learner, output, callbacks, start)
    return _export(output, config, learner, identity, payload)


def load_learner(config: TrainConfig, source: Source | None = None) -> Learner:
    """Return the learner that a config describes, with its data.

    Args:
        config: settings.
        source: the training data; None reads them.

    Raises:
        UserError: no source or two of them, unknown runs, or nothing left to train on.
    """
    trajectories, words = source or read_source(config)
    if config.cross_run is None:
        return WindowLearner(data=prepare(config, trajectories, words), config=config)
    train_on, validation = split_by_run(config, trajectories)
    cross_run = replace(config.cross_run, seed=config.seed)
    return CrossRunLearner(learn=train_on, config=cross_run, validation=validation)


def training_identity(config: TrainConfig, digest: str) -> str:
    """Return sixteen hex digits that change with anything the weights depend on, data included."""
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
    """Mark the folder as this training's, so that no other resumes from its state."""
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


def fit_on_ray(
    loop: Callable[[dict[str, Any]], Any],
    arguments: dict[str, Any],
    config: TrainConfig,
    states: Folder,
    *,
    name: str = RUN,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Run a function in Ray Train workers.

    Args:
        loop: the function.
        arguments: its argument.
        config: number of workers, their resources, and `max_failures`.
        states: Ray Train's folder, with all runs by name.
        name: name of the run; one of an earlier run resumes it.
        callbacks: see `train`.

    Returns:
        A `ray.train.Result`.

    Raises:
        NeuneuError: it was interrupted or failed too often.
    """
    import ray
    import ray.train
    import ray.train.torch

    trainer = ray.train.torch.TorchTrainer(
        loop,
        train_loop_config=arguments,
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker}
            | ({"GPU": config.gpus_per_worker} if config.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(states),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )
    try:
        with _interruptible():
            return trainer.fit()
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


def _run_on_ray(
    config: TrainConfig, learner: Learner, output: Folder, callbacks: Sequence[Any], start: Any
) -> dict[str, Any]:
    """Run the training loop on Ray Train; return its final state."""
    import ray

    states = output / STATES
    arguments = {
        "config": config,
        "learner": ray.put(learner),
        "output": output,
        "start": unlisted_state(states / RUN) or start,
        "logs": logs.environment(),
    }
    result = fit_on_ray(worker, arguments, config, states, callbacks=callbacks)
    if result.return_value:
        raise NeuneuError(str(result.return_value))
    if result.checkpoint is None:
        raise NeuneuError(f"training was stopped before its first state; see {states}.")
    return load_state(result.checkpoint)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Restore Ctrl-C afterwards: Ray Train's own handler ends the run and then exits Python."""
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
    output: Folder, config: TrainConfig, learner: Learner, identity: str, payload: dict[str, Any]
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
        learner.save(
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
def progress(title: str, outputs: Sequence[Folder]) -> Iterator[None]:
    """Show the `progress.json` of trainings while the block runs."""
    stop = threading.Event()
    seconds = 0.5 if outputs[0].is_local else 10.0  # each poll of S3 is a request
    seen: dict[Folder, dict[str, Any]] = {}
    with stage(title) as bar:

        def poll() -> None:
            while not stop.wait(seconds):
                for output in outputs:
                    with suppress(OSError, json.JSONDecodeError):
                        seen[output] = json.loads(output.read(PROGRESS))
                if seen:
                    now = seen.values()
                    done, total = (sum(each[key] for each in now) for key in ("step", "total"))
                    loss = sum(each["loss"] for each in now) / len(now)
                    bar.set(done, total * len(outputs) / len(now), f"pinball loss {loss:.4f}")

        watcher = threading.Thread(target=poll, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
