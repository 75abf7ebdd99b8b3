"""Training a forecaster: TrainConfig in, a folder with weights, config and model card out."""

import csv
import io
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from neuneu.config import config_dataclass, config_hash, config_to_dict, save_config
from neuneu.errors import NeuneuError, UserError
from neuneu.files import write_text_atomic
from neuneu.model.config import ModelConfig, resolve_preset
from neuneu.model.export import CONFIG, WEIGHTS, Provenance, read_record, save_model
from neuneu.progress import stage
from neuneu.training_data import TrainingData, load_training_data

HISTORY: Final = "history.csv"
PROGRESS: Final = "progress.json"
SETTINGS: Final = "train.yaml"
IDENTITY: Final = "identity.txt"


@config_dataclass
class OptimConfig:
    """AdamW with warm-up and cosine decay; the defaults are the published ones."""

    learning_rate: pydantic.PositiveFloat = 6e-4
    weight_decay: pydantic.NonNegativeFloat = 0.033
    batch_size: pydantic.PositiveInt = 256
    epochs: pydantic.PositiveInt = 3
    max_steps: pydantic.PositiveInt | None = None
    warmup_fraction: float = pydantic.Field(default=0.1, ge=0.0, le=1.0)
    clip_norm: pydantic.PositiveFloat = 1.0


@config_dataclass
class TrainConfig:
    """One training of a forecaster.

    `output` is the folder of the result, shared by all machines of a cluster. The source is a
    `store`, or tables: `accuracies` and optionally `losses` (parquet or CSV). `loss_names` are
    the validation sets that the encoder `mean` reads, in order of preference; `metrics` the
    accuracy metrics to learn (empty: all). Runs and tasks are named as in the table;
    `held_out_tasks` are base tasks. `model` is a `ModelConfig`, a preset's name, or a mapping
    with the key `preset` and changes to it. `max_ahead`: how many checkpoints a target may lie
    after the context (null: any). `drop`: chance that an inner context point is left out.
    `keep`: the weights of the last epoch, or of the epoch with the best validation pinball
    loss. State is saved after every epoch and every `checkpoint_steps` steps.
    """

    output: Path
    store: Path | None = None
    accuracies: Path | None = None
    losses: Path | None = None
    loss_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    validation_runs: tuple[str, ...] = ()
    held_out_runs: tuple[str, ...] = ()
    held_out_tasks: tuple[str, ...] = ()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    max_ahead: pydantic.PositiveInt | None = 10
    drop: float = pydantic.Field(default=0.4, ge=0.0, lt=1.0)
    max_validation_samples: pydantic.PositiveInt = 20_000
    keep: Literal["last", "best"] = "last"
    checkpoint_steps: pydantic.PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: pydantic.NonNegativeInt = 0
    workers: pydantic.PositiveInt = 1
    cpus_per_worker: pydantic.PositiveInt = 1
    use_gpu: bool = False
    max_failures: pydantic.NonNegativeInt = 2

    @pydantic.field_validator("model", mode="before")
    @classmethod
    def _resolve_preset(cls, value: Any) -> Any:
        return resolve_preset(value)

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.keep == "best" and not self.validation_runs:
            raise ValueError("keep=best chooses by validation loss: name validation_runs")
        return self


_NOT_IDENTITY: Final = frozenset(
    {"output", "store", "accuracies", "losses", "workers", "cpus_per_worker", "use_gpu"}
    | {"max_failures", "checkpoint_steps"}
)
"""Where and on what it runs; the data counts by its contents."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left in `folder`; `finished_before` is true when nothing was done."""

    folder: Path
    metrics: dict[str, float]
    history: list[dict[str, float]]
    finished_before: bool


def train(
    config: TrainConfig, *, address: str | None = None, callbacks: Sequence[Any] = ()
) -> TrainResult:
    """Trains a forecaster on Ray, or returns the finished one; resumes an interrupted one.

    Args:
        config: what to train.
        address: a Ray cluster; None: the one there is, else a small one on this machine.
        callbacks: `ray.train.UserCallback`s, such as Ray Tune's report callback.

    Raises:
        UserError: nothing to train on, unknown runs, or an output folder of another training.
        NeuneuError: training diverged, or workers failed more often than `max_failures`.
    """
    data = load_training_data(config)
    identity = training_identity(config, data)
    output = config.output.resolve()
    finished = _finished(output, identity)
    if finished is not None:
        return finished
    _claim(output, config, identity)
    from neuneu.ray_session import ray_session

    with ray_session(address), _progress(output):
        payload = _run_on_ray(config, data, output, callbacks)
    return _export(output, config, data, identity, payload)


def training_identity(config: TrainConfig, data: TrainingData) -> str:
    """Sixteen hex digits that change with anything the weights depend on, data included."""
    settings = {k: v for k, v in config_to_dict(config).items() if k not in _NOT_IDENTITY}
    return config_hash({"settings": settings, "data": data.digest})


def _finished(output: Path, identity: str) -> TrainResult | None:
    if not (output / CONFIG).exists() or not (output / WEIGHTS).exists():
        return None
    found = read_record(output)["provenance"]
    if found["identity"] != identity:
        _refuse(output, str(found["identity"]), identity)
    return TrainResult(
        folder=output,
        metrics=dict(found["evaluation"]),
        history=_read_history(output / HISTORY),
        finished_before=True,
    )


def _claim(output: Path, config: TrainConfig, identity: str) -> None:
    """Marks the folder as this training's, so that no other resumes from its state."""
    path = output / IDENTITY
    if path.exists():
        found = path.read_text(encoding="utf-8").strip()
        if found != identity:
            _refuse(output, found, identity)
        return
    save_config(config, output / SETTINGS)
    write_text_atomic(path, identity + "\n")


def _refuse(output: Path, found: str, identity: str) -> None:
    raise UserError(
        f"{output}: holds another training (identity {found}, this one {identity}: the config "
        f"or the data differ; see {SETTINGS} there). Choose another output or delete it."
    )


def _run_on_ray(
    config: TrainConfig, data: TrainingData, output: Path, callbacks: Sequence[Any]
) -> dict[str, Any]:
    """The final state of the worker loop."""
    import ray
    import ray.train
    import ray.train.torch

    from neuneu.training_worker import load_state, worker

    trainer = ray.train.torch.TorchTrainer(
        worker,
        train_loop_config={"config": config, "data": ray.put(data), "output": str(output)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker}
            | ({"GPU": 1} if config.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name="state",
            storage_path=str(output / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=list(callbacks),
        ),
    )
    try:
        with _own_interrupt_handler():
            result = trainer.fit()
    except ray.exceptions.RayActorError as error:
        raise NeuneuError(
            f"training was interrupted ({error}). Run it again to resume from the state in "
            f"{output / 'ray'}."
        ) from error
    except ray.train.TrainingFailedError as error:
        raise NeuneuError(
            f"training failed after {config.max_failures} retries: {error}. "
            f"Run it again to resume from the state in {output / 'ray'}."
        ) from error
    if result.return_value:
        raise NeuneuError(str(result.return_value))
    if result.checkpoint is None:
        raise NeuneuError(f"training was stopped before its first state; see {output / 'ray'}.")
    return load_state(result.checkpoint)


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Takes Ctrl-C back afterwards: Ray Train leaves a handler that exits with code 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _export(
    output: Path, config: TrainConfig, data: TrainingData, identity: str, payload: dict[str, Any]
) -> TrainResult:
    history: list[dict[str, float]] = payload["history"]
    best = payload["best"]
    if payload["step"] < payload["total"]:
        raise NeuneuError(
            f"training was stopped at step {payload['step']} of {payload['total']}; "
            "run it again to resume."
        )
    if best is None:
        weights, row, selection = payload["model"], history[-1], "those of the last epoch"
    else:
        weights = best["weights"]
        row = next(row for row in history if row["step"] == best["step"])
        selection = (
            f"those of epoch {row['epoch']:g} of {len(history)}, which has the best pinball loss "
            "on the validation runs"
        )
    prefix = "validation_"
    metrics = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    write_text_atomic(output / HISTORY, _history_csv(history))
    provenance = Provenance(
        identity=identity,
        training_runs=data.runs,
        validation_runs=list(config.validation_runs),
        held_out_runs=list(config.held_out_runs),
        metrics=data.metrics,
        corpus_hash=data.corpus_hash,
        loss_names=list(config.loss_names),
        selection=selection,
        evaluation=metrics,
        training=config_to_dict(config),
    )
    save_model(output, data.model, weights, provenance)
    (output / PROGRESS).unlink(missing_ok=True)
    return TrainResult(folder=output, metrics=metrics, history=history, finished_before=False)


def _history_csv(history: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _read_history(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]


@contextmanager
def _progress(output: Path) -> Iterator[None]:
    """Shows what the first worker writes to `progress.json` while the block runs."""
    stop = threading.Event()
    with stage("Training the forecaster") as bar:

        def poll() -> None:
            while not stop.wait(0.5):
                try:
                    now = json.loads((output / PROGRESS).read_text(encoding="utf-8"))
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
