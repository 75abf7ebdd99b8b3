"""Consistent reading of a store's checkpoint files while others commit and compact."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuneu.core.errors import StorageError
from neuneu.core.storage import THREADS, Folder
from neuneu.data.store.checkpoint_files import FOLDER, decode, is_checkpoint_file, is_compacted

Keep = Callable[[pa.Table], npt.NDArray[np.bool_]]
"""Which rows to read, by their `checkpoint_files.KEYS`."""

# A reader starts again when a compaction replaces files it has listed, once for each run.
_MAX_LISTINGS: Final = 50


def read_files(
    folder: Folder,
    columns: Iterable[str],
    *,
    below: str = FOLDER,
    step: int | None = None,
    keep: Keep | None = None,
) -> dict[str, pa.Table]:
    """Return columns of all checkpoint files below a folder, or of those that may hold one step.

    A compaction writes its file before it deletes those it replaces. So nothing was missed
    once every file that was read still exists and no compacted file is new.

    Raises:
        StoreError: a damaged file.
        StorageError: files kept changing.
    """
    tables: dict[str, pa.Table] = {}
    listed = list_names(folder, below, step)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(_MAX_LISTINGS):
            new = sorted(listed - tables.keys())
            read = list(pool.map(partial(_read_file, folder, list(columns), keep), new))
            tables |= {n: t for n, t in zip(new, read, strict=True) if t is not None}
            listed = list_names(folder, below, step)
            missed = any(is_compacted(name) for name in listed - tables.keys())
            if not missed and tables.keys() <= listed:
                return tables
            tables = {name: table for name, table in tables.items() if name in listed}
    raise StorageError(
        f"{folder}: files of {below} were replaced {_MAX_LISTINGS} times while being "
        "read; wait until the other jobs on this store have ended."
    )


def list_names(folder: Folder, below: str = FOLDER, step: int | None = None) -> set[str]:
    """Return the names of checkpoint files, all or those that may hold one step."""
    start = f"{below}/" if step is None else f"{below}/{step:012d}"
    names = (f"{below}/{name}" for name in (folder / below).files(".parquet"))
    return {
        name
        for name in names
        if is_checkpoint_file(name)
        and (is_compacted(name) or step is None or name.removeprefix(start)[:1] in {".", "-"})
    }


def _read_file(
    folder: Folder, columns: Iterable[str], keep: Keep | None, name: str
) -> pa.Table | None:
    """Return rows of one file, or None if it was deleted since the listing."""
    try:
        with folder.open(name) as file:
            return decode(file, columns, name=f"{folder}/{name}", keep=keep)
    except FileNotFoundError:
        return None
