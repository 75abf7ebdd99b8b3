"""The folder of a report: answers, a backtest, or both, read again and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
from markupsafe import Markup
from typing_extensions import TypedDict

from neuneu.core.errors import UserError
from neuneu.data.schemas import ACCURACIES, FORECASTS, check_version, conform
from neuneu.decisions import options
from neuneu.decisions.answers import Answer
from neuneu.decisions.forecast import PROTOCOL
from neuneu.forecasters.warnings import Warning

QUESTIONS: Final = tuple(options.QUESTIONS)

FIGURES_FOLDER: Final = "figures"
FIGURE_NAMES: Final = ("trajectories", "horizon", "coverage", "losses", "above_chance")
"""Stems of a backtest's figures; `<name>-narrow.svg` is the layout for phones."""

_NAMES: Final = {"run": str, "task": str}
_END: Final = dict.fromkeys(("seen_tokens", "tokens", "q0.1", "q0.5", "q0.9"), float) | {
    "present": float | None
}
_DECISION: Final = {**_NAMES, **_END, "warnings": list[Warning]}
_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "forecast": {
        **_DECISION, **dict.fromkeys(("family", "suite", "metric"), str),
        **dict.fromkeys(("num_fewshot", "checkpoints"), int),
    },
    "rank": {**_DECISION, "rank": int, "best": float, "regret": float, "beats": dict[str, float]},
    "stop": {
        **_DECISION, "advice": str,
        **dict.fromkeys(("success", "gain", "gain_low", "gain_high", "remaining_tokens"), float),
    },
    "when": {
        **_DECISION, "score": float, "never": float, "places": list[float], "by": list[float],
    },
    "next-eval": {
        **_NAMES, "rank": int, "step": int,
        **dict.fromkeys(("tokens", "cost", "narrowing", "value"), float),
    },
}  # fmt: skip
"""Fields of a row that a report reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportFolder:
    """`answers` by question, in the order of `QUESTIONS`, each with at least one row.

    `forecasts` (`schemas.FORECASTS`) and `observed` (`schemas.ACCURACIES`) belong to the forecast;
    None where they are missing. `versions` of neuneu wrote the answers. `summary`, `figures` (name
    -> wide and narrow SVG) and `config` are those of a backtest; None or empty without one.
    """

    answers: Mapping[str, Answer]
    versions: tuple[str, ...]
    forecasts: pa.Table | None
    observed: pa.Table | None
    summary: Mapping[str, Any] | None
    figures: Mapping[str, Mapping[str, Markup]]
    config: str


def read_folder(folder: Path, questions: Sequence[str] = QUESTIONS) -> ReportFolder:
    """Reads the answers to `questions` in a folder, and its backtest.

    Raises:
        UserError: a file that neuneu did not write.
    """
    answers, versions = {}, set()
    for question in questions:
        path = folder / f"{question}.json"
        if path.exists():
            answers[question], version = _read_answer(path, question)
            versions.add(version)
    forecasts = observed = None
    if "forecast" in answers:
        forecasts = _read_table(folder / "forecasts.parquet", FORECASTS)
        observed = _read_table(folder / "observed.parquet", ACCURACIES)
    if forecasts is not None:
        # A backtest writes a file of the same name.
        forecasts = forecasts.filter(pc.equal(forecasts["protocol"], PROTOCOL))
    known = forecasts is not None and forecasts.num_rows and observed is not None
    config = folder / "config.yaml"
    return ReportFolder(
        answers=answers,
        versions=tuple(sorted(versions)),
        forecasts=forecasts if known else None,
        observed=observed if known else None,
        summary=_read_summary(folder / "summary.json", required=not answers),
        figures=dict(_read_figures(folder / FIGURES_FOLDER)),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
    )


def _read_answer(path: Path, question: str) -> tuple[Answer, str]:
    try:
        content = path.read_bytes()
        _record_of(question).validate_json(content, strict=True)
        record = json.loads(content)
    except pydantic.ValidationError as error:
        if b'"doubts"' in content:
            raise UserError(
                f"{path}: expected warnings with codes, found the `doubts` of an older neuneu; "
                f"run `neuneu {question} -o` again."
            ) from error
        found = [
            ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
            for problem in error.errors()
        ]
        more = [f"{len(found) - 3} more"] if len(found) > 3 else []
        raise _unexpected(path, question, "; ".join([*found[:3], *more])) from error
    except OSError as error:
        raise _unexpected(path, question, str(error)) from error
    answer = Answer(
        question=question,
        rows=record["rows"],
        notes=tuple(record["notes"]),
        settings=record["settings"],
    )
    return answer, str(record.get("neuneu"))


def _record_of(question: str) -> Any:
    """What a file has to hold: the fields that a report reads."""
    row = TypedDict("row", _FIELDS[question])  # type: ignore[misc]
    return pydantic.TypeAdapter(
        TypedDict(  # type: ignore[operator]
            "record",
            {
                "question": Literal[question],
                "rows": Annotated[list[row], pydantic.Field(min_length=1)],
                "notes": list[str],
                "settings": dict[str, Any],
            },
        )
    )


def _read_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unexpected(path, "forecast", str(error)) from error
    check_version(table.schema, name=str(path))
    return conform(table, schema, name=str(path))


def _read_summary(path: Path, *, required: bool) -> Mapping[str, Any] | None:
    if not required and not path.exists():
        return None
    try:
        summary: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected a backtest's summary ({error}); make one with `neuneu backtest`, or "
            "ask a question with -o."
        ) from error
    return summary


def _read_figures(folder: Path) -> Any:
    for name in FIGURE_NAMES:
        files = {"wide": folder / f"{name}.svg", "narrow": folder / f"{name}-narrow.svg"}
        if all(path.exists() for path in files.values()):
            # `plots` escaped every name in them.
            yield name, {k: Markup(path.read_text(encoding="utf-8")) for k, path in files.items()}


def _unexpected(path: Path, question: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected what `neuneu {question} -o` writes, found {found}; write it again."
    )
