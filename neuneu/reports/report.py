"""The report: one self-contained HTML file, made from a backtest's folder alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.reports.figures import FIGURE_NAMES, FIGURES_FOLDER, leading_forecaster
from neuneu.reports.pages import render_page

REPORT_FILE: Final = "report.html"
_WORST_TASKS: Final = 12
FEW_RUNS: Final = 5
"""Fewer run groups than this make an interval that says little; the report warns."""

SEES_IN_WORDS: Final = {
    "own": "the run's own past only",
    "reference": "its own past and other, finished runs",
    "oracle-loss": "other, finished runs and the run's true future losses, which no user has",
}


def write_report(folder: Path, out: Path | None = None, *, title: str = "Backtest") -> Path:
    """Writes the HTML report of a backtest's folder.

    Args:
        folder: holds `summary.json`, and `config.yaml` and `figures/*.svg` where there are any.
        out: the file to write; None: `report.html` in the folder.
        title: the page's title.

    Returns:
        The file written.

    Raises:
        UserError: the folder holds no readable summary.
    """
    summary_path = folder / "summary.json"
    try:
        summary = json.loads(summary_path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{summary_path}: expected a backtest's summary ({error}); "
            "make one with `neuneu backtest`, or ask a question with -o."
        ) from error
    config_path = folder / "config.yaml"
    page = render_page(
        "report.html.j2",
        filters={"points": points, "percent": percent, "interval": interval},
        title=title,
        summary=summary,
        lead=leading_forecaster(summary),
        headline=headline(summary),
        caveats=caveats(summary),
        worst=worst_tasks(summary),
        figures=read_figures(folder),
        sees_in_words=SEES_IN_WORDS,
        banded=any(e["overall"]["coverage_80"] for e in summary["forecasters"].values()),
        config=config_path.read_text(encoding="utf-8") if config_path.exists() else "",
    )
    path = out or folder / REPORT_FILE
    write_text_atomic(path, page)
    return path


def headline(summary: Mapping[str, Any]) -> list[str]:
    """Sentences: what was forecast from how much, who won by how much, what an oracle reached."""
    counts, paired = summary["counts"], summary["paired"]
    fraction = summary.get("context_fraction")
    start = "the context" if fraction is None else f"the first {100 * fraction:g} %"
    task = (
        f"From {start} of each run, {counts['trajectories']:,} trajectories of "
        f"{counts['run_groups']} {_plural('run', counts['run_groups'])} were forecast to the end."
    )
    lead = leading_forecaster(summary)
    scores = paired.get("mae", {})
    if not scores.get(lead):
        return [task, "No trajectory was answered by every forecaster: nothing to compare."]
    sees = {name: entry["sees"] for name, entry in summary["forecasters"].items()}
    own = scores[lead]
    sentences = [
        task,
        f"{lead} missed the later accuracy by {points(own)} points on average{_between(own)}.",
    ]
    rivals = [name for name in scores if name != lead and sees[name] != "oracle-loss"]
    if rivals and sees[lead] != "oracle-loss":
        rival = min(rivals, key=lambda name: scores[name]["value"])
        gain = paired["mae_minus"][rival][lead]
        sentences.append(
            f"That is {points(gain)} points less than {rival}{_between(gain)}: "
            f"{_verdict(gain, paired['n_run_groups'])}."
        )
    for name in scores:
        if sees[name] == "oracle-loss" and name != lead:
            sentences.append(
                f"{name}, which is told the true future losses that no user has, "
                f"reached {points(scores[name])} points."
            )
    return sentences


def caveats(summary: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    notes = []
    groups = summary["counts"]["run_groups"]
    if groups < FEW_RUNS:
        notes.append(
            f"The intervals rest on {groups} {_plural('run', groups)} only: they show how "
            "alike these runs are, not how other runs would fare."
        )
    if summary["paired"].get("includes_seen_runs"):
        notes.append(
            "A forecaster was trained on every run scored here: the comparison is not fair."
        )
    for name, entry in summary["forecasters"].items():
        if entry["trained_on"]:
            notes.append(
                f"{name} was trained on {len(entry['trained_on'])} of the runs in the table: "
                f"{', '.join(entry['trained_on'])}. Its row counts them; the headline does not "
                "while any other run remains."
            )
        missing = entry["overall"]["n_trajectories"] - entry["overall"]["n_answered"]
        if missing:
            notes.append(
                f"{name} could not answer {missing:,} of "
                f"{entry['overall']['n_trajectories']:,} trajectories; they are in no mean."
            )
    return notes


def worst_tasks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks with the largest MAE of the leading forecaster, with every forecaster's MAE."""
    lead = leading_forecaster(summary)
    forecasters = summary["forecasters"]
    tasks = [
        (task, scores) for task, scores in forecasters[lead]["by_task"].items() if scores["mae"]
    ]
    tasks.sort(key=lambda item: -item[1]["mae"]["value"])
    return [
        {
            "task": task,
            "n": scores["n_answered"],
            "mae": {name: entry["by_task"][task]["mae"] for name, entry in forecasters.items()},
        }
        for task, scores in tasks[:_WORST_TASKS]
    ]


def points(estimate: Mapping[str, float | None] | None) -> str:
    """A fraction in points: {value: 0.0312} -> `3.12`; a dash where there is none."""
    value = None if estimate is None else estimate["value"]
    return "–" if value is None else f"{100 * value:.2f}"


def percent(estimate: Mapping[str, float | None] | None) -> str:
    """A fraction as per cent: {value: 0.7551} -> `75.5 %`; a dash where there is none."""
    value = None if estimate is None else estimate["value"]
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Mapping[str, float | None] | None) -> str:
    """The 95 % interval in points, `2.90–3.41`; empty where there is none."""
    low, high = (None, None) if estimate is None else (estimate["low"], estimate["high"])
    return "" if low is None or high is None else f"{100 * low:.2f}–{100 * high:.2f}"


def _verdict(gain: Mapping[str, float | None], n_run_groups: int) -> str:
    low = gain["low"]
    if low is None or n_run_groups < FEW_RUNS:
        return "too few runs to call it"
    return "a clear win" if low > 0.0 else "not a clear win"


def _between(estimate: Mapping[str, float | None]) -> str:
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return " (one run: no interval)"
    return f" (95 % interval {100 * low:.2f} to {100 * high:.2f})"


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"


def read_figures(folder: Path) -> dict[str, dict[str, Markup]]:
    """A backtest's figures: name -> wide and narrow SVG, as markup that `plots` escaped already."""
    found: dict[str, dict[str, Markup]] = {}
    for name in FIGURE_NAMES:
        files = {
            layout: folder / FIGURES_FOLDER / f"{name}{suffix}.svg"
            for layout, suffix in (("wide", ""), ("narrow", "-narrow"))
        }
        if all(path.exists() for path in files.values()):
            found[name] = {
                layout: Markup(path.read_text(encoding="utf-8")) for layout, path in files.items()
            }
    return found
