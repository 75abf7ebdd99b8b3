"""Checkpoint files: how a trajectory store writes results, and which of their rows count.

A checkpoint file is a parquet file with a row for each part of a checkpoint (a task or a
validation text) and one for the checkpoint itself. A compacted file holds the rows of several
checkpoints of a run. The same part of a checkpoint may be in several files; `winners` says which
row counts.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, StoreError
from neuneu.core.files import one_line
from neuneu.data.schemas import ACCURACIES, CHECKPOINTS, LOSSES, TOKEN_LOSSES, VERSION_KEY
from neuneu.data.store import version_1
from neuneu.data.store.names import safe_name
from neuneu.data.store.parts import Part

Key = tuple[str, str, int]
"""(suite, run, step) of a checkpoint."""

FOLDER: Final = "units"
"""The folder of a store that holds its checkpoint files."""

STORE_VERSION: Final = "2"

LISTS: Final[Mapping[str, pa.Schema]] = {
    "accuracies": ACCURACIES,
    "losses": LOSSES,
    "token_losses": TOKEN_LOSSES,
}
KEYS: Final = pa.schema(
    [
        ("suite", pa.string()),
        ("run", pa.string()),
        ("step", pa.int64()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("num_fewshot", pa.int32()),
        ("hash", pa.string()),
        ("attempts", pa.int32()),
        ("n_choices", pa.int32()),
    ]
)
"""What identifies a row. `kind` is that of a part, or `done` or `quarantined` for the row of a
checkpoint itself. `n_choices` is the number of log-probabilities, 0 without evidence."""

EVIDENCE: Final = ("logprobs", "unconditional")
FILE_SCHEMA: Final = pa.schema(
    [
        *KEYS,
        pa.field("ties", pa.int32()),
        pa.field("checkpoint", pa.struct(list(CHECKPOINTS))),
        *(pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in LISTS.items()),
        *(pa.field(name, pa.list_(pa.float32())) for name in EVIDENCE),
    ],
    metadata={VERSION_KEY: STORE_VERSION.encode()},
)
# A row group is the least that is read: about 8 checkpoints of 256,000 words, or the evidence of
# 13 checkpoints on 81,000 choices. A column of a run of 150 checkpoints then costs about 20
# requests to an object store.
_BYTES_PER_GROUP: Final = 4 * 2**20
_NAME: Final = re.compile(
    rf"{FOLDER}/[^/]+/[^/]+/"
    r"(\d{12,}(-[0-9a-f]{8})?(\.quarantined-\d+)?|compact-\d{6}-[0-9a-f]{8})\.parquet"
)
_KINDS: Final = ("done", "quarantined", "corpus", "task")


def run_folder(suite: str, run: str) -> str:
    """Return the folder of a run's checkpoint files in a store."""
    return f"{FOLDER}/{safe_name(suite)}/{safe_name(run)}"


def file_name(checkpoint: Mapping[str, Any], parts: Iterable[Part] = ()) -> str:
    """Return the name in a store of the file of a checkpoint (a row of `schemas.CHECKPOINTS`).

    The name tells done from quarantined, one quarantine from the next, and one set of parts from
    another. So a commit replaces only its equal, never a row that others may be reading, compacting
    or deleting.
    """
    folder = run_folder(checkpoint["suite"], checkpoint["run"])
    if checkpoint["status"] != "done":
        ending = f".quarantined-{checkpoint['attempts'] or 0}"
    elif known := sorted(part for part in parts if part.hash):
        ending = f"-{hashlib.sha256(repr(known).encode()).hexdigest()[:8]}"
    else:
        ending = ""
    return f"{folder}/{checkpoint['step']:012d}{ending}.parquet"


def is_checkpoint_file(name: str) -> bool:
    """Return whether a file of a store holds checkpoints, single or compacted."""
    return _NAME.fullmatch(name) is not None


def is_compacted(name: str) -> bool:
    """Return whether a checkpoint file was made by a compaction."""
    return name.rpartition("/")[2].startswith("compact-")


def encode(table: pa.Table) -> bytes:
    """Encode rows of `FILE_SCHEMA` as a file; equal rows give equal bytes."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, FILE_SCHEMA, **_options()) as writer:
        for first, stop in _row_groups(table):
            writer.write_table(table.slice(first, stop - first).combine_chunks())
    return buffer.getvalue()


@cache
def _options() -> dict[str, Any]:
    """Options of the writer: many different numbers take 3 bytes each by byte, and 6 by dictionary.

    Columns of lists are named by pyarrow, in a way that has changed.
    """
    buffer = io.BytesIO()
    pq.write_table(FILE_SCHEMA.empty_table(), buffer)
    schema = pq.ParquetFile(buffer).schema
    paths = [schema.column(i).path for i in range(len(schema))]
    split = [path for path in paths if path.startswith((*EVIDENCE, "token_losses.")) and
             path.count(".list.") == 1 + path.startswith("token_losses.")]  # fmt: skip
    return {
        "compression": "zstd",
        "write_page_checksum": True,
        "write_statistics": False,
        "use_dictionary": [path for path in paths if path not in split],
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
    }


def by_part(table: pa.Table) -> pa.Table:
    """Return rows with the checkpoints of each part together, as they are read."""
    order = [(name, "ascending") for name in ("kind", "name", "num_fewshot", "step")]
    return table.take(pc.sort_indices(table.select(KEYS.names), sort_keys=order))


def decode(
    file: BinaryIO,
    columns: Iterable[str] = FILE_SCHEMA.names,
    *,
    name: str,
    keep: Callable[[pa.Table], npt.NDArray[np.bool_]] | None = None,
) -> pa.Table:
    """Read rows of a checkpoint file, of this version or the first.

    Args:
        file: the open file; only these columns of it are read.
        columns: names from `FILE_SCHEMA`; those of `KEYS` are always read.
        name: name of the file in messages.
        keep: which rows to read, by their `KEYS`; row groups without any are skipped.

    Raises:
        StoreError: not such a file, or damaged, or of another schema version.
    """
    wanted = list(dict.fromkeys([*KEYS.names, *columns]))
    try:
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        version = _version(parquet.schema_arrow, name=name)
        if version == "1":
            table = version_1.convert(parquet, wanted, FILE_SCHEMA)
            return table if keep is None else table.filter(pa.array(keep(table)))
        if keep is None:
            table = parquet.read(columns=wanted, use_threads=False)
        else:
            table = _read_kept(parquet, wanted, keep)
        return table.cast(pa.schema([FILE_SCHEMA.field(column) for column in wanted]))
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


def is_version_1(file: BinaryIO, *, name: str) -> bool:
    """Return whether a checkpoint file was written by the first version of the store.

    Raises:
        StoreError: not such a file, or damaged, or of another schema version.
    """
    try:
        return _version(pq.read_schema(file), name=name) == "1"
    except (pa.ArrowInvalid, DataError) as error:
        raise StoreError(f"{name}: not readable as committed checkpoints ({error}).") from error


def _version(schema: pa.Schema, *, name: str) -> str:
    found = (schema.metadata or {}).get(VERSION_KEY, b"1").decode()
    if found not in {"1", STORE_VERSION}:
        raise DataError(
            f"{name}: schema version {found}, this neuneu reads 1 and {STORE_VERSION}; "
            "use the neuneu that wrote it."
        )
    return found


def _read_kept(
    parquet: pq.ParquetFile,
    columns: Sequence[str],
    keep: Callable[[pa.Table], npt.NDArray[np.bool_]],
) -> pa.Table:
    mask = keep(parquet.read(columns=KEYS.names, use_threads=False))
    sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    groups = np.split(mask, np.cumsum(sizes)[:-1]) if sizes else []
    chosen = [i for i, rows in enumerate(groups) if rows.any()]
    if not chosen:
        return pa.schema([FILE_SCHEMA.field(column) for column in columns]).empty_table()
    table = parquet.read_row_groups(chosen, columns=list(columns), use_threads=False)
    return table.filter(pa.array(np.concatenate([groups[i] for i in chosen])))


def _row_groups(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of row groups that hold about `_BYTES_PER_GROUP` of lists each."""
    sizes = np.zeros(table.num_rows, np.int64)
    for name in EVIDENCE:
        sizes += 4 * _lengths(table.column(name))
    at = 0
    for chunk in table.column("token_losses").chunks:
        structs = chunk.flatten()
        parents = np.repeat(np.arange(len(chunk)), _lengths(pa.chunked_array([chunk])))
        values = 2 * _lengths(pa.chunked_array([structs.field("losses")]))
        sizes[at : at + len(chunk)] += np.bincount(
            parents, weights=values, minlength=len(chunk)
        ).astype(np.int64)
        at += len(chunk)
    first, total = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if total and total + size > _BYTES_PER_GROUP:
            yield first, row
            first, total = row, 0
        total += size
    if first < table.num_rows:
        yield first, table.num_rows


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The lengths of the lists of a column; a missing list has none."""
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)


def winners(tables: Mapping[str, pa.Table]) -> list[pa.Table]:
    """Return the rows that count, ordered by (suite, run, step): the checkpoint, then its parts.

    Of several rows of one part of a checkpoint, or of several `done` rows of a checkpoint, higher
    `attempts` win, then the greater file name. Compacted files have the greatest names, the newest
    the greatest of all, so that compaction does not change what counts. A `quarantined` row counts
    if its attempt was later than that of any `done` row: what was wanted then is not there.

    Args:
        tables: columns of checkpoint files by name, `KEYS` among them.

    Returns:
        The same columns in pieces of one file each: one array may be too short for all lists.
    """
    names = [name for name in sorted(tables) if tables[name].num_rows]
    if not names:
        return []
    keys = pa.concat_tables([tables[name].select(KEYS.names) for name in names])
    sizes = [tables[name].num_rows for name in names]
    file = np.repeat(np.arange(len(names)), sizes)
    row = np.concatenate([np.arange(size) for size in sizes])
    kinds = codes(keys.column("kind"), _KINDS)
    attempts = np.asarray(pc.fill_null(keys.column("attempts"), 0))
    step, shots = (np.asarray(keys.column(c)) for c in ("step", "num_fewshot"))
    suite, run, name = (codes(keys.column(c)) for c in ("suite", "run", "name"))
    slot = (suite, run, step, kinds, name, shots)
    order = np.lexsort((row, file, attempts, *reversed(slot)))
    sorted_slot = [values[order] for values in slot]
    last = np.ones(len(order), bool)
    last[:-1] = np.any([values[1:] != values[:-1] for values in sorted_slot], axis=0)
    best = order[last]
    # A quarantine directly follows the `done` row of its checkpoint, if there is one.
    before = np.roll(best, 1)
    same = np.all([values[best] == values[before] for values in slot[:3]], axis=0)
    same[:1] = False
    outdone = same & (kinds[before] == 0) & (attempts[best] <= attempts[before])
    best = best[~((kinds[best] == 1) & outdone)]
    pieces = np.split(best, np.flatnonzero(np.diff(file[best])) + 1)
    return [tables[names[file[piece[0]]]].take(pa.array(row[piece])) for piece in pieces]


def codes(column: pa.ChunkedArray, order: Sequence[str] = ()) -> npt.NDArray[np.int64]:
    """Numbers for texts, in alphabetical order or in the given one."""
    encoded = pa.chunked_array([column.combine_chunks()]).dictionary_encode().unify_dictionaries()
    texts = encoded.chunk(0).dictionary.to_pylist()
    places = {text: i for i, text in enumerate(order or sorted(texts))}
    ranks = np.array([places[text] for text in texts], np.int64)
    return ranks[np.concatenate([np.asarray(chunk.indices, np.int64) for chunk in encoded.chunks])]
