"""The report of a search: one HTML file, tables of its trials, and the best training config."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml
from markupsafe import Markup

from neuneu.core.config import build_config
from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.files import write_text_atomic
from neuneu.core.storage import Folder
from neuneu.reports.pages import render_page
from neuneu.reports.tuning.analysis import Analysis, Scored, analyse
from neuneu.reports.tuning.figures import draw_figures
from neuneu.reports.tuning.phrasing import (
    caveats,
    duration,
    findings,
    number,
    parameter,
    verdict,
)
from neuneu.reports.tuning.study import labels
from neuneu.training.tuning.experiment import STATUS_LABELS, Trial, read_experiment
from neuneu.training.tuning.space import lay_over

REPORT_FILE: Final = "report.html"
TRIALS_CSV: Final = "trials.csv"
TRIALS_PARQUET: Final = "trials.parquet"
CURVES_PARQUET: Final = "curves.parquet"
OUTPUT_OF_S3: Final = "tune-report"
TRAINED: Final = "runs/tuned"
"""The output of the exported config where the search's base has none."""

PARAMETER: Final = "config/"
"""Prefix of the columns of parameters, as in Ray's own tables."""

_BEST_SHOWN: Final = 8


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """What was found and where it was written; `export` is the config of the best trial."""

    analysis: Analysis
    report: str
    trials: str
    curves: str
    export: Path | None = None


def write_tune_report(
    address: str,
    *,
    output: str | None = None,
    export: Path | None = None,
    objective: str | None = None,
) -> TuneReport:
    """Analyses a search and writes its report, its tables and, on request, the best config.

    Args:
        address: folder of the search, local or s3://bucket/folder.
        output: folder of the report; None: that of the search, or `tune-report` for one on S3.
        export: file for the training config of the best trial.
        objective: metric to rank by; None: the first objective of the search.

    Raises:
        UserError: no search, no such objective, nothing to export, or a package is missing.
        StorageError: S3 failed despite retries.
    """
    require("a tuning report", "jinja2", "matplotlib", "optuna", "sklearn", extra="tune,analysis")
    analysis = analyse(read_experiment(address).led_by(objective))
    source = Folder(address)
    out = Folder(output or (source if source.is_local else OUTPUT_OF_S3))
    try:
        for name, content in _files(analysis).items():
            out.write(name, content)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out}: expected a folder to write to, found a file.") from error
    if export is not None:
        export_best(analysis, export)
    return TuneReport(
        analysis=analysis,
        report=f"{out}/{REPORT_FILE}",
        trials=f"{out}/{TRIALS_PARQUET}",
        curves=f"{out}/{CURVES_PARQUET}",
        export=export,
    )


def summary(analysis: Analysis) -> dict[str, Any]:
    """The numbers of an analysis as plain JSON types."""
    cost = analysis.cost
    importance = analysis.importance
    return {
        "name": analysis.experiment.plan.name,
        "findings": findings(analysis),
        "caveats": caveats(analysis),
        "counts": dict(analysis.counts),
        "seconds": cost.seconds,
        "stopped_seconds": cost.stopped_seconds,
        "seconds_to_the_end": cost.to_the_end,
        "best": {metric: _entry(ranked[0]) for metric, ranked in analysis.ranked.items() if ranked},
        "default": None if analysis.default is None else _entry(analysis.default),
        "front": [_entry(scored) for scored in analysis.front],
        "compared_epoch": None if analysis.compared is None else analysis.compared.epoch,
        "importance": dict(importance.shares),
        "importance_missing": importance.missing or None,
        "reruns": [
            {
                "trial": rerun.trial.id, "epoch": rerun.epoch, "value": rerun.value,
                "rank": rerun.rank, "of": rerun.of, "final": rerun.final,
                "final_rank": rerun.final_rank,
            }
            for rerun in analysis.reruns
        ],
    }  # fmt: skip


def export_best(analysis: Analysis, path: Path) -> dict[str, Any]:
    """Writes the training config of the best trial, for `neuneu train --config`.

    The best is by the first objective and among finished trials, unless none finished.

    Returns:
        The config.

    Raises:
        UserError: no trial has a value, the result is no training config, or the file cannot be
            written.
    """
    best, main, plan = analysis.best, analysis.main, analysis.experiment.plan
    if best is None:
        raise UserError(
            f"{analysis.experiment.folder}: expected a trial with a {main.label}, found none; "
            "there is nothing to export yet."
        )
    from neuneu.training.config import TrainConfig

    searched = {p.key for p in plan.space}  # other parameters are the search's own
    found = {k: value for k, value in best.trial.parameters.items() if k in searched}
    config = lay_over(plan.base, found)
    config["output"] = config.get("output") or TRAINED
    build_config(TrainConfig, config)
    ended = STATUS_LABELS[best.trial.status]
    head = (
        f"# Trial {best.trial.number} ({best.trial.id}, {ended}) of the search {plan.name!r}:\n"
        f"# {main.label} {best.values[main.metric]:.6g} at epoch {best.epoch}.\n"
    )
    try:
        write_text_atomic(path, head + yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise UserError(f"--export {path}: cannot be written ({error.strerror}).") from error
    return config


def render(analysis: Analysis) -> str:
    """The page, which loads nothing."""
    plan, trials = analysis.experiment.plan, analysis.experiment.trials
    keys = _parameter_keys(analysis)
    return render_page(
        "tune_report.html.j2",
        filters={"number": number, "parameter": parameter, "duration": duration},
        analysis=analysis,
        plan=plan,
        trials=trials,
        findings=findings(analysis),
        caveats=caveats(analysis),
        verdict=verdict(analysis) if analysis.reruns else "",
        status_labels=STATUS_LABELS,
        keys=keys,
        labels=labels(keys),
        values={
            trial.id: {o.metric: _best_and_last(trial, o.metric) for o in plan.objectives}
            for trial in trials
        },
        top={o.metric: _top(analysis, o.metric) for o in plan.objectives},
        figures={
            name: {layout: Markup(svg) for layout, svg in layouts.items()}
            for name, layouts in draw_figures(analysis).items()
        },
    )


def trials_table(analysis: Analysis) -> pa.Table:
    """One row per trial.

    `trial` (Ray's id), `number`, `status`, `epochs`, each objective at its best epoch
    (`<metric>_best`) and at the last (`<metric>_last`), `seconds`, `error` (the line that names the
    exception), and every parameter. Parameters that are not numbers are text.
    """
    trials = analysis.experiment.trials
    columns: dict[str, Any] = {
        "trial": pa.array([t.id for t in trials], pa.string()),
        "number": pa.array([t.number for t in trials], pa.int64()),
        "status": pa.array([STATUS_LABELS[t.status] for t in trials], pa.string()),
        "epochs": pa.array([t.epochs for t in trials], pa.int64()),
    }
    for objective in analysis.experiment.plan.objectives:
        pairs = [_best_and_last(trial, objective.metric) for trial in trials]
        columns[f"{objective.metric}_best"] = pa.array([b for b, _ in pairs], pa.float64())
        columns[f"{objective.metric}_last"] = pa.array([e for _, e in pairs], pa.float64())
    columns["seconds"] = pa.array([t.seconds for t in trials], pa.float64())
    columns["error"] = pa.array([t.error or None for t in trials], pa.string())
    for key in _parameter_keys(analysis):
        columns[PARAMETER + key] = _column([t.parameters.get(key) for t in trials])
    return pa.table(columns)


def curves_table(analysis: Analysis) -> pa.Table:
    """One row per report: `trial`, `epoch`, `step` and every metric that any trial reported."""
    rows = [(trial.id, report) for trial in analysis.experiment.trials for report in trial.reports]
    metrics = sorted({name for _, report in rows for name in report.metrics})
    columns: dict[str, Any] = {
        "trial": pa.array([trial for trial, _ in rows], pa.string()),
        "epoch": pa.array([report.epoch for _, report in rows], pa.int64()),
        "step": pa.array([report.step for _, report in rows], pa.int64()),
    }
    for name in metrics:
        columns[name] = pa.array([report.metrics.get(name) for _, report in rows], pa.float64())
    return pa.table(columns)


def _files(analysis: Analysis) -> dict[str, bytes]:
    trials = trials_table(analysis)
    text, rows, reports = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.csv.write_csv(trials, text)
    pyarrow.parquet.write_table(trials, rows)
    pyarrow.parquet.write_table(curves_table(analysis), reports)
    return {
        TRIALS_CSV: text.getvalue(),
        TRIALS_PARQUET: rows.getvalue(),
        CURVES_PARQUET: reports.getvalue(),
        REPORT_FILE: render(analysis).encode(),
    }


def _top(analysis: Analysis, metric: str) -> list[Scored]:
    """The best few trials by a metric, and the defaults wherever they rank."""
    top = list(analysis.ranked[metric][:_BEST_SHOWN])
    default = analysis.default
    if default is not None and metric in default.values and default not in top:
        top.append(default)
    return top


def _best_and_last(trial: Trial, metric: str) -> tuple[float | None, float | None]:
    """A metric at its best epoch and at the last."""
    values = (r.metrics[metric] for r in trial.reports if metric in r.metrics)
    return min(values, default=None), trial.value(metric, trial.epochs)


def _parameter_keys(analysis: Analysis) -> list[str]:
    """Keys of the space in its order, then others that trials have."""
    space = [p.key for p in analysis.experiment.plan.space]
    others = [key for trial in analysis.experiment.trials for key in trial.parameters]
    return list(dict.fromkeys([*space, *others]))


def _column(values: Sequence[Any]) -> Any:
    """Numbers and booleans as such, everything else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} or kinds <= {int}:
        return pa.array(values, pa.bool_() if kinds == {bool} else pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
    return pa.array(texts, pa.string())


def _entry(scored: Scored) -> dict[str, Any]:
    return {
        "trial": scored.trial.id,
        "number": scored.trial.number,
        "status": scored.trial.status,
        "epoch": scored.epoch,
        **scored.values,
        "parameters": dict(scored.trial.parameters),
    }
