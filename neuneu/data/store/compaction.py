"""Compaction: the files of a run become one, so that a store of many checkpoints has few files.

The new file is written whole, read back and compared before the files that it replaces are
deleted. There are no locks: rows that are in two files count once (`winners`), so a
compaction may be killed at any point, and may run beside another or beside an extraction.
"""

import io
import re
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import pyarrow as pa

from neuneu.core.errors import StorageError
from neuneu.core.progress import stage
from neuneu.core.storage import THREADS, Folder
from neuneu.data.store.checkpoint_files import (
    FOLDER,
    by_part,
    decode,
    encode,
    is_checkpoint_file,
    winners,
)
from neuneu.data.store.store import Store

# Each further try means that another compaction of the same run was faster.
_MAX_TRIES: Final = 10
_KEY: Final = ("suite", "run", "step")


@dataclass(frozen=True, kw_only=True)
class CompactionSummary:
    """What a compaction did: numbers of runs, of checkpoint files, and of checkpoints in them."""

    store: str
    runs: int
    runs_compacted: int
    checkpoints_compacted: int
    files_before: int
    files_after: int


def compact(store: Store) -> CompactionSummary:
    """Merge the files of each run into one; runs with one file are left alone.

    Args:
        store: a bound store; extractions may be committing to it.

    Raises:
        StoreError: not a store, or a damaged file, whose run is left as it was.
        StorageError: storage failed, or did not return what was written; nothing is lost.
    """
    store.check_writable()
    folder = store.folder
    names = list_files(folder)
    runs = {run: list(group) for run, group in groupby(names, lambda name: name.rpartition("/")[0])}
    todo = {run: group for run, group in runs.items() if len(group) > 1}
    n_rows = 0
    with stage("compact runs", len(todo)) as bar, ThreadPoolExecutor(THREADS) as pool:
        for run, group in todo.items():
            n_rows += compact_run(folder, run, group, pool)
            bar.advance(1, run.removeprefix(f"{FOLDER}/"))
    return CompactionSummary(
        store=str(folder),
        runs=len(runs),
        runs_compacted=len(todo),
        checkpoints_compacted=n_rows,
        files_before=len(names),
        files_after=len(list_files(folder)),
    )


def list_files(folder: Folder, run: str = "") -> list[str]:
    """Return the names of the checkpoint files of a store, or of one run."""
    start = f"{run}/" if run else ""
    names = (f"{start}{name}" for name in (folder / run if run else folder).files(".parquet"))
    return [name for name in names if is_checkpoint_file(name)]


def compact_run(
    folder: Folder,
    run: str,
    names: Sequence[str],
    pool: Executor,
    *,
    due: Callable[[Sequence[str]], bool] = lambda names: len(names) > 1,
) -> int:
    """Compact the given files of a run as long as they are `due`; return how many checkpoints.

    Raises:
        StoreError: a damaged file; nothing was deleted.
        StorageError: storage failed, or did not return what was written; nothing is lost.
    """
    for _ in range(_MAX_TRIES):
        if not due(names):
            return 0
        try:
            table = _merge(folder, names, pool)
            # The newest compacted file gets the greatest name.
            numbers = [int(number) for number in re.findall(r"/compact-(\d+)-", " ".join(names))]
            number = 1 + max(numbers, default=0)
            compacted = f"{run}/compact-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
            _write_verified(folder, compacted, table)
        except FileNotFoundError:
            # Another compaction has replaced a file: its result is an input now.
            names = list_files(folder, run)
            continue
        list(pool.map(folder.delete, names))
        return len(set(zip(*(table.column(c).to_pylist() for c in _KEY), strict=True)))
    raise StorageError(
        f"{folder}/{run}: its files were replaced {_MAX_TRIES} times during compaction; "
        "wait until other compactions have ended."
    )


def _merge(folder: Folder, names: Sequence[str], pool: Executor) -> pa.Table:
    """Return the rows that count, ordered by step.

    Raises:
        FileNotFoundError: a file is gone.
    """

    def read(name: str) -> pa.Table:
        return decode(io.BytesIO(folder.read(name)), name=f"{folder}/{name}")

    tables = dict(zip(names, pool.map(read, names), strict=True))
    return by_part(pa.concat_tables(winners(tables)))


def _write_verified(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a checkpoint file and verify that it arrived.

    Raises:
        FileNotFoundError: it is gone already: another compaction has merged it into its own.
        StorageError: what is read is not what was written.
    """
    content = encode(table)
    # Compared by encoding again, since tables with NaN do not equal themselves.
    assert encode(decode(io.BytesIO(content), name=name)) == content, f"{name}: lossy encoding"
    folder.write(name, content)
    if folder.read(name) != content:
        raise StorageError(
            f"{folder}/{name}: storage did not return what was written; nothing was deleted. "
            "Delete this file, check the disk or the server, and compact again."
        )
