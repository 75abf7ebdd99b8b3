"""Scored choices that another tool wrote item by item, as arrays of one task and checkpoint."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, FloatArray32
from neuneu.data.choice_metrics import item_scores
from neuneu.data.choices import ItemSet
from neuneu.data.importers.checkpoint_names import CheckpointName

ROUNDED: Final = 1e-9
"""Means of ones and zeros that differ by less are equal."""

Lengths = tuple[int, int, int]
"""Tokens, characters and bytes of a choice; 0 where unknown."""


class UnusableItemsError(Exception):
    """Why the items of a file give no choices: not multiple choice, or not scored by them alone."""


@dataclass(frozen=True, kw_only=True)
class ScoredItem:
    """One item: summed log-probabilities of its C choices in nats, and the right choice.

    `lengths` and `unconditional` have one entry a choice; `unconditional` is empty where it was not
    asked for. `content` identifies prompt and choices (`fingerprint`). `counted`
    maps a metric to what the tool counted for this item, 0 or 1.
    """

    doc: int
    label: int
    logprobs: Sequence[float]
    lengths: Sequence[Lengths]
    content: bytes
    is_minimal_pair: bool = False
    unconditional: Sequence[float] = ()
    counted: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredTask:
    """The scored choices of one task at one checkpoint: `logprobs` (R,) in the order of `items`.

    `written` orders files by age.
    """

    checkpoint: CheckpointName
    items: ItemSet
    logprobs: FloatArray32
    unconditional: FloatArray32 | None
    written: float
    source: Path

    def correct(self, metric: str) -> FloatArray:
        """(D,) 1 where `acc` or `acc_norm` counts an item as right, else 0.

        As lm-evaluation-harness and OLMES count, the first of equal choices wins in every format.

        Raises:
            DataError: the lengths that the metric divides by are unknown.
        """
        items = replace(self.items, format="rc")
        return item_scores(items, self.logprobs[None], metrics=[metric])[metric][0]


def fingerprint(content: object) -> bytes:
    """Return 16 bytes that identify plain values such as texts and numbers."""
    return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def gather(
    items: Iterable[ScoredItem],
    *,
    checkpoint: CheckpointName,
    task: str,
    num_fewshot: int,
    written: float,
    source: Path,
) -> ScoredTask:
    """Lay the items of a task out as arrays, sorted by document.

    Raises:
        DataError: no item, or a document twice.
        UnusableItemsError: a log-probability that is not finite, or items that the tool scored by
            something else.
    """
    found = sorted(items, key=lambda item: item.doc)
    if not found:
        raise DataError(f"{source}: expected scored items, found none; write the file again.")
    for item, following in itertools.pairwise(found):
        if item.doc == following.doc:
            raise DataError(
                f"{source}: document {item.doc} stands twice; expected each once. Was the file "
                "appended to? Write it again or move it away."
            )
    if not all(math.isfinite(value) for item in found for value in item.logprobs):
        raise UnusableItemsError("a log-probability is not finite")
    _check_counted(found)
    digest = hashlib.blake2b(repr((task, num_fewshot)).encode(), digest_size=16)
    for item in found:
        digest.update(repr((item.doc, item.label, item.content)).encode())
    lengths = np.array([of for item in found for of in item.lengths], dtype=np.int64)
    known = all(item.unconditional for item in found)
    return ScoredTask(
        checkpoint=checkpoint,
        items=ItemSet(
            task=task,
            task_hash=digest.hexdigest(),
            format=_format(found),
            num_fewshot=num_fewshot,
            docs=np.repeat([item.doc for item in found], [len(i.logprobs) for i in found]),
            choices=np.concatenate([np.arange(len(item.logprobs)) for item in found]),
            labels=np.array([item.label for item in found], dtype=np.int64),
            n_tokens=lengths[:, 0],
            n_chars=lengths[:, 1],
            n_bytes=lengths[:, 2],
        ),
        logprobs=_flat([item.logprobs for item in found]),
        unconditional=_flat([item.unconditional for item in found]) if known else None,
        written=written,
        source=source,
    )


def shared(scored: ScoredTask, known: dict[str, ItemSet]) -> ScoredTask:
    """Return the task with the items of an earlier checkpoint where they are the same.

    Args:
        scored: of one checkpoint.
        known: task hash -> items, extended here.
    """
    return replace(scored, items=known.setdefault(scored.items.task_hash, scored.items))


def _check_counted(items: Sequence[ScoredItem]) -> None:
    """Raises UnusableItemsError where what the tool counted does not follow from the scores."""
    for item in items:
        counted = item.counted.get("acc")
        if counted is not None and counted != (int(np.argmax(item.logprobs)) == item.label):
            raise UnusableItemsError(
                f"the accuracy of document {item.doc} does not follow from its log-probabilities"
            )


def _format(items: Sequence[ScoredItem]) -> str:
    """As `scoring.tasks` has it: minimal pairs have no context, and the first choice is right."""
    if all(item.is_minimal_pair and item.label == 0 for item in items):
        return "minimal_pair"
    letters = all(of[1] == 1 for item in items for of in item.lengths)
    return "mc" if letters else "rc"


def _flat(parts: Sequence[Sequence[float]]) -> FloatArray32:
    return np.array([value for part in parts for value in part], dtype=np.float32)
