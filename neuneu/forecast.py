"""Forecasts of unfinished runs from a table: what will each task score later?

Every run of the table, and of a reference table if one is given, is compared with the others:
where they went further on the same task, they say what came next. Shapes: h targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from neuneu.backtest_inputs import read_observations
from neuneu.config import config_dataclass, save_config
from neuneu.counts import format_count
from neuneu.cross_run.forecaster import CrossRunForecaster
from neuneu.errors import UserError
from neuneu.files import atomic_path
from neuneu.forecast_table import check_answers, forecast_table, identity_columns
from neuneu.forecaster import Query
from neuneu.progress import stage
from neuneu.trajectories import FloatArray, Trajectory

FORECASTS_FILE: Final = "forecasts.parquet"
PROTOCOL: Final = "forecast"


@config_dataclass
class ForecastConfig:
    """What to forecast, from how much, and how far.

    `context` is the share of the checkpoints that is taken as seen, `context_step` the last step
    that is; by default all are. At most one of `until` (tokens), `until_flops` and `until_step`
    says how far; by default the run's planned tokens. `points` places are forecast, evenly in ln
    tokens. `model` is a folder of a trained forecaster; by default the one of the package.
    """

    accuracies: Path
    losses: Path | None = None
    tasks: Path | None = None
    reference: Path | None = None
    reference_losses: Path | None = None
    context: Annotated[float, Field(gt=0, le=1)] | None = None
    context_step: Annotated[int, Field(ge=1)] | None = None
    until: Annotated[float, Field(gt=0)] | None = None
    until_flops: Annotated[float, Field(gt=0)] | None = None
    until_step: Annotated[int, Field(ge=1)] | None = None
    points: Annotated[int, Field(ge=1)] = 20
    model: Path | None = None
    output: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecasts:
    """Forecasts as `schemas.FORECASTS`, and what to doubt of them by trajectory key."""

    table: pa.Table
    doubts: dict[tuple[str, str, int, str, str], list[str]]


def forecast(config: ForecastConfig) -> dict[str, Any]:
    """Reads the tables, forecasts, and writes `forecasts.parquet` if there is an output.

    Returns:
        `output`, and `forecasts`: for each trajectory the present value and the quantiles at the
        last target, with `doubts`.

    Raises:
        UserError: inputs that cannot be read, or nothing to forecast.
    """
    observed = read_observations(config.accuracies, config.losses, config.tasks)
    others: list[Trajectory] = []
    if config.reference is not None:
        others = read_observations(
            config.reference, config.reference_losses, config.tasks
        ).trajectories
    forecaster = CrossRunForecaster.load(config.model)
    with stage("forecasting", total=1) as bar:
        found = make_forecasts(forecaster, observed.trajectories, others, config)
        bar.advance()
    if config.output is not None:
        with atomic_path(config.output / FORECASTS_FILE) as temporary:
            pq.write_table(found.table, temporary, compression="zstd")
        save_config(config, config.output / "config.yaml")
    return {"output": config.output, "forecasts": _ends(found)}


def make_forecasts(
    forecaster: CrossRunForecaster,
    trajectories: Sequence[Trajectory],
    others: Sequence[Trajectory],
    config: ForecastConfig,
) -> Forecasts:
    """Forecasts trajectories, compared with each other and with those of other tables.

    Raises:
        UserError: more than one end, or no trajectory that can be forecast.
    """
    ends = [config.until, config.until_flops, config.until_step]
    if sum(end is not None for end in ends) > 1:
        raise UserError("until, until_flops, until_step: expected one of them at most.")
    queries, truths, skipped = [], [], []
    for trajectory in trajectories:
        seen = _seen(trajectory.without_step_zero(), config)
        end = _end(trajectory, config)
        if not len(seen) or end is None or end <= seen.tokens[-1]:
            skipped.append(trajectory)
            continue
        tokens = np.geomspace(seen.tokens[-1], end, config.points + 1)[1:]
        query = _query(seen, tokens)
        queries.append(query)
        truths.append(_unknown(query))
    if not queries:
        raise UserError(
            f"nothing to forecast: none of {len(skipped)} trajectories says how far it goes; "
            "give --until TOKENS beyond the last checkpoint, or a column planned_tokens."
        )
    forecaster.fit([*trajectories, *others])
    answers = check_answers(forecaster, forecaster.predict(queries), queries)
    common = identity_columns(queries, truths, PROTOCOL)
    groups = forecaster.calibration_groups(queries)
    if groups is not None:
        common["calibration_group"] = pa.array([name for names in groups for name in names])
    common["y"] = pa.nulls(len(answers), pa.float64())
    doubts = {}
    if forecaster.calibration is not None and groups is not None:
        for query, names in zip(queries, groups, strict=True):
            context = query.context
            doubts[context.key] = forecaster.calibration.doubts(
                family=context.family, params=context.params, group=names[-1]
            )
    return Forecasts(table=forecast_table(forecaster, common, answers), doubts=doubts)


def _seen(trained: Trajectory, config: ForecastConfig) -> Trajectory:
    stop = len(trained)
    if config.context is not None:
        stop = min(stop, int(config.context * len(trained)) + 1)
    if config.context_step is not None:
        stop = min(stop, int(np.searchsorted(trained.steps, config.context_step, side="right")))
    return trained.slice(0, stop)


def _end(trajectory: Trajectory, config: ForecastConfig) -> float | None:
    """Tokens at the end of the horizon; None where nothing says it."""
    if config.until is not None:
        return config.until
    if config.until_flops is not None:
        return float(config.until_flops / (trajectory.flops[-1] / trajectory.tokens[-1]))
    if config.until_step is not None:
        return float(config.until_step * (trajectory.tokens[-1] / max(trajectory.steps[-1], 1)))
    return trajectory.planned_tokens


def _query(seen: Trajectory, tokens: FloatArray) -> Query:
    return Query(
        context=seen,
        target_steps=np.round(tokens * (seen.steps[-1] / seen.tokens[-1])).astype(np.int64),
        target_tokens=tokens,
        target_flops=tokens * (seen.flops[-1] / seen.tokens[-1]),
    )


def _unknown(query: Query) -> Trajectory:
    """The query's future as a trajectory whose values are not known."""
    n = len(query.target_steps)
    return replace(
        query.context,
        steps=query.target_steps,
        tokens=query.target_tokens,
        flops=query.target_flops,
        values=np.full(n, np.nan),
        stderrs=np.full(n, np.nan),
        losses={},
    )


def _ends(found: Forecasts) -> list[dict[str, Any]]:
    """The last target of each trajectory, as JSON types."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in found.table.to_pylist():
        key = (row["suite"], row["run"], row["num_fewshot"], row["task"], row["metric"])
        rows[key] = row
    kept = ("suite", "run", "num_fewshot", "task", "metric", "context_tokens", "tokens")
    return [
        {name: row[name] for name in kept}
        | {name: round(value, 4) for name, value in row.items() if name.startswith("q")}
        | {"calibration_group": row["calibration_group"], "doubts": found.doubts.get(key, [])}
        for key, row in rows.items()
    ]


def show_forecasts(rows: Sequence[dict[str, Any]], *, limit: int = 40) -> None:
    """Prints a table of the last targets, at most `limit` rows, and what to doubt of them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Forecast accuracy, %")
    for name in ("run", "task", "metric", "at tokens", "median", "80 % band"):
        table.add_column(name, justify="left" if name in {"run", "task", "metric"} else "right")
    for row in rows[:limit]:
        low, middle, high = (f"{100 * row[name]:.1f}" for name in ("q0.1", "q0.5", "q0.9"))
        table.add_row(
            row["run"], row["task"], row["metric"], format_count(row["tokens"]), middle,
            f"{low} to {high}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more; use -o or --json for all.")
    for doubt in sorted({doubt for row in rows for doubt in row["doubts"]}):
        console.print(f"* coverage is not promised: {doubt}")
