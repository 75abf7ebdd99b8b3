"""Backtests: forecast finished runs from their first checkpoints, and score the forecasts."""

import itertools
import json
import logging
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core import __version__
from neuneu.core.config import config_hash, save_config
from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.storage import Folder, written_to
from neuneu.data.fingerprints import runs_trained_on
from neuneu.data.load import Dataset, join_choices, load_dataset
from neuneu.data.ranking import value_noise
from neuneu.data.scales import PERCENT
from neuneu.data.splits import MIN_CHECKPOINTS, PROTOCOLS, SplitRule, deal_folds, hold_out
from neuneu.data.trajectories import RunGroup, TokenLossTable, Trajectory, merge_token_losses
from neuneu.evaluation.aggregation import RunBootstrap
from neuneu.evaluation.config import BacktestConfig
from neuneu.evaluation.entrants import make_forecasters, with_evidence
from neuneu.evaluation.summary import RunMetadata, summarise
from neuneu.forecasters.baselines import BASELINES, NEEDS_SCIPY
from neuneu.forecasters.protocol import Forecaster, Query
from neuneu.forecasters.queries import make_queries, with_future_losses
from neuneu.forecasters.table import check_answers, forecast_table, identity_columns

_log = logging.getLogger(__name__)

FORECASTS_FILE: Final = "forecasts.parquet"
SUMMARY_FILE: Final = "summary.json"
CONFIG_FILE: Final = "config.yaml"


@runtime_checkable
class RemembersTraining(Protocol):
    """A trained forecaster that recognises trajectories it was trained on, by their content."""

    def seen_share(self, trajectories: Sequence[Trajectory]) -> float:
        """Return the fraction of these trajectories, of one run, that it was trained on."""


@runtime_checkable
class Calibrated(Protocol):
    """A forecaster that names the calibration group of each target."""

    def calibration_groups(self, queries: Sequence[Query]) -> list[list[str]] | None:
        """Return a name for every target of every query; None without calibration."""


def run_backtest(
    forecasters: Sequence[Forecaster],
    targets: Sequence[Trajectory],
    references: Sequence[Trajectory],
    protocol: SplitRule,
    token_losses: TokenLossTable | None = None,
) -> pa.Table:
    """Forecast every later checkpoint of the targets with every forecaster.

    A forecaster that declares `own` gets no references; only one that declares `oracle-loss` gets
    future losses. Unanswered targets have null quantiles.

    Returns:
        `schemas.FORECASTS`: the same rows in the same order for each forecaster.

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
        oracle = forecaster.sees == "oracle-loss"
        given = with_future_losses(queries, truths) if oracle else queries
        if forecaster.sees != "own":
            forecaster.fit(references)
        quantiles = check_answers(forecaster, forecaster.predict(given), queries)
        columns = common
        groups = (
            forecaster.calibration_groups(queries) if isinstance(forecaster, Calibrated) else None
        )
        if groups is not None:
            names = pa.array(itertools.chain.from_iterable(groups), pa.string())
            columns = {**common, "calibration_group": names}
        tables.append(forecast_table(forecaster, columns, quantiles))
    return pa.concat_tables(tables)


def write_backtest(
    out: Path, table: pa.Table, summary: Mapping[str, Any], config: BacktestConfig | None = None
) -> None:
    """Write `forecasts.parquet`, `config.yaml` and, last, `summary.json`."""
    with atomic_path(out / FORECASTS_FILE) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    if config is not None:
        save_config(config, out / CONFIG_FILE)
    write_text_atomic(out / SUMMARY_FILE, json.dumps(summary, indent=1, allow_nan=False) + "\n")


Draw = Callable[[Folder, Path, pa.Table, dict[str, Any], Dataset], str]
"""Draws figures and a report into a local folder that becomes the output: (output, folder,
forecasts, summary, data) -> the report's location; see `neuneu.reports.backtest.run`."""


def backtest(config: BacktestConfig, *, draw: Draw | None = None) -> dict[str, Any]:
    """Read the tables, forecast, score, and write everything to `config.output`.

    Args:
        config: settings.
        draw: adds figures and a report, if the config asks for them.

    Returns:
        `output`, `report` (null without figures) and the MAE of each forecaster.

    Raises:
        UserError: inputs that cannot be read, or a split that leaves nothing.
    """
    _check_installed(config)
    output = Folder(config.output)
    output.exists(SUMMARY_FILE)  # report an unusable location before the work
    with stage("reading", total=1) as bar:
        observed = load_dataset(
            config.accuracies, losses=config.losses, tasks=config.tasks,
            run_table=config.run_table, reference=config.reference,
            reference_losses=config.reference_losses, corpus=config.corpus, metric=config.metric,
        )  # fmt: skip
        observed = observed.of_metric(config.metric)
        scored_choices = join_choices(observed, config.choices, config.reference_choices)
        for note in scored_choices.notes[len(observed.notes) :]:
            _log.warning(note)
        unit = _unit(observed.trajectories)
        bar.advance()
    folds = _folds(config, observed.trajectories)
    forecasters = make_forecasters(config)
    entrants = [(observed, forecasters)]
    if config.choices is not None:
        entrants.append((scored_choices, with_evidence(forecasters, scored_choices.trajectories)))
    table, given = _forecast_folds(config, entrants, folds)
    forecasters = [forecaster for _, several in entrants for forecaster in several]
    scored = {group for fold in folds for group in fold}
    targets = [t for t in observed.trajectories if t.run_group in scored]
    known = RunMetadata(
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
        summary = summarise(table, bootstrap=bootstrap, known=known)
        bar.advance()
    for name, entry in summary["forecasters"].items():
        entry["references_given"] = given if entry["sees"] != "own" else []
        entry["kind"] = "baseline" if name in BASELINES else "trained"
    summary["context_fraction"] = config.context
    summary["unit"] = unit
    summary["folds"] = [["/".join(group) for group in fold] for fold in folds]
    suites = defaultdict(list)
    for trajectory in observed.trajectories:
        suites[trajectory.suite].append(trajectory)
    summary["data"] = {
        "digest": observed.digest,
        "reference_digest": observed.reference and observed.reference.digest,
        "suites": {suite: _describe(members) for suite, members in sorted(suites.items())},
    }
    summary["made_by"] = _provenance(config, observed.digest)
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


def _unit(trajectories: Sequence[Trajectory]) -> str:
    """The unit of all metrics.

    Raises:
        UserError: several, over which errors have no mean.
    """
    units = {t.metric: t.scale.unit for t in trajectories}
    if len(set(units.values())) > 1:
        raise UserError(
            f"metrics {', '.join(sorted(units))}: expected metrics of one unit to average errors "
            "over; choose one with metric=NAME."
        )
    return next(iter(units.values()), PERCENT)


def _check_installed(config: BacktestConfig) -> None:
    """Report missing packages before the work."""
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
            # The reference runs are given apart: every run of the table is a target.
            return (tuple(sorted({t.run_group for t in long_enough})),)
        return deal_folds(long_enough, config.folds, config.seed)
    if not config.held_out:
        raise UserError("held_out: expected run names or `all`, found none.")
    _, held = hold_out(trajectories, config.held_out)
    return (tuple(sorted({t.run_group for t in held})),)


def _forecast_folds(
    config: BacktestConfig,
    entrants: Sequence[tuple[Dataset, Sequence[Forecaster]]],
    folds: tuple[tuple[RunGroup, ...], ...],
) -> tuple[pa.Table, list[list[str]]]:
    """Return the forecasts of all folds, and the run groups given as references in each fold.

    Args:
        config: settings.
        entrants: the same trajectories, in what is known of them, and who forecasts them.
        folds: runs to forecast.
    """
    observed = entrants[0][0]
    others = observed.reference
    token_losses = merge_token_losses(
        observed.token_losses, others.token_losses if others else None
    )
    protocol = PROTOCOLS[config.protocol](fraction=config.context)
    tables, given = [], []
    with stage("forecasting", total=len(folds)) as bar:
        for fold in folds:
            held = set(fold)
            for data, forecasters in entrants:
                targets = [
                    t
                    for t in data.trajectories
                    if t.run_group in held and len(t.without_step_zero()) >= config.min_checkpoints
                ]
                finished = data.trajectories + data.references
                references = [t for t in finished if t.run_group not in held]
                tables.append(
                    run_backtest(forecasters, targets, references, protocol, token_losses)
                )
            given.append(sorted({"/".join(t.run_group) for t in references}))
            bar.advance()
    return pa.concat_tables(tables), given


def _describe(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return the counts of a suite."""
    return {
        "family": trajectories[0].family,
        "runs": len({t.run for t in trajectories}),
        "tasks": len({t.task for t in trajectories}),
        "checkpoints": len({(t.run, step) for t in trajectories for step in t.steps.tolist()}),
        "trajectories": len(trajectories),
        "observations": sum(map(len, trajectories)),
    }


def _provenance(config: BacktestConfig, digest: str) -> dict[str, Any]:
    packages = ("numpy", "pyarrow", "scipy", "torch")
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    return {
        "config_hash": config_hash(config),
        "data_digest": digest,
        "neuneu": __version__,
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in packages if name in installed},
    }
