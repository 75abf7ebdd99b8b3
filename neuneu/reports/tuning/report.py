"""The report of a tuning: one self-contained HTML file, tables of its trials, its numbers."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.csv
import pyarrow.parquet
from markupsafe import Markup

from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.reports.pages import render_page
from neuneu.reports.tuning.analysis import Analysis, Scored, analyse
from neuneu.reports.tuning.export import export_best
from neuneu.reports.tuning.results import STATUS_IN_WORDS, Trial, read_results
from neuneu.reports.tuning.tables import best_and_last, curves_table, parameter_keys, trials_table
from neuneu.reports.tuning.words import (
    caveats,
    duration,
    findings,
    labels,
    number,
    parameter,
    verdict,
)

REPORT_FILE: Final = "report.html"
TRIALS_CSV: Final = "trials.csv"
TRIALS_PARQUET: Final = "trials.parquet"
CURVES_PARQUET: Final = "curves.parquet"
OUTPUT_OF_S3: Final = "tune-report"

_BEST_SHOWN: Final = 8


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """What was found and the addresses of what was written; `export` is the best's config."""

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
    """Analyses a tuning and writes its report, its tables and, if asked, the best config.

    Args:
        address: the folder of a tuning, local or s3://bucket/folder.
        output: where the report goes; None: the same folder, or `tune-report` for one on S3.
        export: file for the best trial's training config.
        objective: the objective that leads; None: the first of the tuning.

    Raises:
        UserError: no experiment, no such objective, or nothing to export.
        StorageError: S3 failed although retried.
    """
    analysis = analyse(read_results(address).led_by(objective))
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
        "name": analysis.results.plan.name,
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


def render(analysis: Analysis) -> str:
    """The page, which loads nothing."""
    from neuneu.reports.tuning.plots import draw_figures

    plan, trials = analysis.results.plan, analysis.results.trials
    keys = parameter_keys(trials, analysis)
    return render_page(
        "tune_report.html.j2",
        filters={"number": number, "parameter": parameter, "duration": duration},
        analysis=analysis,
        plan=plan,
        trials=trials,
        findings=findings(analysis),
        caveats=caveats(analysis),
        verdict=verdict(analysis) if analysis.reruns else "",
        in_words=STATUS_IN_WORDS,
        keys=keys,
        labels=labels(keys),
        values={trial.id: _values(trial, analysis) for trial in trials},
        top={o.metric: _top(analysis, o.metric) for o in plan.objectives},
        figures={
            name: {layout: Markup(svg) for layout, svg in layouts.items()}
            for name, layouts in draw_figures(analysis).items()
        },
    )


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
    """The best few trials by a metric, and the defaults wherever they are."""
    top = list(analysis.ranked[metric][:_BEST_SHOWN])
    default = analysis.default
    if default is not None and metric in default.values and default not in top:
        top.append(default)
    return top


def _values(trial: Trial, analysis: Analysis) -> Mapping[str, tuple[float | None, float | None]]:
    return {o.metric: best_and_last(trial, o) for o in analysis.results.plan.objectives}


def _entry(scored: Scored) -> dict[str, Any]:
    return {
        "trial": scored.trial.id,
        "number": scored.trial.number,
        "status": scored.trial.status,
        "epoch": scored.epoch,
        **scored.values,
        "parameters": dict(scored.trial.parameters),
    }
