"""The trajectory store: committed checkpoints as parquet files, local or on S3.

A checkpoint is committed as one file by one rename or put (`checkpoint_files`), so that it is in
the store whole or not at all. `compaction` merges the files of a run. Readers get the tidy tables
of `neuneu.data.schemas`.
"""

import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import StorageError, StoreError
from neuneu.core.files import one_line
from neuneu.core.storage import THREADS, Folder
from neuneu.data.schemas import CHECKPOINTS, SCHEMA_VERSION, TASKS, conform, validate_accuracies
from neuneu.data.store.checkpoint_files import (
    FOLDER,
    LISTS,
    CheckpointRows,
    Key,
    Rows,
    decode,
    encode,
    file_name,
    is_checkpoint_file,
    is_compacted,
    run_folder,
    select_winners,
)

__all__ = ["META", "CheckpointRows", "Rows", "Store"]

META: Final = "store.json"
_TASKS: Final = "tasks.parquet"
# A reader starts again when a compaction replaces files it has listed, once for each run.
_MAX_LISTINGS: Final = 50


class Store:
    """A trajectory store in a folder, local or on S3.

    Layout: `store.json` (version, extraction fingerprint), `tasks.parquet`, and below
    `units/<suite>/<run>/` one file for each checkpoint, or one for the run after compaction.

    Each checkpoint counts once, however many files hold it: of several rows of one (suite, run,
    step), `done` beats `quarantined`, then higher `attempts` win, then the greater file name.
    Reading is consistent while extractions commit and compactions run.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        """Name a store; nothing is read or written yet.

        Raises:
            UserError: an address that is neither a path nor s3://.
        """
        self.folder = path if isinstance(path, Folder) else Folder(path)

    def bind(self, fingerprint: Mapping[str, Any]) -> None:
        """Claim the store for results of one extraction setting; create it if absent.

        Of several extractions that bind a new store at once one wins; the others meet its setting.

        Args:
            fingerprint: JSON values that results depend on (corpus, tasks, dtype, ...).

        Raises:
            StoreError: the store holds results of another setting or schema version.
        """
        wanted = json.loads(json.dumps(fingerprint))
        if not self.folder.exists(META):
            meta = {"schema_version": SCHEMA_VERSION, "fingerprint": wanted}
            self.folder.create(META, (json.dumps(meta, indent=1) + "\n").encode())
        found = self.fingerprint()
        differences = "; ".join(
            f"{key}: store has {found.get(key)!r}, this run {wanted.get(key)!r}"
            for key in sorted(found.keys() | wanted.keys())
            if found.get(key) != wanted.get(key)
        )
        if differences:
            raise StoreError(
                f"store {self.folder} holds results of another setting ({differences}). "
                "Write to another store, or use the setting of this one."
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return the extraction setting that the store is bound to.

        Raises:
            StoreError: not a store, or written by another schema version.
        """
        try:
            content = self.folder.read(META)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.folder}: expected a trajectory store ({META}), found none; "
                "make one with `neuneu extract` or `neuneu import`."
            ) from error
        try:
            meta = json.loads(content)
            version, fingerprint = meta["schema_version"], dict(meta["fingerprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.folder}/{META}: not readable as a store's record. Delete it and rerun the "
                "extraction that made this store: it writes the record and resumes."
            ) from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.folder}: schema version {version}, this neuneu reads {SCHEMA_VERSION}."
            )
        return fingerprint

    def write_tasks(self, rows: Rows) -> None:
        """Replace the task table.

        Raises:
            DataError: rows that do not fit `schemas.TASKS`.
        """
        table = conform(pa.Table.from_pylist(rows, schema=TASKS), TASKS, name="tasks")
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.folder.write(_TASKS, buffer.getvalue())

    def tasks(self) -> pa.Table:
        """Return the task table (`schemas.TASKS`), empty if none was written.

        Raises:
            StoreError: the table is damaged.
        """
        try:
            content = self.folder.read(_TASKS)
        except FileNotFoundError:
            return TASKS.empty_table()
        try:
            return pq.read_table(pa.BufferReader(content), schema=TASKS)
        except (pa.ArrowException, OSError) as error:
            reason = one_line(error).rstrip(".")
            raise StoreError(
                f"{self.folder}/{_TASKS}: not readable ({reason}). Delete it and run the "
                "extraction again: it writes the task table first."
            ) from error

    def commit(self, rows: CheckpointRows) -> None:
        """Write one checkpoint, whole or not at all; see the class for which of several counts.

        Raises:
            DataError: rows that do not fit their schemas, or belong to another checkpoint.
        """
        self.folder.write(file_name(rows.checkpoint), encode(rows.table()))

    def has(self, key: Key) -> str | None:
        """Return the status of one committed checkpoint (suite, run, step), or None.

        Cheap: reads only the checkpoint's own files and the compacted ones of its run.
        """
        suite, run, step = key
        tables = self._read(["checkpoint"], below=run_folder(suite, run), step=step)
        for piece in select_winners(tables):
            for row in piece.column("checkpoint").to_pylist():
                if (row["suite"], row["run"], row["step"]) == key:
                    return str(row["status"])
        return None

    def status(self) -> dict[Key, str]:
        """Return the status of every committed checkpoint by (suite, run, step)."""
        return {
            (row["suite"], row["run"], row["step"]): row["status"]
            for row in self.checkpoints().select(["suite", "run", "step", "status"]).to_pylist()
        }

    def checkpoints(self) -> pa.Table:
        """Return every committed checkpoint, done or quarantined (`schemas.CHECKPOINTS`)."""
        return self._rows("checkpoint", CHECKPOINTS)

    def accuracies(self) -> pa.Table:
        """Return the accuracies of all done checkpoints (`schemas.ACCURACIES`), by trajectory.

        Raises:
            DataError: contents that break the contract across checkpoints.
        """
        rows = self._rows("accuracies", LISTS["accuracies"])
        return validate_accuracies(rows, name=str(self.folder))

    def losses(self) -> pa.Table:
        """Return the mean validation losses of all done checkpoints (`schemas.LOSSES`)."""
        return self._rows("losses", LISTS["losses"])

    def token_losses(self) -> pa.Table:
        """Return the token or word losses of all done checkpoints (`schemas.TOKEN_LOSSES`)."""
        return self._rows("token_losses", LISTS["token_losses"])

    def _rows(self, name: str, schema: pa.Schema) -> pa.Table:
        """Return a column of `FILE_SCHEMA` as a tidy table, ordered by (suite, run, step)."""
        self.fingerprint()
        pieces = [schema.empty_table()]
        for piece in select_winners(self._read(dict.fromkeys(["checkpoint", name]))):
            rows = piece.column(name).combine_chunks()
            structs = rows if name == "checkpoint" else rows.flatten()
            pieces.append(pa.Table.from_arrays(structs.flatten(), schema=schema))
        return pa.concat_tables(pieces)

    def _read(
        self, columns: Iterable[str], *, below: str = FOLDER, step: int | None = None
    ) -> dict[str, pa.Table]:
        """Return columns of all checkpoint files in a folder, or of those that may hold one step.

        A compaction writes its file before it deletes those it replaces. So nothing was missed
        once every file that was read still exists and no compacted file is new.

        Raises:
            StoreError: a damaged file.
            StorageError: files kept changing.
        """
        tables: dict[str, pa.Table] = {}
        listed = self._list(below, step)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(_MAX_LISTINGS):
                new = sorted(listed - tables.keys())
                read = list(pool.map(partial(self._file, columns), new))
                tables |= {n: table for n, table in zip(new, read, strict=True) if table}
                listed = self._list(below, step)
                missed = any(is_compacted(name) for name in listed - tables.keys())
                if not missed and tables.keys() <= listed:
                    return tables
                tables = {name: table for name, table in tables.items() if name in listed}
        raise StorageError(
            f"{self.folder}: files of {below} were replaced {_MAX_LISTINGS} times while being "
            "read; wait until the other jobs on this store have ended."
        )

    def _list(self, below: str, step: int | None) -> set[str]:
        start = f"{below}/" if step is None else f"{below}/{step:012d}."
        names = (f"{below}/{name}" for name in (self.folder / below).files(".parquet"))
        return {
            name
            for name in names
            if is_checkpoint_file(name) and (is_compacted(name) or name.startswith(start))
        }

    def _file(self, columns: Iterable[str], name: str) -> pa.Table | None:
        """Return columns of one file, or None if it was deleted since the listing."""
        try:
            with self.folder.open(name) as file:
                return decode(file, columns, name=f"{self.folder}/{name}")
        except FileNotFoundError:
            return None
