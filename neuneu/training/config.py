"""Settings of a training."""

from typing import Annotated, Any, Literal

import pydantic

from neuneu.core.config import Address, config_dataclass
from neuneu.forecasters.window.config import ModelConfig, resolve_preset
from neuneu.training.cross_run.fitting import FitConfig
from neuneu.training.loop import Loop
from neuneu.training.objective import ObjectiveConfig
from neuneu.training.optimisation import OptimConfig
from neuneu.training.trackers import TrackingConfig


@config_dataclass
class TrainConfig:
    """Settings of a training.

    `output`: folder of the result, on s3://, or local and shared by all machines of a cluster. The
    data are a `store`, or tables: `accuracies` and optionally `losses`, `tasks` and `run_table`
    (parquet or CSV). `corpus`: which validation text of the store an encoder reads word losses of
    (null: the store's first). `loss_names`: validation sets that the encoder `mean` reads, in order
    of preference. `metrics`: accuracy metrics to train on (empty: all). Runs and tasks are named as
    in the table; `held_out_tasks` are base tasks. `model`: a `ModelConfig`, a preset's name, or a
    mapping with the key `preset` and changes to it. `max_ahead`: maximum distance of a target from
    its context, in checkpoints (null: any). `drop`: probability of dropping an inner context point.
    `keep`: the weights of the last epoch, or of the epoch with the best validation pinball loss;
    `patience` stops after this many epochs without a better one, and always keeps the best. State
    is saved after every epoch and every `checkpoint_steps` steps. `checkpoint_group`: number of
    samples of one checkpoint drawn together, which share its word losses in a batch. `cross_run`
    trains the cross-run network, which has its own network, optimiser and objective: `model`,
    `optim`, `objective`, `max_ahead` and `drop` do not apply. `workers`: a number, or (least, most)
    for a cluster that grows and shrinks; the result does not depend on it. `tracking`: where else
    to log each epoch's metrics (docs/observability.md).
    """

    output: Address
    store: Address | None = None
    corpus: str | None = None
    accuracies: Address | None = None
    losses: Address | None = None
    tasks: Address | None = None
    run_table: Address | None = None
    loss_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    validation_runs: tuple[str, ...] = ()
    held_out_runs: tuple[str, ...] = ()
    held_out_tasks: tuple[str, ...] = ()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    cross_run: FitConfig | None = None
    checkpoint_group: pydantic.PositiveInt = 16
    max_ahead: pydantic.PositiveInt | None = 10
    drop: float = pydantic.Field(default=0.4, ge=0.0, lt=1.0)
    max_validation_samples: pydantic.PositiveInt = 20_000
    keep: Literal["last", "best"] = "last"
    patience: pydantic.PositiveInt | None = None
    checkpoint_steps: pydantic.PositiveInt | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: pydantic.NonNegativeInt = 0
    workers: pydantic.PositiveInt | tuple[pydantic.PositiveInt, pydantic.PositiveInt] = 1
    cpus_per_worker: pydantic.PositiveInt = 1
    use_gpu: bool = False
    gpus_per_worker: Annotated[float, pydantic.Field(gt=0.0)] = 1.0
    max_failures: pydantic.NonNegativeInt = 2
    tracking: TrackingConfig | None = None

    @pydantic.field_validator("model", mode="before")
    @classmethod
    def _resolve_preset(cls, value: Any) -> Any:
        return resolve_preset(value)

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.keep == "best" and not self.validation_runs:
            raise ValueError("keep=best chooses by validation loss: name validation_runs")
        if self.patience is not None and not self.validation_runs:
            raise ValueError("patience watches the validation loss: name validation_runs")
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers {self.workers} must be (least, most)")
        if self.cross_run is not None and (
            (self.model, self.optim, self.objective)
            != (ModelConfig(), OptimConfig(), ObjectiveConfig())
        ):
            raise ValueError(
                "model, optim and objective do not apply with cross_run; "
                "set cross_run.network, cross_run.optim and cross_run.objective"
            )
        return self

    @property
    def loop(self) -> Loop:
        """Settings of the training loop."""
        return Loop(
            optim=self.optim if self.cross_run is None else self.cross_run.optim,
            seed=self.seed,
            precision=self.precision,
            keep=self.keep,
            checkpoint_steps=self.checkpoint_steps,
            patience=self.patience,
        )
