"""Answers in the terminal: a table, notes and warnings."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from neuneu.core.formatting import percent, points, score
from neuneu.decisions.answers import Answer
from neuneu.reports.answers.tables import COLUMNS, TITLES, Row, unit_label, unit_of

LIMIT: Final = 40
"""Maximum number of rows to print."""

_PAIRS: Final = 8


def show(answer: Answer) -> None:
    """Prints an answer: at most `LIMIT` rows, then notes and warnings."""
    unit = "" if answer.question == "next-eval" else unit_label(answer.rows)
    table = Table(title=TITLES[answer.question] + unit)
    columns = COLUMNS[answer.question]
    for column in columns:
        justify = "left" if column.is_text else "right"
        table.add_column(column.heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in answer.rows[:LIMIT]:
        table.add_row(*(column.render(row) for column in columns))
    # Names are the user's: neither markup nor emoji codes.
    console = Console(markup=False, emoji=False)
    console.print(table)
    if len(answer.rows) > LIMIT:
        console.print(f"... and {len(answer.rows) - LIMIT} more; -o or --json has all.")
    if answer.question == "rank":
        _show_pairs(answer, console)
    _show_explanation(answer, console)
    for note in answer.notes:
        console.print(f"- {note}")


def _show_pairs(answer: Answer, console: Console) -> None:
    rows = answer.rows[:_PAIRS]
    table = Table(title="Probability that the row scores higher than the column")
    table.add_column("run")
    for row in rows:
        table.add_column(row["run"], justify="right", overflow="fold")
    for row in rows:
        cells = [percent(row["beats"][o["run"]]) if o is not row else "" for o in rows]
        table.add_row(row["run"], *cells)
    console.print(table)


def _show_explanation(answer: Answer, console: Console) -> None:
    known = [row["calibrated_on"] for row in answer.rows if row.get("calibrated_on")]
    if known:
        console.print(f"- intervals are calibrated on at least {min(known)} held-out runs")
    for warning in answer.warnings:
        console.print(f"- warning: {warning.text}; intervals may be off")
    for row in answer.rows[:LIMIT]:
        if "baselines" not in row or row.get("finished"):
            continue
        left_out = _names(row, "left_out")
        parts = [
            f"reference runs {_names(row, 'compared_with') or 'none'}",
            *([f"left out {left_out}"] if left_out else []),
            ", ".join(
                f"{name} {score(v, 0.0, unit_of(row))}"
                for name, v in row["baselines"].items()
                if v is not None
            ),
        ]
        if evidence := row.get("evidence"):
            parts.append(_evidence(evidence))
        if loss := row.get("loss"):
            without = score(loss["without"], 0.0, unit_of(row))
            it = "either" if evidence else "it"
            parts.append(f"reads {loss['name']}, without {it} {without}")
        console.print(f"- {row['run']}, {row['task']}: {'; '.join(parts)}")


def _evidence(evidence: Mapping[str, Any]) -> str:
    """What the items behind the accuracies say, and which of them will most likely change."""
    said, without = (points(evidence[name], 0.0) for name in ("items", "without"))
    text = f"items say {said}, weight {percent(evidence['weight'])}; without them {without}"
    flips = [
        f"{task} {doc} (right with {percent(chance)})" for task, doc, chance in evidence["flips"]
    ]
    return f"{text}; items likely to change: {', '.join(flips)}" if flips else text


def _names(row: Row, column: str) -> str:
    """The runs that a row names, and how many more there are."""
    named = row.get(column, [])
    more = row.get(f"n_{column}", 0) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
