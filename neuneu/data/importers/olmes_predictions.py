"""Predictions of oe-eval (OLMES): the log-probability of every choice of every document."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from neuneu.data.importers.files import json_rows, parse_row
from neuneu.data.importers.scored_items import (
    Lengths,
    ScoredItem,
    UnusableItemsError,
    fingerprint,
)


class ScoredChoice(pydantic.BaseModel):
    """One choice: its log-probability in nats, summed over its tokens, and its lengths.

    Older files give bits per byte as `logits_per_byte` in place of the number of bytes.
    """

    sum_logits: float
    sum_logits_uncond: float | None = None
    num_tokens: pydantic.NonNegativeInt | None = None
    num_chars: pydantic.NonNegativeInt | None = None
    num_bytes: pydantic.NonNegativeInt | None = None
    bits_per_byte: float | None = None
    logits_per_byte: float | None = None


class Counted(pydantic.BaseModel):
    """What was counted for a document."""

    correct_choice: int | None = None
    acc_raw: float | None = None


class Prediction(pydantic.BaseModel):
    """oe-eval writes it to task-*-predictions.jsonl."""

    doc_id: int
    native_id: Any = None
    label: Any = None
    metrics: Counted = Counted()
    model_output: list[ScoredChoice]


def predictions_of(metrics: Path) -> Path | None:
    """Return the predictions beside a file of metrics (task-000-NAME-metrics.json)."""
    if not metrics.name.endswith("-metrics.json"):
        return None
    name = metrics.name.removesuffix("metrics.json") + "predictions.jsonl"
    found = [metrics.with_name(name), metrics.with_name(f"{name}.gz")]
    return next((path for path in found if path.exists()), None)


def read_predictions(path: Path, *, task_hash: str) -> Iterator[ScoredItem]:
    """Yield the items of a file.

    Args:
        path: of the file.
        task_hash: of the task's config, which stands for its prompts: they are not in the file.

    Raises:
        DataError: a line that is broken or not a prediction.
        UnusableItemsError: the task is not multiple choice.
    """
    for number, row in json_rows(path):
        outputs = row.get("model_output")
        if isinstance(outputs, list) and (len(outputs) < 2 or "continuation" in outputs[0]):
            raise UnusableItemsError("not multiple choice")
        found = parse_row(Prediction, row, path, number)
        yield _item(found, task_hash)


def _item(found: Prediction, task_hash: str) -> ScoredItem:
    choices = found.model_output
    label = found.metrics.correct_choice
    if label is None and isinstance(found.label, int):
        label = found.label
    if label is None or not 0 <= label < len(choices):
        raise UnusableItemsError(f"document {found.doc_id} does not have one right choice")
    alone = [of.sum_logits_uncond for of in choices if of.sum_logits_uncond is not None]
    lengths = [_lengths(of) for of in choices]
    # Tokens are left out: the same items have other tokens under another tokenizer.
    texts = [(n_chars, n_bytes) for _, n_chars, n_bytes in lengths]
    counted = found.metrics.acc_raw
    return ScoredItem(
        doc=found.doc_id,
        label=label,
        logprobs=[of.sum_logits for of in choices],
        lengths=lengths,
        content=fingerprint((task_hash, str(found.native_id), texts)),
        unconditional=alone if len(alone) == len(choices) else (),
        counted={} if counted is None else {"acc": counted},
    )


def _lengths(choice: ScoredChoice) -> Lengths:
    n_bytes = choice.num_bytes
    density = choice.bits_per_byte or choice.logits_per_byte
    if n_bytes is None and density:
        n_bytes = round(abs(choice.sum_logits / (density * math.log(2))))
    return choice.num_tokens or 0, choice.num_chars or 0, n_bytes or 0
