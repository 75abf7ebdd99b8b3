"""The page of a folder of answers, whichever questions were asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuneu.core.formatting import percent, score
from neuneu.data.scales import PERCENT
from neuneu.decisions.answers import Answer, merged
from neuneu.reports.answers.curves import PageCurves, read_curves, rounded, row_key
from neuneu.reports.answers.phrasing import describe_group, headline
from neuneu.reports.answers.runs import RunSection, labels, run_sections, task_labels
from neuneu.reports.answers.tables import (
    COLUMNS,
    TITLES,
    Row,
    labels_of_warnings,
    unit_label,
    unit_of,
)
from neuneu.reports.backtest.page import headline as backtest_headline
from neuneu.reports.folder import ReportFolder
from neuneu.reports.pages import render_page

MAX_ROWS: Final = 2000
"""Maximum number of rows of a table, of trajectories, and of runs with a section of their own."""

MAX_RANKED: Final = 30
"""Maximum number of runs in the figure of the ranking."""

MAX_PAIRS: Final = 12
"""Maximum number of runs in the table of pairs."""

MAX_LINES: Final = 40
"""Maximum number of runs in the figure of when a score is reached."""

_SCRIPTS: Final = ("digits.js", "chart.js", "tables.js", "answers.js")


def answers_page(found: ReportFolder, *, backtest_report: str) -> str:
    """The page of the answers in a folder, with what a backtest there says.

    Args:
        found: has at least one answer.
        backtest_report: name of the backtest's own report beside it.
    """
    answers, runs = found.answers, run_sections(found.answers)
    ranked = answers["rank"].rows if "rank" in answers else []
    numbers = {run.label: number for number, run in enumerate(runs[:MAX_ROWS])}
    data, left_out = _page_data(found, numbers)
    return render_page(
        "answer_report.html.j2",
        styles=("style.css", "chart.css"),
        scripts=_SCRIPTS,
        filters={"percent": percent, "score": score, "warning_labels": labels_of_warnings},
        answers=answers,
        columns=COLUMNS,
        max_rows=MAX_ROWS,
        units={question: unit_label(answer.rows) for question, answer in answers.items()},
        rank_unit=unit_of(ranked[0]) if ranked else PERCENT,
        titles={question: title for question, title in TITLES.items() if question in answers},
        headlines={q: headline(answers[q]) for q in TITLES if q in answers},
        warnings=_warnings(runs),
        row_labels={q: labels(q, answer.rows[:MAX_ROWS]) for q, answer in answers.items()},
        ranking=ranked[:MAX_RANKED],
        scale=_scale(ranked[:MAX_RANKED]),
        pairs=ranked[:MAX_PAIRS],
        groups=_groups(answers),
        runs=runs[:MAX_ROWS],
        numbers=numbers,
        notes=merged([answer.notes for answer in answers.values()]),
        versions=found.versions,
        left_out=[*_left_out(answers, runs), *left_out],
        data=data,
        backtest=None if found.summary is None else backtest_headline(found.summary),
        figures=found.figures if found.summary is not None else {},
        backtest_report=backtest_report,
    )


def _warnings(runs: Sequence[RunSection]) -> list[str]:
    """Each warning once, with the number of runs that it is about."""
    often = Counter(warning.text for run in runs for warning in run.warnings)
    return [
        text if count == len(runs) else f"{text} ({count:,} of {len(runs):,} runs)"
        for text, count in often.most_common()
    ]


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """Accuracies at the left and the right end of the figure of a ranking."""
    found = [row[key] for row in rows for key in ("present", "q0.1", "q0.9")]
    values = [value for value in found if value is not None] or [0.0]
    pad = 0.03 * max(max(values) - min(values), 0.01)
    return min(values) - pad, max(values) + pad


def _unit_fields(row: Row) -> dict[str, Any]:
    """What the figures need of a metric that is not an accuracy: `u` unit, `l` lower is better."""
    unit = unit_of(row)
    lower = {"l": True} if row.get("higher_is_better") is False else {}
    return lower if unit == PERCENT else {"u": unit, **lower}


def _groups(answers: Mapping[str, Answer]) -> list[tuple[str, int, int]]:
    """(group, its held-out runs, rows that use it), the most used first."""
    used = Counter(
        (row["calibration_group"], row["calibrated_on"])
        for answer in answers.values()
        for row in answer.rows
        if row.get("calibrated_on")
    )
    ordered = sorted(used.items(), key=lambda item: (-item[1], item[0]))
    return [(describe_group(name), n_runs, count) for (name, n_runs), count in ordered]


def _left_out(answers: Mapping[str, Answer], runs: Sequence[RunSection]) -> list[str]:
    counts = {question: len(answer.rows) for question, answer in answers.items()}
    lines = [
        f"{question}: {n - MAX_ROWS:,} of {n:,} rows are not in this page; {question}.json has all."
        for question, n in counts.items()
        if n > MAX_ROWS
    ]
    if len(runs) > MAX_ROWS:
        lines.append(f"{len(runs) - MAX_ROWS:,} of {len(runs):,} runs have no section here.")
    for question, name, most in (
        ("rank", "the figure of the ranking", MAX_RANKED),
        ("rank", "the table of pairs", MAX_PAIRS),
        ("when", "the figure of when it is reached", MAX_LINES),
    ):
        if counts.get(question, 0) > most:
            lines.append(f"{name} has {most} of {counts[question]:,} runs.")
    return lines


def _page_data(found: ReportFolder, numbers: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """What the figures draw, as JSON types, and what was left out of it."""
    answers = found.answers
    rows = answers["forecast"].rows[:MAX_ROWS] if "forecast" in answers else []
    curves, left_out = {}, []
    if found.forecasts is not None and found.observed is not None:
        curves = read_curves(found.forecasts, found.observed)
    if rows and not curves:
        left_out.append("The trajectories of the forecast are missing from the folder.")
    packed = PageCurves(len(rows))
    tasks: dict[str, int] = {}
    drawn = [
        {
            "r": numbers[label], "t": tasks.setdefault(task, len(tasks)),
            "c": row.get("chance"), **_unit_fields(row), **packed.add(curves[row_key(row)]),
        }
        for row, label, task in zip(rows, labels("forecast", rows), task_labels(rows), strict=True)
        if row_key(row) in curves and label in numbers
    ]  # fmt: skip
    if packed.thinned:
        left_out.append(
            f"{packed.thinned:,} trajectories are drawn with at most {packed.seen_points} observed "
            f"and {packed.ahead_points} forecast points; the parquet files have all."
        )
    ranked = answers["rank"].rows[:MAX_RANKED] if "rank" in answers else []
    when = [r for r in (answers["when"].rows if "when" in answers else []) if r["places"]]
    return {
        "runs": list(numbers),
        "tasks": list(tasks),
        "curves": drawn,
        "beats": [[row["beats"].get(other["run"]) for other in ranked] for row in ranked],
        "when": [
            {
                "name": row["run"], "seen": row["seen_tokens"], "p": packed.grid(row["places"]),
                "by": rounded(row["by"]),
            }
            for row in when[:MAX_LINES]
        ],
        "grids": packed.grids,
    }, left_out  # fmt: skip
