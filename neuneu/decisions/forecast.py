"""Forecasts of unfinished and planned runs on every task. Shapes: h targets, Q levels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from neuneu.core.errors import UserError
from neuneu.data.cells import quoted
from neuneu.data.load import Dataset
from neuneu.data.quantiles import column
from neuneu.data.schemas import ACCURACIES
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import plain, plain_tokens
from neuneu.decisions.explanation import calibration_fields
from neuneu.decisions.plans import Plan, planned_runs, without_unanswered
from neuneu.decisions.self_calibration import SelfCalibration, self_calibrate
from neuneu.forecasters.items.combined import with_items
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import (
    Horizon,
    even_grid,
    planned_grid,
    planned_query,
    query_at,
    reached,
    with_siblings,
)
from neuneu.forecasters.table import check_answers, forecast_table, identity_columns

PROTOCOL: Final = "forecast"


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecasts:
    """One query and one row for each trajectory, and tables over all of them.

    `table` is `schemas.FORECASTS`, `observed` holds the contexts as `schemas.ACCURACIES`; `rows`
    describe the horizon as JSON types. `notes` say which planned runs were left out.
    """

    self_calibration: SelfCalibration

    queries: list[Query]
    rows: list[dict[str, Any]]
    table: pa.Table
    observed: pa.Table
    notes: tuple[str, ...]


def make_forecasts(
    forecaster: JointForecaster,
    dataset: Dataset,
    horizon: Horizon,
    plan: Plan | Sequence[Plan] | None = None,
    *,
    calibrate: bool = True,
) -> Forecasts:
    """Forecasts every unfinished trajectory, and planned runs on the tasks of finished ones.

    Args:
        forecaster: fitted here.
        dataset: evaluations so far.
        horizon: context and horizon.
        calibrate: whether finished runs may change the width of intervals.

    Raises:
        UserError: no trajectory that can be forecast, or a plan that cannot be.
    """
    queries = []
    finished: list[tuple[Trajectory, float]] = []
    for trajectory in dataset.trajectories:
        context, end = horizon.context_of(trajectory), horizon.end(trajectory)
        if not len(context) or end is None:
            continue
        now = float(context.tokens[-1])
        if reached(now, end):
            finished.append((context, end))
        else:
            grid = even_grid(now, end, horizon.points)
            queries.append(query_at(context, grid, dataset.token_losses))
    queries = with_siblings(queries, [horizon.context_of(t) for t in dataset.trajectories])
    planned = planned_runs(dataset, horizon, plan)
    queries += [_planned(t, horizon) for t in planned.trajectories]
    if not queries:
        nothing = _nothing_to_forecast(len(dataset.trajectories), finished)
        raise UserError("; ".join([nothing.rstrip("."), *planned.notes]) + ".")
    references = horizon.references(dataset.trajectories, dataset.references)
    forecaster = with_items(forecaster, dataset.trajectories)
    found = self_calibrate(forecaster, references, queries, enabled=calibrate)
    forecaster = found.forecaster
    forecaster.fit(references)
    answers = forecaster.predict(queries)
    queries, answers, unanswered = without_unanswered(queries, answers)
    if not queries:
        raise UserError(f"nothing to forecast: {'; '.join([*planned.notes, *unanswered])}.")
    quantiles = check_answers(forecaster, answers, queries)
    common = identity_columns(queries, [_targets(query) for query in queries], PROTOCOL)
    groups = forecaster.calibration_groups(queries)
    if groups is not None:
        common["calibration_group"] = pa.array([name for names in groups for name in names])
    common["y"] = pa.nulls(len(quantiles), pa.float64())
    rows = []
    for index, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        context = query.context
        quantiles_at_horizon = zip(forecaster.levels, answer[-1], strict=True)
        rows.append(
            {
                name: getattr(context, name)
                for name in ("family", "suite", "run", "num_fewshot", "task", "metric")
            }
            | {
                "higher_is_better": context.scale.higher_is_better,
                "checkpoints": len(context),
                "chance": None if context.chance is None else plain(context.chance),
                "present": plain(context.values[-1]) if len(context) else None,
                "seen_tokens": plain_tokens(context.tokens[-1]) if len(context) else 0.0,
                "tokens": plain_tokens(query.target_tokens[-1]),
            }
            | {column(level): plain(value) for level, value in quantiles_at_horizon}
            | calibration_fields(forecaster, [query], groups and [groups[index]])
        )
    return Forecasts(
        queries=queries,
        rows=rows,
        table=forecast_table(forecaster, common, quantiles),
        observed=_observed([query.context for query in queries]),
        self_calibration=found,
        notes=(*planned.notes, *unanswered),
    )


def _planned(run: Trajectory, horizon: Horizon) -> Query:
    end = horizon.end(run)
    assert end is not None, "planned_runs makes none without a horizon"
    return planned_query(run, planned_grid(end, horizon.points))


def _nothing_to_forecast(count: int, finished: Sequence[tuple[Trajectory, float]]) -> str:
    if not finished:
        return (
            f"nothing to forecast: none of {count} trajectories has a horizon; give --until "
            "TOKENS beyond the last checkpoint, or a column planned_tokens."
        )
    first, end = min(finished, key=lambda pair: float(pair[0].tokens[-1]))
    return (
        f"nothing to forecast: expected a horizon beyond the last checkpoint of a run, found "
        f"{end:.6g} tokens, where run {quoted(first.run)} was evaluated up to "
        f"{first.tokens[-1]:.6g}; give a larger --until, or a smaller --context."
    )


def _observed(contexts: Sequence[Trajectory]) -> pa.Table:
    """The contexts as `schemas.ACCURACIES`."""
    owner = pa.array(np.repeat(np.arange(len(contexts)), [len(context) for context in contexts]))
    attribute = {"step": "steps", "value": "values", "stderr": "stderrs"}
    columns = []
    for field in ACCURACIES:
        values = [getattr(c, attribute.get(field.name, field.name)) for c in contexts]
        if isinstance(values[0], np.ndarray):
            cells = pa.array(np.concatenate(values), from_pandas=True)
        else:
            cells = pa.array(values, field.type).take(owner)
        columns.append(cells.cast(field.type))
    return pa.Table.from_arrays(columns, schema=ACCURACIES)


def _targets(query: Query) -> Trajectory:
    """The targets as a trajectory of unknown values."""
    unknown = np.full(len(query.target_steps), np.nan)
    return replace(
        query.context, steps=query.target_steps, tokens=query.target_tokens,
        flops=query.target_flops, values=unknown, stderrs=unknown, losses={}, signals={},
    )  # fmt: skip
