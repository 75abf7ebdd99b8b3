"""The runs of a folder of answers: one name each, and what every question says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuneu.decisions.answers import Answer, row_warnings
from neuneu.decisions.selection import run_labels
from neuneu.forecasters.warnings import Warning
from neuneu.reports.answers.phrasing import explanation, findings, warning_sentence
from neuneu.reports.answers.tables import Row, labels_of_warnings


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """The part of the page about one run: its rows by question, in sentences.

    `findings` is what the answers say of it, `explanation` what that rests on, `warning` why its
    intervals may be off (empty without warnings), `tags` a label for each warning.
    """

    label: str
    rows: Mapping[str, tuple[Row, ...]]
    findings: list[str]
    explanation: list[str]
    warning: str
    warnings: tuple[Warning, ...]
    tags: tuple[str, ...]


def run_sections(answers: Mapping[str, Answer]) -> list[RunSection]:
    """Every run, in the order of the ranking, else in that of the answers."""
    found: dict[str, dict[str, tuple[Row, ...]]] = {}
    for question in ("rank", "forecast", "stop", "when"):
        rows = answers[question].rows if question in answers else []
        for label, row in zip(labels(question, rows), rows, strict=True):
            of_run = found.setdefault(label, {})
            of_run[question] = (*of_run.get(question, ()), row)
    return [_section(label, rows) for label, rows in found.items()]


def _section(label: str, rows: Mapping[str, tuple[Row, ...]]) -> RunSection:
    every = [row for part in rows.values() for row in part]
    return RunSection(
        label=label,
        rows=rows,
        findings=findings(rows),
        explanation=explanation(rows.get("forecast") or next(iter(rows.values()))),
        warning=warning_sentence(rows),
        warnings=row_warnings(*every),
        tags=labels_of_warnings(*every),
    )


def labels(question: str, rows: Sequence[Row]) -> list[str]:
    """The run of each row, with its suite where two share the name."""
    if question != "forecast":
        return [row["run"] for row in rows]
    names = [(row["family"], row["suite"], row["run"]) for row in rows]
    short = run_labels(sorted(set(names)))
    return [short[name] for name in names]


def task_labels(rows: Sequence[Row]) -> list[str]:
    """The task of each row of a forecast, with metric and shots where it has several."""
    kinds: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        kinds.setdefault(row["task"], set()).add((row["metric"], row["num_fewshot"]))
    return [_task_label(row, kinds[row["task"]]) for row in rows]


def _task_label(row: Row, kinds: set[tuple[str, int]]) -> str:
    parts = []
    if len({metric for metric, _ in kinds}) > 1:
        parts.append(row["metric"])
    if len({shots for _, shots in kinds}) > 1:
        parts.append(f"{row['num_fewshot']}-shot")
    return f"{row['task']} ({', '.join(parts)})" if parts else row["task"]
