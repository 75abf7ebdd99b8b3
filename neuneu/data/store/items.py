"""Item sets of a store: what does not change between checkpoints of one tokenizer, written once."""

import io
import json
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import StoreError
from neuneu.core.files import one_line
from neuneu.core.storage import Folder
from neuneu.data.choices import ItemSet
from neuneu.data.store.names import safe_name

ITEMS: Final = "items"
"""The folder of a store with its item sets."""

_COLUMNS: Final = ("docs", "choices", "labels", "n_tokens", "n_chars", "n_bytes")
_HEAD: Final = ("task", "task_hash", "format", "num_fewshot")
_KEY: Final = b"neuneu_items"


def items_name(task_hash: str, tokenizer_hash: str) -> str:
    """The name in a store of the file of an item set."""
    return f"{ITEMS}/{safe_name(task_hash)}-{safe_name(tokenizer_hash)}.parquet"


def write_items(folder: Folder, items: ItemSet, tokenizer_hash: str) -> None:
    """Write an item set unless the store has it."""
    name = items_name(items.task_hash, tokenizer_hash)
    if not folder.exists(name):
        folder.write(name, _encode(items))


def read_items(folder: Folder, task_hash: str, tokenizer_hash: str) -> ItemSet:
    """Read an item set.

    Raises:
        StoreError: it is absent or damaged.
    """
    name = items_name(task_hash, tokenizer_hash)
    remedy = (
        "Restore a copy of it, or write its task anew to another store: log-probabilities say "
        "nothing without their items."
    )
    try:
        content = folder.read(name)
    except FileNotFoundError as error:
        raise StoreError(f"{folder}/{name}: expected an item set, found none. {remedy}") from error
    try:
        return _decode(content)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = one_line(error).rstrip(".")
        raise StoreError(f"{folder}/{name}: not readable ({reason}). {remedy}") from error


def _encode(items: ItemSet) -> bytes:
    n_choices = np.diff(_starts(items.docs), append=len(items.docs))
    columns = {name: getattr(items, name) for name in _COLUMNS}
    columns["labels"] = np.repeat(items.labels, n_choices)
    head = json.dumps({name: getattr(items, name) for name in _HEAD}).encode()
    schema = pa.schema([(name, pa.int32()) for name in _COLUMNS], metadata={_KEY: head})
    table = pa.table({name: values.astype(np.int32) for name, values in columns.items()})
    buffer = io.BytesIO()
    pq.write_table(
        table.cast(schema), buffer, compression="zstd", write_statistics=False,
        write_page_checksum=True, use_dictionary=False, column_encoding="DELTA_BINARY_PACKED",
    )  # fmt: skip
    return buffer.getvalue()


def _decode(content: bytes) -> ItemSet:
    table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    columns: dict[str, Any] = {name: np.asarray(table.column(name), np.int64) for name in _COLUMNS}
    columns["labels"] = columns["labels"][_starts(columns["docs"])]
    return ItemSet(**json.loads(table.schema.metadata[_KEY]), **columns)


def _starts(docs: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(docs, prepend=docs[:1] - 1))
