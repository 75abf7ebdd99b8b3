"""Columns of answers, declared once for the terminal and the page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuneu.core.formatting import change, percent, score, tokens
from neuneu.data.scales import PERCENT, scale_of
from neuneu.decisions.answers import merged, row_warnings
from neuneu.forecasters.warnings import WarningCode

Row = Mapping[str, Any]

TITLES: Final = {
    "rank": "Which run will be best?",
    "stop": "Should training continue?",
    "when": "When will the score be reached?",
    "next-eval": "What to evaluate next",
    "forecast": "Forecast accuracy",
    "check": "Forecasts of finished runs",
}
"""Title of each question, in the order of the page."""

WARNING_LABELS: Final[Mapping[WarningCode, str]] = {
    "unseen-family": "new family",
    "larger-model": "larger model",
    "few-checkpoints": "few checkpoints",
    "near-chance": "near chance",
    "take-off": "may take off",
    "uncalibrated": "not calibrated",
    "few-calibration-runs": "few runs",
}


@dataclass(frozen=True)
class Column:
    """One column: its heading, the field that it sorts by, and the text of a row's cell."""

    heading: str
    field: str
    render: Callable[[Row], str]
    is_text: bool = False


def unit_of(row: Row) -> str:
    """The unit of a row's scores."""
    return scale_of(str(row.get("metric", ""))).unit


def unit_label(rows: Iterable[Row]) -> str:
    """The unit of a table, as its title says it; empty where there is none."""
    units = sorted({unit_of(row) for row in rows})
    if len(units) > 1:
        return " (accuracies in %)" if PERCENT in units else ""
    return f" (in {units[0]})" if units and units[0] else ""


def labels_of_warnings(*rows: Row) -> tuple[str, ...]:
    """The label of each warning of the rows, each once; an unknown code is its own label."""
    return merged([WARNING_LABELS.get(w.code, w.code)] for w in row_warnings(*rows))


def _text(name: str) -> Column:
    return Column(name, name, lambda row: str(row[name]), is_text=True)


def _tokens(heading: str, field: str, missing: str = "-") -> Column:
    return Column(heading, field, lambda row: missing if row[field] is None else tokens(row[field]))


def _percent(heading: str, field: str) -> Column:
    return Column(heading, field, lambda row: percent(row[field]))


def _number(heading: str, field: str, form: str, factor: float = 1) -> Column:
    return Column(heading, field, lambda row: format(factor * row[field], form))


def _end(row: Row) -> str:
    width = row["q0.9"] - row["q0.1"]
    low, middle, high = (score(row[k], width, unit_of(row)) for k in ("q0.1", "q0.5", "q0.9"))
    return f"{middle} (final)" if row.get("finished") else f"{middle} ({low} to {high})"


def present(row: Row) -> str:
    """The score of a run so far."""
    return "not started" if row["present"] is None else score(row["present"], 0.0, unit_of(row))


def _gain(row: Row) -> str:
    width = row["gain_high"] - row["gain_low"]
    unit = unit_of(row)
    gain, low, high = (change(row[key], width, unit) for key in ("gain", "gain_low", "gain_high"))
    return f"{gain} ({low} to {high})"


def _goal(row: Row) -> str:
    return _plain(row, "goal") if isinstance(row["goal"], float) else str(row["goal"])


def _plain(row: Row, name: str) -> str:
    """A score that the user gave, with the digits given."""
    return f"{100 * row[name] if unit_of(row) == PERCENT else row[name]:g}"


def _scored(heading: str, field: str, form: str) -> Column:
    """An error or a gain: of accuracies in points, with a given format."""
    return Column(
        heading,
        field,
        lambda row: (
            format(100 * row[field], form) if unit_of(row) == PERCENT else f"{row[field]:.3g}"
        ),
    )


def _never(row: Row) -> str:
    return "-" if row["reached"] else percent(row["never"])


def _rule(row: Row) -> str:
    error = row["rule_error"]
    return f"{row['rule']} " + (f"{100 * error:.2f}" if unit_of(row) == PERCENT else f"{error:.3g}")


def _ratio(row: Row) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.2f}"


def _coverage(row: Row) -> str:
    found = [row[f"coverage_{share}"] for share in (50, 80, 90)]
    return "/".join("-" if value is None else f"{100 * value:.0f}" for value in found)


_RANK: Final = _number("#", "rank", "d")
_NOW: Final = Column("now", "present", present)
_END: Final = Column("at the end (80 % interval)", "q0.5", _end)

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "forecast": (
        _text("run"), _text("task"), _text("metric"), _NOW, _tokens("at tokens", "tokens"), _END,
    ),
    "rank": (
        _RANK, _text("run"), _NOW, _END, _percent("is best", "best"),
        _scored("expected regret", "regret", ".1f"),
    ),
    "stop": (
        _text("run"), _NOW, _END, Column("goal", "goal", _goal), _percent("reaches it", "success"),
        Column("gain", "gain", _gain), _tokens("tokens left", "remaining_tokens"), _text("advice"),
    ),
    "when": (
        _text("run"), _NOW, Column("score", "score", lambda row: _plain(row, "score")),
        _tokens("reached", "reached"),
        _tokens("10 % by", "t0.1", "beyond the end"), _tokens("50 % by", "t0.5", "beyond the end"),
        _tokens("90 % by", "t0.9", "beyond the end"), Column("not by the end", "never", _never),
    ),
    "next-eval": (
        _RANK, _text("run"), _text("task"), _number("step", "step", ",d"),
        _tokens("at tokens", "tokens"), _number("cost", "cost", ".2g"),
        _percent("cuts uncertainty by", "narrowing"),
        _scored("improves choice by", "value", ".2f"),
    ),
    "check": (
        _text("task"), _number("runs", "runs", ",d"), _number("traj.", "trajectories", ",d"),
        _scored("error", "error", ".2f"), Column("best simple rule", "rule_error", _rule),
        Column("ratio", "ratio", _ratio), Column("50/80/90 %", "coverage_80", _coverage),
        _scored("width", "width_80", ".1f"),
    ),
}  # fmt: skip
