"""Checkpoint files: how a trajectory store writes checkpoints, and which of their rows count.

A checkpoint file is a parquet file of one row: a checkpoint with everything it adds to the store.
A compacted file holds the rows of several checkpoints of a run. The same checkpoint may be in
several files; `select_winners` says which of its rows counts.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, StoreError
from neuneu.core.files import one_line
from neuneu.data.schemas import (
    ACCURACIES,
    CHECKPOINTS,
    LOSSES,
    TOKEN_LOSSES,
    check_version,
    validate_accuracies,
)

Rows = list[dict[str, Any]]
Key = tuple[str, str, int]
"""(suite, run, step) of a checkpoint."""

FOLDER: Final = "units"
"""The folder of a store that holds its checkpoint files."""

LISTS: Final[Mapping[str, pa.Schema]] = {
    "accuracies": ACCURACIES,
    "losses": LOSSES,
    "token_losses": TOKEN_LOSSES,
}
FILE_SCHEMA: Final = pa.schema(
    [pa.field("checkpoint", pa.struct(list(CHECKPOINTS)))]
    + [pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in LISTS.items()],
    metadata=CHECKPOINTS.metadata,
)
# A row group is the least that is read: the token losses of one checkpoint cost those of 8, and a
# column of a run of 150 checkpoints costs 19 requests to an object store (150 in groups of 1).
_ROWS_PER_GROUP: Final = 8
_NAME: Final = re.compile(
    rf"{FOLDER}/[^/]+/[^/]+/(\d{{12,}}(\.quarantined-\d+)?|compact-\d{{6}}-[0-9a-f]{{8}})\.parquet"
)


@dataclass(frozen=True, kw_only=True)
class CheckpointRows:
    """Everything one checkpoint adds to the store, as rows of the tidy tables."""

    checkpoint: dict[str, Any]
    accuracies: Rows
    losses: Rows
    token_losses: Rows

    def table(self) -> pa.Table:
        """Return the checkpoint as one row of `FILE_SCHEMA`.

        Raises:
            DataError: rows that do not fit their schemas, or belong to another checkpoint.
        """
        identity = {key: self.checkpoint[key] for key in ("suite", "run", "step")}
        for name in LISTS:
            if any(not identity.items() <= row.items() for row in getattr(self, name)):
                raise DataError(f"{name}: a row does not belong to checkpoint {identity}.")
        if self.accuracies:
            rows = pa.Table.from_pylist(self.accuracies, schema=ACCURACIES)
            validate_accuracies(rows, name=f"accuracies of {identity}")
        try:
            return pa.Table.from_pylist([vars(self)], schema=FILE_SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"checkpoint {identity}: {error}.") from error


def run_folder(suite: str, run: str) -> str:
    """Return the folder of a run's checkpoint files in a store."""
    return f"{FOLDER}/{safe_name(suite)}/{safe_name(run)}"


def file_name(checkpoint: Mapping[str, Any]) -> str:
    """Return the name in a store of the file of a checkpoint (a row of `schemas.CHECKPOINTS`).

    The name tells done from quarantined and one quarantine from the next. So a commit replaces
    only its equal, never a row that others may be reading, compacting or deleting.
    """
    done = checkpoint["status"] == "done"
    status = "" if done else f".quarantined-{checkpoint['attempts'] or 0}"
    folder = run_folder(checkpoint["suite"], checkpoint["run"])
    return f"{folder}/{checkpoint['step']:012d}{status}.parquet"


def is_checkpoint_file(name: str) -> bool:
    """Return whether a file of a store holds checkpoints, single or compacted."""
    return _NAME.fullmatch(name) is not None


def is_compacted(name: str) -> bool:
    """Return whether a checkpoint file was made by a compaction."""
    return name.rpartition("/")[2].startswith("compact-")


def encode(table: pa.Table) -> bytes:
    """Encode rows of `FILE_SCHEMA` as a file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    options = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(buffer, FILE_SCHEMA, **options) as writer:
        for first in range(0, table.num_rows, _ROWS_PER_GROUP):
            writer.write_table(table.slice(first, _ROWS_PER_GROUP).combine_chunks())
    return buffer.getvalue()


def decode(file: BinaryIO, columns: Iterable[str] = FILE_SCHEMA.names, *, name: str) -> pa.Table:
    """Read columns of a checkpoint file.

    Args:
        file: the open file; only these columns of it are read.
        columns: names from `FILE_SCHEMA`.
        name: name of the file in messages.

    Raises:
        StoreError: not such a file, or damaged, or of another schema version.
    """
    try:
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        check_version(parquet.schema_arrow, name=name)
        table = parquet.read(columns=list(columns), use_threads=False)
        return table.cast(pa.schema([FILE_SCHEMA.field(column) for column in columns]))
    except DataError as error:
        raise StoreError(str(error)) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        # A decoder's OSErrors are bare; those of disks and networks say more, and are not damage.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise
        remedy = (
            "Restore a copy of this file, or delete it and run the extraction again: it repeats "
            "the checkpoints that only this file held."
            if is_compacted(name)
            else "Delete this file and run the extraction again: it repeats only this checkpoint."
        )
        reason = one_line(error).rstrip(".")
        raise StoreError(
            f"{name}: not readable as committed checkpoints ({reason}). {remedy}"
        ) from error


def select_winners(tables: Mapping[str, pa.Table]) -> list[pa.Table]:
    """Return the rows that count, one for each checkpoint, ordered by (suite, run, step).

    Of several rows of one (suite, run, step), `done` beats `quarantined`, then higher `attempts`
    win, then the greater file name. Compacted files have the greatest names, the newest the
    greatest of all, so that compaction does not change what counts.

    Args:
        tables: columns of checkpoint files by name, `checkpoint` among them.

    Returns:
        The same columns in pieces of one file each: one array may be too short for all lists.
    """
    best: dict[Key, tuple[bool, int, str, int]] = {}
    for name, table in tables.items():
        column = table.column("checkpoint").combine_chunks()
        fields = ("suite", "run", "step", "status", "attempts")
        values = [column.field(field).to_pylist() for field in fields]
        for row, (suite, run, step, status, attempts) in enumerate(zip(*values, strict=True)):
            rank = (status == "done", attempts or 0, name, row)
            key = (suite, run, step)
            best[key] = max(rank, best.get(key, rank))
    winners = (best[key][2:] for key in sorted(best))
    return [
        tables[name].take(pa.array([row for _, row in group]))
        for name, group in groupby(winners, key=itemgetter(0))
    ]


def safe_name(name: str) -> str:
    """Return a name as one path part: as it is if harmless, else cleaned and with a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}-{digest}"
