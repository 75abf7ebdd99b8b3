"""Compaction: the files of a run become one, so that a store of many checkpoints stays few files.

The new file is written whole, read back and compared; only then are the files deleted whose rows
it holds. Nothing is locked: rows that stand in two files count once (`units.winners`), so that a
compaction may be killed at any point, run beside another, and beside an extraction.
"""

import io
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pyarrow as pa

from neuneu.core.errors import StorageError
from neuneu.core.progress import stage
from neuneu.core.storage import THREADS, Folder
from neuneu.data.store.store import Store
from neuneu.data.store.units import UNITS, decode, encode, is_compacted, is_unit_name, winners

# Each try meets another compaction that got ahead in the same run.
_TRIES: Final = 10


@dataclass(frozen=True, kw_only=True)
class CompactionSummary:
    """What a compaction did; `files` are files of units, `checkpoints` those they hold."""

    store: str
    runs: int
    runs_compacted: int
    checkpoints_compacted: int
    files_before: int
    files_after: int


def compact(store: Store) -> CompactionSummary:
    """Makes one file of each run's files; runs that are one file already are left alone.

    Args:
        store: a bound store; extractions may be committing to it.

    Raises:
        StoreError: not a store, or a damaged file; its run is left as it was.
        StorageError: storage failed, or did not give back what was written; nothing is lost.
    """
    store.fingerprint()
    folder = store.folder
    names = [name for name in folder.files(".parquet") if is_unit_name(name)]
    runs = {run: list(group) for run, group in groupby(names, key=_run)}
    todo = {run: group for run, group in runs.items() if len(group) > 1}
    n_rows = 0
    with stage("compact runs", len(todo)) as bar, ThreadPoolExecutor(THREADS) as pool:
        for run, group in todo.items():
            n_rows += _compact_run(folder, run, group, pool)
            bar.advance(1, run.removeprefix(f"{UNITS}/"))
    return CompactionSummary(
        store=str(folder),
        runs=len(runs),
        runs_compacted=len(todo),
        checkpoints_compacted=n_rows,
        files_before=len(names),
        files_after=sum(is_unit_name(name) for name in folder.files(".parquet")),
    )


def _compact_run(folder: Folder, run: str, names: Sequence[str], pool: Executor) -> int:
    """Compacts the given files of a run; returns how many checkpoints they held."""
    for _ in range(_TRIES):
        if len(names) < 2:
            return 0
        try:
            table = _merged(folder, names, pool)
            compacted = f"{run}/compact-{_next_number(names):06d}-{uuid.uuid4().hex[:8]}.parquet"
            _write_verified(folder, compacted, table)
        except FileNotFoundError:
            # Another compaction has replaced a file: what it made is an input now.
            names = [f"{run}/{name}" for name in (folder / run).files(".parquet")]
            names = [name for name in names if is_unit_name(name)]
            continue
        list(pool.map(folder.delete, names))
        return table.num_rows
    raise StorageError(
        f"{folder}/{run}: its files were replaced {_TRIES} times while they were compacted; "
        "wait until other compactions have ended."
    )


def _merged(folder: Folder, names: Sequence[str], pool: Executor) -> pa.Table:
    """The rows that count of some files, in order of their steps.

    Raises:
        FileNotFoundError: a file is gone.
    """

    def read(name: str) -> pa.Table:
        return decode(io.BytesIO(folder.read(name)), name=f"{folder}/{name}")

    tables = dict(zip(names, pool.map(read, names), strict=True))
    counted = winners(
        {name: table.column("checkpoint").combine_chunks() for name, table in tables.items()}
    )
    return pa.concat_tables([tables[name].slice(row, 1) for name, row in counted.values()])


def _write_verified(folder: Folder, name: str, table: pa.Table) -> None:
    """Writes a file of units and proves that it came to be.

    Raises:
        FileNotFoundError: it is gone already: another compaction has made it part of its own.
        StorageError: what is read is not what was written.
    """
    content = encode(table)
    # By encoding again, since tables with NaN in them are not equal to themselves.
    assert encode(decode(io.BytesIO(content), name=name)) == content, f"{name}: lossy encoding"
    folder.write(name, content)
    if folder.read(name) != content:
        raise StorageError(
            f"{folder}/{name}: storage did not give back what was written; nothing was deleted. "
            "Delete this file, check the disk or the server, and compact again."
        )


def _run(name: str) -> str:
    return name.rpartition("/")[0]


def _next_number(names: Sequence[str]) -> int:
    """One more than the compacted files among `names` have: the newest gets the greatest name."""
    numbers = [re.search(r"compact-(\d+)-", name) for name in names if is_compacted(name)]
    return 1 + max((int(found[1]) for found in numbers if found), default=0)
