"""Answers as tables of a page: the columns of the terminal, with what each cell is sorted by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuneu.decisions.answers import Answer, merged, row_warnings
from neuneu.reports.answers.text import COLUMNS, TEXT
from neuneu.reports.answers.words import tag

SORTED_BY: Final = {
    "": "rank",
    "run": "run",
    "task": "task",
    "metric": "metric",
    "now": "present",
    "at tokens": "tokens",
    "at the end (80 % band)": "q0.5",
    "is the best": "best",
    "choosing it loses": "regret",
    "goal": "goal",
    "reaches it": "success",
    "the rest adds": "gain",
    "tokens left": "remaining_tokens",
    "advice": "advice",
    "score": "score",
    "reached": "reached",
    "10 % by": "t0.1",
    "even odds by": "t0.5",
    "90 % by": "t0.9",
    "not by the end": "never",
    "step": "step",
    "cost": "cost",
    "final known better by": "narrowing",
    "choice gains": "value",
}
"""Heading -> the field of a row."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column: `name`, whether it holds words and not numbers."""

    name: str
    is_text: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`text` as shown and `value` as sorted, empty where it is unknown."""

    text: str
    value: str


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table of a page; `tags` holds, row by row, the labels of its warnings."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]
    tags: tuple[tuple[str, ...], ...]


def page_table(answer: Answer, *, limit: int) -> PageTable:
    """The first `limit` rows of an answer."""
    _, columns = COLUMNS[answer.question]
    rows = answer.rows[:limit]
    return PageTable(
        headings=tuple(Heading(name=name or "#", is_text=name in TEXT) for name, _ in columns),
        rows=tuple(
            tuple(
                Cell(text=show(row), value=_plain(row[SORTED_BY[name]])) for name, show in columns
            )
            for row in rows
        ),
        tags=tuple(tags(row) for row in rows),
    )


def tags(*rows: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of the rows' warnings, each once."""
    return merged([tag(warning)] for warning in row_warnings(*rows))


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
