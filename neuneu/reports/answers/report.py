"""The report of a folder of answers: one HTML file, whichever questions were asked."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuneu.core.files import write_text_atomic
from neuneu.core.formatting import percent, points
from neuneu.decisions.answers import Answer, merged
from neuneu.reports.answers.curves import CurveBook, read_curves, rounded, row_key
from neuneu.reports.answers.folder import AnswerFolder, read_answers
from neuneu.reports.answers.runs import RunPage, labels, run_pages, task_labels
from neuneu.reports.answers.tables import page_table
from neuneu.reports.answers.words import Row, group_in_words, headline
from neuneu.reports.pages import render_page
from neuneu.reports.report import REPORT_FILE, read_figures, write_report
from neuneu.reports.report import headline as backtest_headline

BACKTEST_REPORT: Final = "backtest.html"
"""Where a backtest's own report goes if answers lie in the same folder."""

MAX_ROWS: Final = 2000
"""Rows of a table, curves, and runs with a part of their own."""

MAX_RANKED: Final = 30
"""Runs in the figure of a ranking."""

MAX_PAIRS: Final = 12
"""Runs in the table of pairs."""

MAX_LINES: Final = 40
"""Runs in the figure of when a score is reached."""

_TITLES: Final = {
    "rank": "Which run will be best?",
    "stop": "Should it go on?",
    "when": "When will it be reached?",
    "next-eval": "What to evaluate next",
    "forecast": "What will be scored",
}
"""Of the parts, in their order."""

_SCRIPTS: Final = ("digits.js", "chart.js", "tables.js", "answers.js")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A run in the figure of a ranking; `low` to `now` in per cent of the figure's width."""

    label: str
    low: float
    middle: float
    high: float
    now: float
    best: float


def write_answer_report(folder: Path) -> Path:
    """Writes `report.html` from the answers in a folder, and what a backtest there tells.

    Args:
        folder: holds at least one `QUESTION.json`.

    Returns:
        The file written.

    Raises:
        UserError: a file that neuneu did not write.
    """
    found = read_answers(folder)
    told = None
    if (folder / "summary.json").exists():
        write_report(folder, folder / BACKTEST_REPORT)
        told = backtest_headline(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    path = folder / REPORT_FILE
    write_text_atomic(path, _page(found, told, {} if told is None else read_figures(folder)))
    return path


def _page(found: AnswerFolder, told: Sequence[str] | None, figures: Mapping[str, Any]) -> str:
    answers, runs = found.answers, run_pages(found)
    ranked = answers["rank"].rows if "rank" in answers else []
    numbers = {run.label: number for number, run in enumerate(runs[:MAX_ROWS])}
    data, left_out = _page_data(found, numbers)
    return render_page(
        "answer_report.html.j2",
        styles=("style.css", "chart.css"),
        scripts=_SCRIPTS,
        filters={"percent": percent},
        answers=answers,
        titles={question: title for question, title in _TITLES.items() if question in answers},
        headlines={q: headline(answers[q]) for q in _TITLES if q in answers},
        warnings=_warnings(runs),
        tables={q: page_table(answer, limit=MAX_ROWS) for q, answer in answers.items()},
        row_labels={q: labels(q, answer.rows[:MAX_ROWS]) for q, answer in answers.items()},
        ranking=_ranking(ranked[:MAX_RANKED]),
        scale=_scale(ranked[:MAX_RANKED]),
        pairs=ranked[:MAX_PAIRS],
        groups=_groups(answers),
        runs=runs[:MAX_ROWS],
        numbers=numbers,
        notes=merged([answer.notes for answer in answers.values()]),
        settings={question: _settings(answer) for question, answer in answers.items()},
        versions=found.versions,
        left_out=[*_left_out(answers, runs), *left_out],
        data=data,
        told=told,
        figures=figures,
        backtest_report=BACKTEST_REPORT,
    )


def _warnings(runs: Sequence[RunPage]) -> list[str]:
    """Each warning once, with the number of runs that it is about."""
    often = Counter(warning.text for run in runs for warning in run.warnings)
    return [
        text if count == len(runs) else f"{text} ({count:,} of {len(runs):,} runs)"
        for text, count in often.most_common()
    ]


def _ends(rows: Sequence[Row]) -> tuple[float, float]:
    values = [row[key] for row in rows for key in ("present", "q0.1", "q0.9")]
    low, high = min(values), max(values)
    pad = 0.03 * max(high - low, 0.01)
    return low - pad, high + pad


def _ranking(rows: Sequence[Row]) -> list[Ranked]:
    if not rows:
        return []
    low, high = _ends(rows)
    return [
        Ranked(
            label=row["run"],
            best=row["best"],
            **{
                name: round(100 * (row[key] - low) / (high - low), 2)
                for name, key in zip(
                    ("low", "middle", "high", "now"), ("q0.1", "q0.5", "q0.9", "present"),
                    strict=True,
                )
            },
        )
        for row in rows
    ]  # fmt: skip


def _scale(rows: Sequence[Row]) -> list[str]:
    """Accuracies at the left end, in the middle and at the right end of the ranking."""
    if not rows:
        return []
    low, high = _ends(rows)
    return [f"{points(value, high - low)} %" for value in (low, (low + high) / 2, high)]


def _groups(answers: Mapping[str, Answer]) -> list[tuple[str, int, int]]:
    """(group in words, held-out runs it rests on, rows that use it), the most used first."""
    used: dict[tuple[str, int], int] = {}
    for answer in answers.values():
        for row in answer.rows:
            if row.get("calibrated_on"):
                key = (row["calibration_group"], row["calibrated_on"])
                used[key] = used.get(key, 0) + 1
    ordered = sorted(used.items(), key=lambda item: (-item[1], item[0]))
    return [(group_in_words(name), n_runs, count) for (name, n_runs), count in ordered]


def _settings(answer: Answer) -> str:
    tasks = answer.settings.get("tasks", [])
    parts = [f"{key} = {value}" for key, value in answer.settings.items() if key != "tasks"]
    return "; ".join([*parts, *([f"tasks: {', '.join(tasks)}"] if tasks else [])])


def _left_out(answers: Mapping[str, Answer], runs: Sequence[RunPage]) -> list[str]:
    lines = []
    for question, answer in answers.items():
        if len(answer.rows) > MAX_ROWS:
            lines.append(
                f"{question}: {len(answer.rows) - MAX_ROWS:,} of {len(answer.rows):,} rows are "
                f"not in this page; {question}.json has all."
            )
    if len(runs) > MAX_ROWS:
        lines.append(f"{len(runs) - MAX_ROWS:,} of {len(runs):,} runs have no part of their own.")
    for question, name, most in (
        ("rank", "the figure of the ranking", MAX_RANKED),
        ("rank", "the table of pairs", MAX_PAIRS),
        ("when", "the figure of when it is reached", MAX_LINES),
    ):
        if question in answers and len(answers[question].rows) > most:
            lines.append(f"{name} has {most} of {len(answers[question].rows):,} runs.")
    return lines


def _page_data(found: AnswerFolder, numbers: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """What the figures draw, as JSON types, and what was left out of it."""
    answers = found.answers
    rows = answers["forecast"].rows[:MAX_ROWS] if "forecast" in answers else []
    curves = {}
    left_out = []
    if found.forecasts is not None and found.observed is not None:
        curves = read_curves(found.forecasts, found.observed)
    if rows and not curves:
        left_out.append("The curves of the forecast are not in the folder any more.")
    book = CurveBook(len(rows))
    tasks: dict[str, int] = {}
    drawn = [
        {
            "r": numbers[label], "t": tasks.setdefault(task, len(tasks)),
            "c": row.get("chance"), **book.add(curves[row_key(row)]),
        }
        for row, label, task in zip(rows, labels("forecast", rows), task_labels(rows), strict=True)
        if row_key(row) in curves and label in numbers
    ]  # fmt: skip
    if book.thinned:
        left_out.append(
            f"{book.thinned:,} curves are drawn with at most {book.seen_points} points seen and "
            f"{book.ahead_points} ahead; the parquet files have all."
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
                "name": row["run"], "seen": row["seen_tokens"], "p": book.grid(row["places"]),
                "by": rounded(row["by"]),
            }
            for row in when[:MAX_LINES]
        ],
        "grids": book.grids,
    }, left_out  # fmt: skip
