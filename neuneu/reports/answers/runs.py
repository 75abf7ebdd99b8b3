"""The runs of a folder of answers: one name each, and what every question says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuneu.decisions.answers import row_warnings
from neuneu.decisions.selection import run_labels
from neuneu.forecasters.warnings import Warning
from neuneu.reports.answers.folder import AnswerFolder
from neuneu.reports.answers.tables import tags
from neuneu.reports.answers.words import Row, distrust, grounds, said


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """`rows` of the run by question."""

    label: str
    rows: Mapping[str, tuple[Row, ...]]

    @property
    def words(self) -> list[str]:
        """Sentences on what is said of it."""
        return said(self.rows)

    @property
    def grounds(self) -> list[str]:
        """Sentences on what that rests on."""
        return grounds(self.rows.get("forecast") or next(iter(self.rows.values())))

    @property
    def distrust(self) -> str:
        """Where not to trust it; empty where there are no warnings."""
        return distrust(self.rows)

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """The warnings of its rows, each once."""
        return row_warnings(*(row for rows in self.rows.values() for row in rows))

    @property
    def tags(self) -> list[str]:
        """The label of each warning, each once."""
        return list(tags(*(row for rows in self.rows.values() for row in rows)))


def run_pages(found: AnswerFolder) -> list[RunPage]:
    """Every run, in the order of the ranking, else in that of the answers."""
    rows: dict[str, dict[str, list[Row]]] = {}
    for question in ("rank", "forecast", "stop", "when"):
        if question in found.answers:
            answer_rows = found.answers[question].rows
            for label, row in zip(labels(question, answer_rows), answer_rows, strict=True):
                rows.setdefault(label, {}).setdefault(question, []).append(row)
    return [
        RunPage(label=label, rows={question: tuple(of) for question, of in by.items()})
        for label, by in rows.items()
    ]


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
