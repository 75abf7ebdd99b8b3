"""Evidence of a store: rows with log-probabilities of one run as arrays over its checkpoints."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from neuneu.core.errors import StoreError
from neuneu.data.arrays import FloatArray32
from neuneu.data.choices import Choices, ItemSet
from neuneu.data.store.checkpoint_files import KEYS

_Slot = tuple[str, int, str, str]
"""(task, num_fewshot, task hash, tokenizer hash)."""


def choices_of_run(
    pieces: Iterable[pa.Table], items_of: Callable[[str, str], ItemSet]
) -> Iterator[Choices]:
    """Yield the choices of one run, one for each task, in the order of tasks.

    Args:
        pieces: rows that count, from `checkpoint_files.winners`: `done` rows of the run with
            `checkpoint`, and rows of tasks with `logprobs` and `unconditional`.
        items_of: the item set of a task hash and a tokenizer hash.

    Raises:
        StoreError: log-probabilities that do not fit their items.
    """
    checkpoints: dict[int, dict[str, Any]] = {}
    rows: dict[tuple[int, str, int], tuple[str, pa.Table, int]] = {}
    for piece in pieces:
        keys = piece.select([*KEYS.names, "checkpoint"]).to_pylist()
        for i, row in enumerate(keys):
            if row["kind"] == "done":
                checkpoints[row["step"]] = row["checkpoint"]
            else:
                rows[row["step"], row["name"], row["num_fewshot"]] = (row["hash"], piece, i)
    slots: dict[_Slot, list[int]] = {}
    for step, name, shots in sorted(rows):
        tokenizer = checkpoints[step]["tokenizer_hash"] or ""
        slots.setdefault((name, shots, rows[step, name, shots][0], tokenizer), []).append(step)
    for (name, shots, task_hash, tokenizer), steps in sorted(slots.items()):
        items = items_of(task_hash, tokenizer)
        found = [rows[step, name, shots][1:] for step in steps]
        logprobs = _matrix(items, [piece.column("logprobs")[i] for piece, i in found])
        alone = [piece.column("unconditional")[i] for piece, i in found]
        asked = all(scalar.is_valid for scalar in alone)
        at = [checkpoints[step] for step in steps]
        yield Choices(
            family=at[0]["family"],
            suite=at[0]["suite"],
            run=at[0]["run"],
            params=at[0]["params"],
            items=items,
            steps=np.array(steps, np.int64),
            tokens=np.array([row["tokens"] for row in at], np.float64),
            logprobs=logprobs,
            unconditional=_matrix(items, alone) if asked else None,
        )


def _matrix(items: ItemSet, lists: list[pa.ListScalar]) -> FloatArray32:
    """(n, R) values of n lists.

    Raises:
        StoreError: lists of another length.
    """
    arrays = [np.asarray(scalar.values, np.float32) for scalar in lists]
    if wrong := [len(array) for array in arrays if len(array) != len(items.docs)]:
        raise StoreError(
            f"task {items.task}: expected {len(items.docs)} log-probabilities a checkpoint, found "
            f"{wrong[0]}; the store was edited by hand: score this task again in another store."
        )
    return np.stack(arrays)
