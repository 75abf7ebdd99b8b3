"""Forecasts of unfinished runs from a table: what will each task score later?

Every unfinished run of the table is compared with the finished ones, and with those of a reference
table if one is given: on the same task they say what came next. Shapes: h targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from neuneu.core.errors import UserError
from neuneu.data.cells import quoted
from neuneu.data.quantiles import column
from neuneu.data.schemas import ACCURACIES
from neuneu.data.trajectories import FloatArray, TokenLossTable, Trajectory
from neuneu.decisions.answers import plain, plain_tokens
from neuneu.decisions.grounds import Grounds
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.horizon import Horizon, even_places, query_at, reached
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.table import check_answers, forecast_table, identity_columns

PROTOCOL: Final = "forecast"


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecasts:
    """Forecasts as `schemas.FORECASTS`, and what was seen as `schemas.ACCURACIES`.

    `queries` and `answers` (h, Q), query by query; `groups` names the calibration group of every
    target, None without a calibration.
    """

    table: pa.Table
    observed: pa.Table
    queries: list[Query]
    answers: list[FloatArray]
    groups: list[list[str]] | None


def make_forecasts(
    forecaster: CrossRunForecaster,
    trajectories: Sequence[Trajectory],
    others: Sequence[Trajectory],
    horizon: Horizon,
    token_losses: TokenLossTable | None = None,
) -> Forecasts:
    """Forecasts trajectories, compared with the finished ones and with those of other tables.

    Raises:
        UserError: more than one end, or no trajectory that can be forecast.
    """
    horizon.check()
    queries, truths = [], []
    done: list[tuple[Trajectory, float]] = []
    for trajectory in trajectories:
        seen, end = horizon.seen(trajectory), horizon.end(trajectory)
        if not len(seen) or end is None:
            continue
        if reached(float(seen.tokens[-1]), end):
            done.append((seen, end))
            continue
        places = even_places(float(seen.tokens[-1]), end, horizon.points)
        queries.append(query_at(seen, places, token_losses))
        truths.append(_unknown(queries[-1]))
    if not queries:
        raise UserError(_nothing_to_forecast(len(trajectories), done))
    forecaster.fit(horizon.references(trajectories, others))
    answers = forecaster.predict(queries)
    flat = check_answers(forecaster, answers, queries)
    common = identity_columns(queries, truths, PROTOCOL)
    groups = forecaster.calibration_groups(queries)
    if groups is not None:
        common["calibration_group"] = pa.array([name for names in groups for name in names])
    common["y"] = pa.nulls(len(flat), pa.float64())
    return Forecasts(
        table=forecast_table(forecaster, common, flat),
        observed=_observed([query.context for query in queries]),
        queries=queries,
        answers=answers,
        groups=groups,
    )


def _nothing_to_forecast(count: int, done: Sequence[tuple[Trajectory, float]]) -> str:
    if not done:
        return (
            f"nothing to forecast: none of {count} trajectories says how far it goes; give --until "
            "TOKENS beyond the last checkpoint, or a column planned_tokens."
        )
    first, end = min(done, key=lambda pair: float(pair[0].tokens[-1]))
    return (
        f"nothing to forecast: expected an end beyond the last checkpoint of a run, found "
        f"{end:.6g} tokens, where run {quoted(first.run)} was evaluated up to "
        f"{first.tokens[-1]:.6g}; give a larger --until, or take less as seen with --context."
    )


def forecast_rows(found: Forecasts, forecaster: CrossRunForecaster) -> list[dict[str, Any]]:
    """The end of each trajectory and what it rests on, as JSON types."""
    grounds = Grounds(forecaster)
    rows = []
    groups = found.groups or [[] for _ in found.queries]
    for query, answer, names in zip(found.queries, found.answers, groups, strict=True):
        context = query.context
        row: dict[str, Any] = {
            name: getattr(context, name)
            for name in ("family", "suite", "run", "num_fewshot", "task", "metric")
        }
        row |= {
            "checkpoints": len(context),
            "chance": None if context.chance is None else plain(context.chance),
            "present": plain(context.values[-1]),
            "seen_tokens": plain_tokens(context.tokens[-1]),
            "tokens": plain_tokens(query.target_tokens[-1]),
        }
        row |= {
            column(level): plain(value)
            for level, value in zip(forecaster.levels, answer[-1], strict=True)
        }
        rows.append(row | grounds.calibration([query], [names] if names else None))
    return rows


def _observed(contexts: Sequence[Trajectory]) -> pa.Table:
    """What was seen of each trajectory, as `schemas.ACCURACIES`."""
    counts = [len(context) for context in contexts]
    owner = pa.array(np.repeat(np.arange(len(contexts)), counts))
    columns = {}
    for field in ACCURACIES:
        if field.name in {"step", "tokens", "flops", "value", "stderr"}:
            name = {"step": "steps", "value": "values", "stderr": "stderrs"}.get(
                field.name, field.name
            )
            column = np.concatenate([getattr(c, name) for c in contexts])
            columns[field.name] = pa.array(column, from_pandas=True)
        else:
            values = pa.array([getattr(c, field.name) for c in contexts], field.type)
            columns[field.name] = values.take(owner)
    return pa.Table.from_arrays(
        [columns[field.name].cast(field.type) for field in ACCURACIES], schema=ACCURACIES
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
