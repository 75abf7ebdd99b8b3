"""The page of a backtest: who forecast best, by how much, and what to know before relying on it."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from markupsafe import Markup

from neuneu.core.formatting import with_unit
from neuneu.data.scales import PERCENT
from neuneu.reports.backtest.figures import leading_forecaster
from neuneu.reports.pages import render_page

_WORST_TASKS: Final = 12
FEW_RUNS: Final = 5
"""With fewer run groups than this the report warns that intervals say little."""

SEES: Final = {
    "own": "the run's own past only",
    "reference": "its own past and other, finished runs",
    "oracle-loss": "other, finished runs and the run's true future losses, which no user has",
}


def backtest_page(
    summary: Mapping[str, Any], figures: Mapping[str, Mapping[str, Markup]], config: str
) -> str:
    """The page of a backtest.

    Args:
        summary: its `summary.json`.
        figures: name -> wide and narrow SVG.
        config: its `config.yaml`, empty where there is none.
    """
    return render_page(
        "report.html.j2",
        filters={
            "points": partial(points, unit=unit_of(summary)),
            "percent": percent,
            "interval": partial(interval, unit=unit_of(summary)),
        },
        unit="points" if unit_of(summary) == PERCENT else unit_of(summary),
        summary=summary,
        lead=leading_forecaster(summary),
        headline=headline(summary),
        caveats=caveats(summary),
        worst=worst_tasks(summary),
        figures=figures,
        sees=SEES,
        has_intervals=any(e["overall"]["coverage_80"] for e in summary["forecasters"].values()),
        config=config,
    )


def unit_of(summary: Mapping[str, Any]) -> str:
    """The unit of the metrics that were scored."""
    return str(summary.get("unit", PERCENT))


def headline(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on what was forecast, who was best by how much, and what an oracle reached."""
    counts, paired = summary["counts"], summary["paired"]
    fraction = summary.get("context_fraction")
    start = "the context" if fraction is None else f"the first {100 * fraction:g} %"
    task = (
        f"From {start} of each run, {counts['trajectories']:,} trajectories of "
        f"{_runs(counts['run_groups'])} were forecast to the end."
    )
    lead = leading_forecaster(summary)
    scores = paired.get("mae", {})
    if not scores.get(lead):
        return [task, "No trajectory was forecast by all forecasters, so none can be compared."]
    sees = {name: entry["sees"] for name, entry in summary["forecasters"].items()}
    own, unit = scores[lead], unit_of(summary)
    units = "points" if unit == PERCENT else unit
    sentences = [
        task,
        f"{lead} has a mean absolute error of {with_unit(points(own, unit), units)}"
        f"{_between(own, unit)}.",
    ]
    rivals = [name for name in scores if name != lead and sees[name] != "oracle-loss"]
    if rivals and sees[lead] != "oracle-loss":
        rival = min(rivals, key=lambda name: scores[name]["value"])
        gain = paired["mae_minus"][rival][lead]
        sentences.append(
            f"That is {with_unit(points(gain, unit), units)} less than {rival}"
            f"{_between(gain, unit)}: "
            f"{_verdict(gain, paired['n_run_groups'])}."
        )
    for name in scores:
        if sees[name] == "oracle-loss" and name != lead:
            sentences.append(
                f"{name}, which sees the true future losses that no user has, reaches "
                f"{with_unit(points(scores[name], unit), units)}."
            )
    return sentences


def caveats(summary: Mapping[str, Any]) -> list[str]:
    """What to know before relying on the numbers."""
    notes = []
    groups = summary["counts"]["run_groups"]
    if groups < FEW_RUNS:
        notes.append(
            f"The intervals rest on only {_runs(groups)}: they show how similar these runs are, "
            "not how other runs would fare."
        )
    if summary["paired"].get("includes_seen_runs"):
        notes.append(
            "A forecaster was trained on every run scored here, so the comparison is not fair."
        )
    for name, entry in summary["forecasters"].items():
        if entry["trained_on"]:
            notes.append(
                f"{name} was trained on {len(entry['trained_on'])} of the runs in the table: "
                f"{', '.join(entry['trained_on'])}. Its row includes them; the headline leaves "
                "them out while any other run remains."
            )
        missing = entry["overall"]["n_trajectories"] - entry["overall"]["n_answered"]
        if missing:
            notes.append(
                f"{name} could not forecast {missing:,} of "
                f"{entry['overall']['n_trajectories']:,} trajectories; no mean includes them."
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


def points(estimate: Mapping[str, float | None] | None, unit: str = PERCENT) -> str:
    """A fraction in points, {value: 0.0312} -> `3.12`; a dash where there is none."""
    value = None if estimate is None else estimate["value"]
    return "–" if value is None else _digits(value, unit)


def _digits(value: float, unit: str) -> str:
    """Points of accuracy to two decimals, other units to four."""
    return f"{100 * value:.2f}" if unit == PERCENT else f"{value:.4f}"


def percent(estimate: Mapping[str, float | None] | None) -> str:
    """A fraction in percent, {value: 0.7551} -> `75.5 %`; a dash where there is none."""
    value = None if estimate is None else estimate["value"]
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Mapping[str, float | None] | None, unit: str = PERCENT) -> str:
    """The 95 % interval in points, `2.90–3.41`; empty where there is none."""
    low, high = (None, None) if estimate is None else (estimate["low"], estimate["high"])
    return "" if low is None or high is None else f"{_digits(low, unit)}–{_digits(high, unit)}"


def _verdict(gain: Mapping[str, float | None], n_run_groups: int) -> str:
    low = gain["low"]
    if low is None or n_run_groups < FEW_RUNS:
        return "too few runs to tell"
    return "a clear lead" if low > 0.0 else "not a clear lead"


def _between(estimate: Mapping[str, float | None], unit: str) -> str:
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return " (one run: no interval)"
    return f" (95 % interval {_digits(low, unit)} to {_digits(high, unit)})"


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"
