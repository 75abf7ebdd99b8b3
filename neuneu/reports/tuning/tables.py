"""A tuning's trials and learning curves as tables."""

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.results import STATUS_IN_WORDS, Objective, Trial

PARAMETER: Final = "config/"
"""What the columns of parameters start with, as in Ray's own tables."""


def trials_table(analysis: Analysis) -> pa.Table:
    """One row a trial.

    `trial` (Ray's id), `number`, `status` in words, `epochs` done, each objective at its best
    epoch (`<metric>_best`) and at the last (`<metric>_last`), `seconds`, `error` (its line that
    names the exception), and every parameter. Parameters that are no numbers are text.
    """
    trials = analysis.results.trials
    columns: dict[str, Any] = {
        "trial": pa.array([t.id for t in trials], pa.string()),
        "number": pa.array([t.number for t in trials], pa.int64()),
        "status": pa.array([STATUS_IN_WORDS[t.status] for t in trials], pa.string()),
        "epochs": pa.array([t.epochs for t in trials], pa.int64()),
    }
    for objective in analysis.results.plan.objectives:
        pairs = [best_and_last(trial, objective) for trial in trials]
        columns[f"{objective.metric}_best"] = pa.array([b for b, _ in pairs], pa.float64())
        columns[f"{objective.metric}_last"] = pa.array([e for _, e in pairs], pa.float64())
    columns["seconds"] = pa.array([t.seconds for t in trials], pa.float64())
    columns["error"] = pa.array([t.error or None for t in trials], pa.string())
    for key in parameter_keys(trials, analysis):
        columns[PARAMETER + key] = _column([t.parameters.get(key) for t in trials])
    return pa.table(columns)


def curves_table(analysis: Analysis) -> pa.Table:
    """One row a report: `trial`, `epoch`, `step` and every metric that any trial reported."""
    rows = [(trial.id, report) for trial in analysis.results.trials for report in trial.reports]
    metrics = sorted({name for _, report in rows for name in report.metrics})
    columns: dict[str, Any] = {
        "trial": pa.array([trial for trial, _ in rows], pa.string()),
        "epoch": pa.array([report.epoch for _, report in rows], pa.int64()),
        "step": pa.array([report.step for _, report in rows], pa.int64()),
    }
    for name in metrics:
        columns[name] = pa.array([report.metrics.get(name) for _, report in rows], pa.float64())
    return pa.table(columns)


def best_and_last(trial: Trial, objective: Objective) -> tuple[float | None, float | None]:
    """An objective at its best epoch and at the trial's last one."""
    values = [r.metrics[objective.metric] for r in trial.reports if objective.metric in r.metrics]
    return (
        min(values, key=objective.loss, default=None),
        trial.value(objective.metric, trial.epochs),
    )


def parameter_keys(trials: Sequence[Trial], analysis: Analysis) -> list[str]:
    """Keys of the space in its order, then others that trials have."""
    space = [dimension.key for dimension in analysis.results.plan.space]
    return list(dict.fromkeys([*space, *(key for trial in trials for key in trial.parameters)]))


def _column(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.int64())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else _text(v) for v in values], pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
