"""Checkpoint files of the first version of the store: one row a checkpoint, without evidence.

Their rows become rows of parts. The content of a part is unknown to the file, so its hash is "";
the store's record says what it was (`Store.progress`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_LISTS = ("accuracies", "losses", "token_losses")


def convert(parquet: pq.ParquetFile, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Read a file of version 1 as rows of the present version.

    Args:
        parquet: the open file.
        columns: names of the columns wanted.
        schema: all columns of the present version.

    Raises:
        pa.ArrowException, KeyError: not such a file, or damaged.
    """
    read = ["checkpoint", "accuracies", "losses"]
    read += ["token_losses"] if "token_losses" in columns else []
    wanted = pa.schema([schema.field(column) for column in columns])
    pieces = [wanted.empty_table()]
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=read, use_threads=False)
        table = table.cast(pa.schema([schema.field(column) for column in read]))
        for batch in table.to_batches():
            pieces.append(_convert(batch, schema).select(list(columns)))
    return pa.concat_tables(pieces)


def _convert(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """One row for each checkpoint and each of its parts, in this order."""
    rows: list[dict[str, Any]] = []
    of_checkpoint: list[int | None] = []
    members: dict[str, list[Sequence[int]]] = {name: [] for name in _LISTS}
    names = ("suite", "run", "step", "status", "attempts", "ties")
    checkpoint = batch.column("checkpoint")
    keys = zip(*(checkpoint.field(name).to_pylist() for name in names), strict=True)
    starts = {name: _spans(batch, name) for name in _LISTS if name in batch.schema.names}

    def add(row: dict[str, Any], checkpoint: int | None, **lists: Sequence[int]) -> None:
        rows.append({"num_fewshot": 0, "name": "", "hash": "", "n_choices": 0} | row)
        of_checkpoint.append(checkpoint)
        for name in _LISTS:
            members[name].append(lists.get(name, ()))

    for index, (suite, run, step, status, attempts, ties) in enumerate(keys):
        own = {"suite": suite, "run": run, "step": step, "attempts": attempts}
        add(own | {"kind": status}, index)
        tasks = _groups(batch, "accuracies", starts["accuracies"][index], "task", "num_fewshot")
        for i, ((task, shots), places) in enumerate(tasks.items()):
            # Only the total of a checkpoint is known: it counts once.
            task_row = {"kind": "task", "name": task, "num_fewshot": shots or 0}
            add(own | task_row | {"ties": ties if i == 0 else None}, None, accuracies=places)
        texts = _groups(batch, "losses", starts["losses"][index], "name")
        words = range(*starts["token_losses"][index]) if "token_losses" in starts else range(0)
        for (text,), places in (texts or ({("",): []} if words else {})).items():
            add(own | {"kind": "corpus", "name": text}, None, losses=places, token_losses=words)
            words = range(0)

    arrays = {
        name: pa.array([row.get(name) for row in rows], schema.field(name).type)
        for name in schema.names[: schema.names.index("ties") + 1]
    }
    arrays["checkpoint"] = checkpoint.take(pa.array(of_checkpoint, pa.int64()))
    for name in _LISTS:
        if name in batch.schema.names:
            arrays[name] = _lists(batch.column(name), members[name])
    return pa.table(
        [
            arrays[field.name] if field.name in arrays else pa.nulls(len(rows), field.type)
            for field in schema
        ],
        schema=pa.schema(list(schema)),
    )


def _spans(batch: pa.RecordBatch, name: str) -> list[tuple[int, int]]:
    """(first, stop) of each list among the column's values."""
    column = batch.column(name)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)
    stops = np.cumsum(lengths)
    return list(zip((stops - lengths).tolist(), stops.tolist(), strict=True))


def _groups(
    batch: pa.RecordBatch, name: str, span: tuple[int, int], *fields: str
) -> dict[tuple[Any, ...], list[int]]:
    """The places of a list's values by some of their fields, in order of appearance."""
    structs = batch.column(name).flatten().slice(span[0], span[1] - span[0])
    values = zip(*(structs.field(field).to_pylist() for field in fields), strict=True)
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, value in enumerate(values, start=span[0]):
        found.setdefault(value, []).append(place)
    return found


def _lists(column: pa.ListArray, places: Sequence[Sequence[int]]) -> pa.ListArray:
    """Lists of the values at these places."""
    flat = [place for several in places for place in several]
    offsets = np.cumsum([0, *map(len, places)]).astype(np.int32)
    values = column.flatten().take(pa.array(flat, pa.int64()))
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(column.type)
