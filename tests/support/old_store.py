"""Stores as version 1 wrote them: one row a checkpoint, one text, no log-probabilities."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rows import checkpoint_rows

from neuneu.core.storage import Folder
from neuneu.data.schemas import ACCURACIES, CHECKPOINTS, LOSSES, TASKS, TOKEN_LOSSES
from neuneu.data.store.store import CheckpointRows, Store

LISTS = {"accuracies": ACCURACIES, "losses": LOSSES, "token_losses": TOKEN_LOSSES}
SCHEMA = pa.schema(
    [pa.field("checkpoint", pa.struct(list(CHECKPOINTS)))]
    + [pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in LISTS.items()],
    metadata=CHECKPOINTS.metadata,
)
FINGERPRINT = {
    "corpus": "v", "corpus_hash": "k", "corpus_words": 3, "tasks_hash": "th", "dtype": "float32",
}  # fmt: skip


def encode(checkpoints: Sequence[CheckpointRows]) -> bytes:
    """Return a checkpoint file of version 1, in row groups of eight."""
    names = ("checkpoint", *LISTS)
    rows = [{name: getattr(one, name) for name in names} for one in checkpoints]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    buffer = io.BytesIO()
    options = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(buffer, SCHEMA, **options) as writer:
        for first in range(0, table.num_rows, 8):
            writer.write_table(table.slice(first, 8).combine_chunks())
    return buffer.getvalue()


def write(folder: Folder, name: str, *checkpoints: CheckpointRows) -> None:
    """Write a checkpoint file of version 1."""
    folder.write(f"units/{name}.parquet", encode(checkpoints))


def write_task_table(folder: Folder, tasks: Sequence[str] = ("t",)) -> None:
    """Write a task table as version 1 did."""
    rows = [
        {
            "task": task, "metric": "acc", "base_task": task, "format": "rc", "split": "test",
            "group": "g", "chance": 0.25, "n_items": 4, "higher_is_better": True,
        }
        for task in tasks
    ]  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=TASKS), buffer)
    folder.write("tasks.parquet", buffer.getvalue())


def make_old_store(location: str | Path) -> Store:
    """Write a store of version 1: runs r (single files) and a/b (compacted, ten checkpoints)."""
    folder = Folder(location)
    meta = {"schema_version": "1", "fingerprint": FINGERPRINT}
    folder.write("store.json", json.dumps(meta).encode())
    write_task_table(folder)
    for step in (10, 20):
        one = checkpoint_rows(step)
        one.checkpoint["ties"] = step
        one.accuracies.append(one.accuracies[0] | {"metric": "acc_norm", "value": 0.75})
        one.accuracies.append(one.accuracies[0] | {"task": "u", "value": 0.5})
        write(folder, f"s/r/{step:012d}", one)
    write(folder, "s/r/000000000020.quarantined-1", checkpoint_rows(20, status="quarantined"))
    write(folder, "s/r/000000000030.quarantined-1", checkpoint_rows(30, status="quarantined"))
    others = [checkpoint_rows(step, run="a/b") for step in range(1, 11)]
    write(folder, "s/a-b-c14cddc033f6/compact-000001-00000000", *others)
    return Store(location)
