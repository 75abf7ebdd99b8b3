"""Backtests: forecast runs whose ends are known, from their beginnings, and score the forecasts."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from neuneu.core import __version__
from neuneu.core.config import Address, config_dataclass, config_hash, save_config
from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.storage import Folder, written_to
from neuneu.data.fingerprints import runs_trained_on
from neuneu.data.load import Dataset, load_dataset
from neuneu.data.ranking import value_noise
from neuneu.data.splits import MIN_CHECKPOINTS, PROTOCOLS, SplitRule, deal_folds, hold_out
from neuneu.data.trajectories import (
    RunGroup,
    TokenLossTable,
    Trajectory,
    merge_token_losses,
)
from neuneu.evaluation.aggregation import RunBootstrap
from neuneu.evaluation.summary import RunBooks, summarise_evaluation
from neuneu.evaluation.table import read_evaluation
from neuneu.forecasters.baselines import BASELINES, DEFAULT_BASELINES, NEEDS_SCIPY, make_forecaster
from neuneu.forecasters.baselines.logistic import LogisticLawConfig
from neuneu.forecasters.protocol import Forecaster, Query
from neuneu.forecasters.queries import make_queries, with_future_losses
from neuneu.forecasters.registry import load_forecaster
from neuneu.forecasters.table import check_answers, forecast_table, identity_columns

FORECASTS_FILE: Final = "forecasts.parquet"
SUMMARY_FILE: Final = "summary.json"
CONFIG_FILE: Final = "config.yaml"


@config_dataclass
class BacktestConfig:
    """What to forecast from how much, by whom, and where the results go; all local or `s3://`."""

    accuracies: Address
    """A store folder, or a .parquet / .csv accuracy table."""
    losses: Address | None = None
    """Validation losses, for forecasters that read them; a store brings its own."""
    tasks: Address | None = None
    """The task table, for chance and task groups; a store brings its own."""
    reference: Address | None = None
    """Other finished runs to learn from: a store folder or an accuracy table."""
    reference_losses: Address | None = None
    output: Address = "runs/backtest"
    context: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of a run's checkpoints (`anchored`) or tokens (`by-compute`) that is seen."""
    protocol: Literal["anchored", "by-compute"] = "anchored"
    min_checkpoints: Annotated[int, Field(ge=MIN_CHECKPOINTS)] = MIN_CHECKPOINTS
    """Shorter trajectories (step 0 excluded) are not scored."""
    forecasters: tuple[str, ...] = DEFAULT_BASELINES
    models: tuple[Address, ...] = ()
    """Folders of trained forecasters."""
    pretrained: bool = False
    """Also ask the forecaster that comes with the package."""
    logistic: LogisticLawConfig = field(default_factory=LogisticLawConfig)
    held_out: tuple[str, ...] | Literal["all"] = "all"
    """Runs to forecast; `all` forecasts every run, a fold of them at a time."""
    folds: Annotated[int, Field(ge=2)] = 5
    """With `held_out: all`: runs of a fold are not references of one another."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    seed: int = 0
    figures: bool = True
    """Also draw the figures and the HTML report (needs the `analysis` extra)."""


@runtime_checkable
class RemembersTraining(Protocol):
    """A trained forecaster that can tell which trajectories it learnt from, by their content."""

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """The share of these trajectories, of one run, that it was trained on."""


@runtime_checkable
class Calibrated(Protocol):
    """A forecaster that can tell which calibration group each target belongs to."""

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """A name for every target of every query; None where nothing is calibrated."""


def run_backtest(
    forecasters: Sequence[Forecaster],
    targets: Sequence[Trajectory],
    references: Sequence[Trajectory],
    protocol: SplitRule,
    token_losses: TokenLossTable | None = None,
) -> pa.Table:
    """Forecasts every later checkpoint of the targets with every forecaster.

    A forecaster that declares `own` is given no references; only one that declares
    `oracle-loss` is given future losses. What cannot be answered stands as null quantiles.

    Returns:
        `schemas.FORECASTS`: forecaster by forecaster, the same rows in the same order.

    Raises:
        UserError: a target's run group among the references, two forecasters of one name, or
            no target long enough.
        DataError: a forecaster breaks its protocol.
    """
    shared = sorted({t.run_group for t in targets} & {t.run_group for t in references})
    if shared:
        raise UserError(
            f"references hold runs that are to be forecast: {shared[:5]}; a run (all its suites "
            "and shots) is either a target or a reference. Take it out of one."
        )
    names = [forecaster.name for forecaster in forecasters]
    if len(set(names)) != len(names):
        raise UserError(f"forecasters {names}: each needs its own name; drop or rename one.")
    queries, truths = make_queries(targets, protocol, token_losses)
    if not queries:
        raise UserError(
            f"no trajectory to forecast: {len(targets)} were given and each has fewer than "
            f"{MIN_CHECKPOINTS} checkpoints besides step 0; evaluate more checkpoints."
        )
    common = identity_columns(queries, truths, protocol.name)
    tables = []
    for forecaster in forecasters:
        asked = queries
        if forecaster.sees == "oracle-loss":
            asked = with_future_losses(queries, truths)
        if forecaster.sees != "own":
            forecaster.fit(references)
        quantiles = check_answers(forecaster, forecaster.predict(asked), queries)
        columns = common
        groups = (
            forecaster.calibration_groups(queries) if isinstance(forecaster, Calibrated) else None
        )
        if groups is not None:
            names = pa.array([name for of in groups for name in of], pa.string())
            columns = {**common, "calibration_group": names}
        tables.append(forecast_table(forecaster, columns, quantiles))
    return pa.concat_tables(tables)


def summarise(
    table: pa.Table, *, bootstrap: RunBootstrap | None = None, books: RunBooks | None = None
) -> dict[str, Any]:
    """Scores of every forecaster in a forecasts table; see `evaluation_summary`.

    Raises:
        DataError: a table that cannot be scored.
    """
    return summarise_evaluation(
        read_evaluation(table), bootstrap or RunBootstrap(), books or RunBooks()
    )


def write_backtest(
    out: Path, table: pa.Table, summary: Mapping[str, Any], config: BacktestConfig | None = None
) -> None:
    """Writes `forecasts.parquet`, `config.yaml` and, last, `summary.json`."""
    with atomic_path(out / FORECASTS_FILE) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    if config is not None:
        save_config(config, out / CONFIG_FILE)
    write_text_atomic(out / SUMMARY_FILE, json.dumps(summary, indent=1, allow_nan=False) + "\n")


class Draw(Protocol):
    """Draws figures and a report of a backtest; see `neuneu.reports.backtest.run`."""

    def __call__(
        self,
        output: Folder,
        folder: Path,
        table: pa.Table,
        summary: dict[str, Any],
        observed: Dataset,
    ) -> str:
        """Writes into `folder`, which becomes `output`; returns where the report will lie."""


def backtest(config: BacktestConfig, *, draw: Draw | None = None) -> dict[str, Any]:
    """Reads the tables, forecasts, scores, and writes everything to `config.output`.

    Args:
        config: what to forecast.
        draw: adds figures and a report, where the config asks for them.

    Returns:
        `output`, `report` (null without figures) and the MAE of each forecaster.

    Raises:
        UserError: inputs that cannot be read, or a split that leaves nothing.
    """
    _check_installed(config)
    output = Folder(config.output)
    output.exists(SUMMARY_FILE)  # a place that cannot be used is told before the work
    with stage("reading", total=1) as bar:
        observed = load_dataset(
            config.accuracies, losses=config.losses, tasks=config.tasks,
            reference=config.reference, reference_losses=config.reference_losses,
        )  # fmt: skip
        others = observed.reference
        bar.advance()
    folds = _folds(config, observed.trajectories)
    forecasters = _make_forecasters(config)
    table, given = _forecast_folds(config, forecasters, observed, others, folds)
    scored = {group for fold in folds for group in fold}
    targets = [t for t in observed.trajectories if t.run_group in scored]
    books = RunBooks(
        folds=folds,
        trained_on={
            forecaster.name: runs_trained_on(forecaster.seen_share, targets)
            for forecaster in forecasters
            if isinstance(forecaster, RemembersTraining)
        },
        tasks={t.task: (t.base_task, t.group) for t in observed.trajectories},
        noise={t.key: value_noise(t) for t in targets},
    )
    with stage("scoring", total=1) as bar:
        bootstrap = RunBootstrap(samples=config.bootstrap_samples, seed=config.seed)
        summary = summarise(table, bootstrap=bootstrap, books=books)
        bar.advance()
    for name, entry in summary["forecasters"].items():
        entry["references_given"] = given if entry["sees"] != "own" else []
        entry["kind"] = "baseline" if name in BASELINES else "trained"
    summary["context_fraction"] = config.context
    summary["folds"] = [["/".join(group) for group in fold] for fold in folds]
    summary["data"] = _describe_data(observed, others)
    summary["made_by"] = _provenance(config, summary["data"])
    report = None
    with written_to(output, last=SUMMARY_FILE) as folder:
        write_backtest(folder, table, summary, config)
        if draw is not None and config.figures:
            with stage("drawing", total=1) as bar:
                report = draw(output, folder, table, summary, observed)
                bar.advance()
    return {
        "output": str(output),
        "report": report,
        "mae": {
            name: (entry["overall"]["mae"] or {}).get("value")
            for name, entry in summary["forecasters"].items()
        },
    }


def _check_installed(config: BacktestConfig) -> None:
    """Says what is not installed before the work starts, not after it."""
    wanted = ["matplotlib", "jinja2"] if config.figures else []
    wanted += ["scipy"] if NEEDS_SCIPY.intersection(config.forecasters) else []
    require(
        "this backtest", *wanted, extra="analysis",
        otherwise=f", or set figures=false and leave {', '.join(sorted(NEEDS_SCIPY))} out of "
        "forecasters",
    )  # fmt: skip


def _folds(
    config: BacktestConfig, trajectories: list[Trajectory]
) -> tuple[tuple[RunGroup, ...], ...]:
    long_enough = [t for t in trajectories if len(t.without_step_zero()) >= config.min_checkpoints]
    if config.held_out == "all":
        if config.reference is not None:
            # Finished runs stand apart: every run of the table is a target of them.
            return (tuple(sorted({t.run_group for t in long_enough})),)
        return deal_folds(long_enough, config.folds, config.seed)
    if not config.held_out:
        raise UserError("held_out: expected run names or `all`, found none.")
    _, held = hold_out(trajectories, config.held_out)
    return (tuple(sorted({t.run_group for t in held})),)


def _forecast_folds(
    config: BacktestConfig,
    forecasters: Sequence[Forecaster],
    observed: Dataset,
    others: Dataset | None,
    folds: tuple[tuple[RunGroup, ...], ...],
) -> tuple[pa.Table, list[list[str]]]:
    """(forecasts of all folds, run groups given as references in each fold)."""
    token_losses = merge_token_losses(
        observed.token_losses, None if others is None else others.token_losses
    )
    protocol = PROTOCOLS[config.protocol](fraction=config.context)
    finished = observed.trajectories + ([] if others is None else others.trajectories)
    tables, given = [], []
    with stage("forecasting", total=len(folds)) as bar:
        for fold in folds:
            held = set(fold)
            targets = [
                t
                for t in observed.trajectories
                if t.run_group in held and len(t.without_step_zero()) >= config.min_checkpoints
            ]
            references = [t for t in finished if t.run_group not in held]
            given.append(sorted({"/".join(t.run_group) for t in references}))
            tables.append(run_backtest(forecasters, targets, references, protocol, token_losses))
            bar.advance()
    return pa.concat_tables(tables), given


def _make_forecasters(config: BacktestConfig) -> list[Forecaster]:
    forecasters = [make_forecaster(name, config.logistic) for name in config.forecasters]
    if config.pretrained:
        forecasters.append(load_forecaster(None, name="neuneu"))
    several = len(config.models) > 1
    forecasters += [
        load_forecaster(
            folder, name=str(Folder(folder)).rpartition("/")[2] if several else "neural"
        )
        for folder in config.models
    ]
    if not forecasters:
        raise UserError("forecasters: expected at least one name or model folder, found none.")
    return forecasters


def _describe_data(observed: Dataset, others: Dataset | None) -> dict[str, Any]:
    suites: dict[str, dict[str, Any]] = {}
    for trajectory in observed.trajectories:
        entry = suites.setdefault(
            trajectory.suite,
            {"family": trajectory.family, "runs": set(), "tasks": set(), "checkpoints": set()}
            | {"trajectories": 0, "observations": 0},
        )
        entry["runs"].add(trajectory.run)
        entry["tasks"].add(trajectory.task)
        entry["checkpoints"] |= {(trajectory.run, int(step)) for step in trajectory.steps}
        entry["trajectories"] += 1
        entry["observations"] += len(trajectory)
    return {
        "digest": observed.digest,
        "reference_digest": None if others is None else others.digest,
        "suites": {
            suite: {key: len(v) if isinstance(v, set) else v for key, v in entry.items()}
            for suite, entry in sorted(suites.items())
        },
    }


def _provenance(config: BacktestConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    packages = ("numpy", "pyarrow", "scipy", "torch")
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {
        "config_hash": config_hash(config),
        "data_digest": data["digest"],
        "neuneu": __version__,
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in packages if name in installed},
    }
