"""Answers in the terminal: a table, notes and warnings."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from neuneu.core.formatting import difference, percent, points, tokens
from neuneu.decisions.answers import Answer

LIMIT: Final = 40
"""So many rows are shown."""

Cell = Callable[[Mapping[str, Any]], str]


def _end(row: Mapping[str, Any]) -> str:
    width = row["q0.9"] - row["q0.1"]
    middle = points(row["q0.5"], width)
    if row.get("finished"):
        return f"{middle} (scored)"
    return f"{middle} ({points(row['q0.1'], width)} to {points(row['q0.9'], width)})"


def _gain(row: Mapping[str, Any]) -> str:
    width = row["gain_high"] - row["gain_low"]
    low, high = difference(row["gain_low"], width), difference(row["gain_high"], width)
    return f"{difference(row['gain'], width)} ({low} to {high})"


def _time(row: Mapping[str, Any], level: str) -> str:
    return "beyond the end" if row[level] is None else tokens(row[level])


_NOW: Final[tuple[str, Cell]] = ("now", lambda row: points(row["present"], 0.0))
_AT: Final[tuple[str, Cell]] = ("at tokens", lambda row: tokens(row["tokens"]))
_END: Final[tuple[str, Cell]] = ("at the end (80 % band)", _end)
_RUN: Final[tuple[str, Cell]] = ("run", lambda row: str(row["run"]))

COLUMNS: Final[dict[str, tuple[str, tuple[tuple[str, Cell], ...]]]] = {
    "forecast": (
        "Forecast accuracy, %",
        (_RUN, ("task", lambda row: row["task"]), ("metric", lambda row: row["metric"]), _NOW, _AT,
        _END),
    ),
    "rank": (
        "Which run will be best, %",
        (("", lambda row: str(row["rank"])), _RUN, _NOW, _END,
         ("is the best", lambda row: percent(row["best"])),
         ("choosing it loses", lambda row: f"{100 * row['regret']:.1f}")),
    ),
    "stop": (
        "Should it go on?",
        (_RUN, _NOW, _END, ("goal", lambda row: _goal(row["goal"])),
         ("reaches it", lambda row: percent(row["success"])), ("the rest adds", _gain),
         ("tokens left", lambda row: tokens(row["remaining_tokens"])),
         ("advice", lambda row: row["advice"])),
    ),
    "when": (
        "When will it be reached?",
        (_RUN, _NOW, ("score", lambda row: f"{100 * row['score']:g}"),
         ("reached", lambda row: "-" if row["reached"] is None else tokens(row["reached"])),
         ("10 % by", lambda row: _time(row, "t0.1")),
         ("even odds by", lambda row: _time(row, "t0.5")),
         ("90 % by", lambda row: _time(row, "t0.9")),
         ("not by the end", lambda row: "-" if row["reached"] else percent(row["never"]))),
    ),
    "next-eval": (
        "What to evaluate next",
        (("", lambda row: str(row["rank"])), _RUN, ("task", lambda row: row["task"]),
         ("step", lambda row: f"{row['step']:,}"), ("at tokens", lambda row: tokens(row["tokens"])),
         ("cost", lambda row: f"{row['cost']:.2g}"),
         ("final known better by", lambda row: percent(row["narrowing"])),
         ("choice gains", lambda row: f"{100 * row['value']:.2f}")),
    ),
}  # fmt: skip
TEXT: Final = frozenset({"run", "task", "metric", "advice"})
"""Columns that hold words."""


def _goal(goal: float | str) -> str:
    return f"{100 * goal:g}" if isinstance(goal, float) else str(goal)


def show(answer: Answer) -> None:
    """Prints an answer: at most `LIMIT` rows, then notes and warnings."""
    title, columns = COLUMNS[answer.question]
    table = Table(title=title)
    for name, _ in columns:
        table.add_column(name, justify="left" if name in TEXT else "right", overflow="fold")
    for row in answer.rows[:LIMIT]:
        table.add_row(*(cell(row) for _, cell in columns))
    # Names are the user's: neither markup nor emoji codes.
    console = Console(markup=False, emoji=False)
    console.print(table)
    if len(answer.rows) > LIMIT:
        console.print(f"... and {len(answer.rows) - LIMIT} more; -o or --json has all.")
    if answer.question == "rank":
        _show_pairs(answer, console)
    _show_grounds(answer, console)
    for note in answer.notes:
        console.print(f"- {note}")


def _show_pairs(answer: Answer, console: Console) -> None:
    rows = answer.rows[:8]
    table = Table(title="Probability that the row scores higher than the column")
    table.add_column("run")
    for row in rows:
        table.add_column(row["run"], justify="right", overflow="fold")
    for row in rows:
        cells = [percent(row["beats"][o["run"]]) if o is not row else "" for o in rows]
        table.add_row(row["run"], *cells)
    console.print(table)


def _show_grounds(answer: Answer, console: Console) -> None:
    known = [row["calibrated_on"] for row in answer.rows if row.get("calibrated_on")]
    if known:
        console.print(f"- bands are calibrated on at least {min(known)} held-out runs a group")
    for warning in answer.warnings:
        console.print(f"- warning: {warning.text}; intervals may be off")
    for row in answer.rows[:LIMIT]:
        if "baselines" not in row or row.get("finished"):
            continue
        names = _names(row, "compared_with") or "no run"
        left_out = _names(row, "left_out")
        but = f"; left out {left_out}" if left_out else ""
        rules = ", ".join(
            f"{name} {points(value, 0.0)}" for name, value in row["baselines"].items() if value
        )
        what = f"{row['run']}, {row['task']}"
        console.print(f"- {what}: compared with {names}{but}; {rules}")


def _names(row: Mapping[str, Any], column: str) -> str:
    """The runs that a row names, and how many more there are."""
    named = row.get(column, [])
    more = row.get(f"n_{column}", 0) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
