"""Answers that questions wrote to a folder with `-o`, read again and checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuneu.core.errors import UserError
from neuneu.data.schemas import ACCURACIES, FORECASTS, check_version, conform
from neuneu.decisions.answers import Answer
from neuneu.decisions.forecast import PROTOCOL

QUESTIONS: Final = ("forecast", "rank", "stop", "when", "next-eval")

_BAND: Final = ("q0.1", "q0.5", "q0.9")
_NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "forecast": ("num_fewshot", "checkpoints", "present", "seen_tokens", "tokens", *_BAND),
    "rank": ("rank", "present", "seen_tokens", "tokens", "best", "regret", *_BAND),
    "stop": (
        "present", "seen_tokens", "tokens", "success", "gain", "gain_low", "gain_high",
        "remaining_tokens", *_BAND,
    ),
    "when": ("present", "seen_tokens", "tokens", "score", "never", *_BAND),
    "next-eval": ("rank", "step", "tokens", "cost", "narrowing", "value"),
}  # fmt: skip
_REST: Final[Mapping[str, Mapping[str, type]]] = {
    "forecast": {"family": str, "suite": str, "metric": str, "warnings": list},
    "rank": {"beats": dict, "warnings": list},
    "stop": {"advice": str, "warnings": list},
    "when": {"places": list, "by": list, "warnings": list},
    "next-eval": {},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerFolder:
    """`answers` by question, in the order of `QUESTIONS`, each with at least one row.

    `forecasts` (`schemas.FORECASTS`) and `observed` (`schemas.ACCURACIES`) belong to the forecast;
    None where they are not there any more. `versions` of neuneu wrote the answers.
    """

    answers: Mapping[str, Answer]
    versions: tuple[str, ...]
    forecasts: pa.Table | None
    observed: pa.Table | None


def has_answers(folder: Path) -> bool:
    """Whether a question wrote its answer there."""
    return any((folder / f"{question}.json").exists() for question in QUESTIONS)


def read_answers(folder: Path) -> AnswerFolder:
    """Every answer of a folder.

    Raises:
        UserError: a file that a question did not write.
    """
    answers, versions = {}, set()
    for question in QUESTIONS:
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
    return AnswerFolder(
        answers=answers,
        versions=tuple(sorted(versions)),
        forecasts=forecasts if known else None,
        observed=observed if known else None,
    )


def _read_answer(path: Path, question: str) -> tuple[Answer, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "doubts" in record:
            raise UserError(
                f"{path}: expected warnings with codes, found the `doubts` of an older neuneu; "
                f"run `neuneu {question} -o` again."
            )
        answer = Answer(
            question=record["question"],
            rows=record["rows"],
            notes=tuple(record["notes"]),
            settings=record["settings"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unexpected(path, question, f"{type(error).__name__}: {error}") from error
    if answer.question != question or not answer.rows:
        raise _unexpected(path, question, f"{len(answer.rows)} rows of {answer.question!r}")
    for number, row in enumerate(answer.rows):
        if problem := _problem(row, question):
            raise _unexpected(path, question, f"row {number} {problem}")
    return answer, str(record.get("neuneu"))


def _problem(row: Any, question: str) -> str:
    """What is wrong with a row; empty where nothing is."""
    if not isinstance(row, dict):
        return "that is no object"
    kinds: dict[str, type | tuple[type, ...]] = {"run": str, "task": str, **_REST[question]}
    kinds |= dict.fromkeys(_NUMBERS[question], (int, float))
    wrong = [key for key, kind in kinds.items() if not isinstance(row.get(key), kind)]
    if not all(
        isinstance(w, dict) and w.keys() == {"code", "text"} for w in row.get("warnings", ())
    ):
        wrong.append("warnings")
    return f"without a usable {', '.join(wrong)}" if wrong else ""


def _read_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _unexpected(path, "forecast", str(error)) from error
    check_version(table.schema, name=str(path))
    return conform(table, schema, name=str(path))


def _unexpected(path: Path, question: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected what `neuneu {question} -o` writes, found {found}; write it again."
    )
