"""The files of a trajectory store: how checkpoints are written in them, and which row counts.

A unit is a parquet file of one row, a checkpoint with everything it adds to the store; a
compacted file holds the rows of several units of a run. The same checkpoint may stand in
several files; `winners` says which of its rows counts.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, StoreError
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

UNITS: Final = "units"
LISTS: Final[Mapping[str, pa.Schema]] = {
    "accuracies": ACCURACIES,
    "losses": LOSSES,
    "token_losses": TOKEN_LOSSES,
}
UNIT: Final = pa.schema(
    [pa.field("checkpoint", pa.struct(list(CHECKPOINTS)))]
    + [pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in LISTS.items()],
    metadata=CHECKPOINTS.metadata,
)
# A group of rows is what is read at least: one checkpoint's token losses cost those of 8, and a
# column of a run of 150 costs 19 requests to an object store (with groups of 1, 150).
_ROWS_A_GROUP: Final = 8
_PLACE: Final = re.compile(
    r"units/[^/]+/[^/]+/(\d{12,}(\.quarantined-\d+)?|compact-\d{6}-[0-9a-f]{8})\.parquet"
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Everything one checkpoint adds to the store, as rows of the tidy tables."""

    checkpoint: dict[str, Any]
    accuracies: Rows
    losses: Rows
    token_losses: Rows

    def table(self) -> pa.Table:
        """The unit as one row of `UNIT`.

        Raises:
            DataError: rows that do not fit their schemas, or do not belong to the checkpoint.
        """
        identity = {key: self.checkpoint[key] for key in ("suite", "run", "step")}
        for name in LISTS:
            for row in getattr(self, name):
                if any(row[key] != value for key, value in identity.items()):
                    raise DataError(f"{name}: a row does not belong to checkpoint {identity}.")
        if self.accuracies:
            rows = pa.Table.from_pylist(self.accuracies, schema=ACCURACIES)
            validate_accuracies(rows, name=f"accuracies of {identity}")
        row = {"checkpoint": self.checkpoint} | {name: getattr(self, name) for name in LISTS}
        try:
            return pa.Table.from_pylist([row], schema=UNIT)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"checkpoint {identity}: {error}.") from error


def run_folder(suite: str, run: str) -> str:
    """Where in a store the files of a run lie."""
    return f"{UNITS}/{safe_name(suite)}/{safe_name(run)}"


def file_name(checkpoint: Mapping[str, Any]) -> str:
    """Where in a store the unit of a checkpoint (a row of `schemas.CHECKPOINTS`) lies.

    The name tells done from quarantined and one quarantine from the next: a commit never takes
    the place of a row that another could be reading, compacting and deleting, unless with its
    equal.
    """
    done = checkpoint["status"] == "done"
    status = "" if done else f".quarantined-{checkpoint['attempts'] or 0}"
    folder = run_folder(checkpoint["suite"], checkpoint["run"])
    return f"{folder}/{checkpoint['step']:012d}{status}.parquet"


def is_unit_name(name: str) -> bool:
    """Whether a file of a store is one of units, single or compacted."""
    return _PLACE.fullmatch(name) is not None


def is_compacted(name: str) -> bool:
    """Whether a file of units is the product of a compaction."""
    return name.rpartition("/")[2].startswith("compact-")


def encode(table: pa.Table) -> bytes:
    """Rows of `UNIT` as the content of a file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, UNIT, compression="zstd", write_page_checksum=True) as writer:
        for first in range(0, table.num_rows, _ROWS_A_GROUP):
            writer.write_table(table.slice(first, _ROWS_A_GROUP).combine_chunks())
    return buffer.getvalue()


def decode(file: BinaryIO, columns: Iterable[str] = UNIT.names, *, name: str) -> pa.Table:
    """The given columns of a file of units.

    Args:
        file: the open file; only these columns of it are read.
        columns: of `UNIT`.
        name: what to call the file in messages.

    Raises:
        StoreError: not such a file, or damaged, or of another schema version.
    """
    try:
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        check_version(parquet.schema_arrow, name=name)
        table = parquet.read(columns=list(columns), use_threads=False)
        return table.cast(pa.schema([UNIT.field(column) for column in columns]))
    except DataError as error:
        raise StoreError(str(error)) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        # A decoder's OSErrors are bare; those of disks and networks say more, and are not damage.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise
        found = " ".join(str(error).split()).rstrip(".")
        raise StoreError(
            f"{name}: not readable as committed checkpoints ({found}). {_cure(name)}"
        ) from error


def _cure(name: str) -> str:
    if is_compacted(name):
        return (
            "Put back a copy of this file, or delete it and run the extraction again: it redoes "
            "the checkpoints that only this file held."
        )
    return "Delete this file and run the extraction again: it redoes only this one."


def winners(checkpoints: Mapping[str, pa.StructArray]) -> dict[Key, tuple[str, int]]:
    """Which row counts for each checkpoint: (file, index of the row in it), in order of keys.

    Of several rows of one (suite, run, step), `done` beats `quarantined`, then the higher
    `attempts` counts, then the greater name of the file. Compacted files have the greatest
    names, the newest of all, so that compaction changes nothing of what counts.

    Args:
        checkpoints: by file, the column `checkpoint` of its rows.
    """
    best: dict[Key, tuple[tuple[bool, int, str, int], str, int]] = {}
    for name, column in checkpoints.items():
        names = ("suite", "run", "step", "status", "attempts")
        fields = [column.field(field).to_pylist() for field in names]
        for row, (suite, run, step, status, attempts) in enumerate(zip(*fields, strict=True)):
            rank = (status == "done", attempts or 0, name, row)
            key = (suite, run, step)
            if key not in best or rank > best[key][0]:
                best[key] = (rank, name, row)
    return {key: best[key][1:] for key in sorted(best)}


def safe_name(name: str) -> str:
    """A name as one path part: kept when harmless, else cleaned with a hash of the original."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}-{digest}"
