"""Settings of a backtest."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from neuneu.core.config import Address, config_dataclass
from neuneu.data.splits import MIN_CHECKPOINTS
from neuneu.forecasters.baselines import DEFAULT_BASELINES
from neuneu.forecasters.baselines.logistic import LogisticLawConfig


@config_dataclass
class BacktestConfig:
    """Data, context, forecasters and output of a backtest; locations are local or `s3://`."""

    accuracies: Address
    """A store folder, or a .parquet / .csv accuracy table."""
    losses: Address | None = None
    """Validation losses, for forecasters that read them; a store brings its own."""
    tasks: Address | None = None
    """The task table, for chance and task groups; a store brings its own."""
    run_table: Address | None = None
    """Facts about the runs, those of `reference` included: recipe, schedule, parameters."""
    reference: Address | None = None
    """Further reference runs: a store folder or an accuracy table."""
    reference_losses: Address | None = None
    choices: Address | None = None
    """Scored choices of the runs (`choices.parquet` of an import, or a store). The package's
    forecaster and models of `neuneu pretrain` are then scored a second time, with this evidence."""
    reference_choices: Address | None = None
    """Scored choices of the reference runs; by default they are looked for in `choices`, too."""
    corpus: str | None = None
    """Which validation text of the stores to read token losses of; by default their first."""
    metric: str | None = None
    """Metric to score, also one of the losses such as `bpb`; by default all, if of one unit."""
    output: Address = "runs/backtest"
    context: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Fraction of a run's checkpoints (`anchored`) or tokens (`by-compute`) to use as context."""
    protocol: Literal["anchored", "by-compute"] = "anchored"
    min_checkpoints: Annotated[int, Field(ge=MIN_CHECKPOINTS)] = MIN_CHECKPOINTS
    """Shorter trajectories (step 0 excluded) are not scored."""
    forecasters: tuple[str, ...] = DEFAULT_BASELINES
    models: tuple[Address, ...] = ()
    """Folders of trained forecasters."""
    pretrained: bool = False
    """Also score the forecaster that ships with the package."""
    logistic: LogisticLawConfig = field(default_factory=LogisticLawConfig)
    held_out: tuple[str, ...] | Literal["all"] = "all"
    """Runs to forecast; `all` forecasts every run, one fold at a time."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds with `held_out: all`; runs of a fold are not references of one another."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    seed: int = 0
    figures: bool = True
    """Also draw the figures and the HTML report (needs the `analysis` extra)."""
