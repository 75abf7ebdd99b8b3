"""The trajectory store: committed checkpoints as parquet files, local or on S3.

A checkpoint is committed as one file by one rename or put (`units`), so that it is in the store
whole or not at all. `compaction` makes one file of a run's. The tidy tables of
`neuneu.data.schemas` are what readers get.
"""

import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import StorageError, StoreError
from neuneu.core.storage import THREADS, Folder
from neuneu.data.schemas import CHECKPOINTS, SCHEMA_VERSION, TASKS, conform, validate_accuracies
from neuneu.data.store.units import (
    LISTS,
    UNITS,
    Key,
    Rows,
    Unit,
    decode,
    encode,
    file_name,
    is_compacted,
    is_unit_name,
    run_folder,
    winners,
)

__all__ = ["META", "Rows", "Store", "Unit"]

META: Final = "store.json"
_TASKS: Final = "tasks.parquet"
# A reader starts again when a compaction replaces what it has listed; each does so once a run.
_LISTINGS: Final = 50


class Store:
    """A trajectory store in a folder, local or on S3.

    Layout: `store.json` (version, extraction fingerprint), `tasks.parquet`, and below
    `units/<suite>/<run>/` a file a checkpoint, or one a run after compaction.

    Each checkpoint counts once, wherever it stands: of several rows of one (suite, run, step),
    `done` beats `quarantined`, then the higher `attempts` counts, then the greater file name.
    Reading is consistent while extractions commit and compactions run.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        """Names a store; nothing is read or written yet.

        Raises:
            UserError: an address that is neither a path nor s3://.
        """
        self.folder = path if isinstance(path, Folder) else Folder(path)

    @property
    def path(self) -> Path:
        """The folder of a local store.

        Raises:
            StoreError: the store is not on local disk.
        """
        if not self.folder.is_local:
            raise StoreError(f"{self.folder}: expected a store on local disk.")
        return Path(self.folder.address)

    def bind(self, fingerprint: Mapping[str, Any]) -> None:
        """Claims the store for results of one extraction setting, creating it if absent.

        Of several that bind a new store at once one wins, and the others meet its setting.

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
        differing = sorted(
            key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)
        )
        if differing:
            details = "; ".join(
                f"{key}: store has {found.get(key)!r}, this run {wanted.get(key)!r}"
                for key in differing
            )
            raise StoreError(
                f"store {self.folder} holds results of another setting ({details}). "
                "Write to another store, or use the setting of this one."
            )

    def fingerprint(self) -> dict[str, Any]:
        """The extraction setting the store was bound to.

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
                f"{self.folder}/{META}: not readable as a store's record. Delete it and run the "
                "extraction that made this store again: it writes the record and goes on."
            ) from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.folder}: schema version {version}, this neuneu reads {SCHEMA_VERSION}."
            )
        return fingerprint

    def write_tasks(self, rows: Rows) -> None:
        """Replaces the task table.

        Raises:
            DataError: rows that do not fit `schemas.TASKS`.
        """
        table = conform(pa.Table.from_pylist(rows, schema=TASKS), TASKS, name="tasks")
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.folder.write(_TASKS, buffer.getvalue())

    def tasks(self) -> pa.Table:
        """The task table (`schemas.TASKS`); empty when none was written.

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
            found = " ".join(str(error).split()).rstrip(".")
            raise StoreError(
                f"{self.folder}/{_TASKS}: not readable ({found}). Delete it and run the "
                "extraction again: it writes the task table first."
            ) from error

    def commit(self, unit: Unit) -> None:
        """Writes one checkpoint, whole or not at all; the class says which of several counts.

        Raises:
            DataError: rows that do not fit their schemas, or do not belong to the checkpoint.
        """
        self.folder.write(file_name(unit.checkpoint), encode(unit.table()))

    def has(self, key: Key) -> str | None:
        """The status of one committed checkpoint (suite, run, step), None if there is none.

        Cheap: looks into the checkpoint's own files and the compacted ones of its run.
        """
        suite, run, step = key
        tables = self._read(["checkpoint"], below=run_folder(suite, run), step=step)
        winner = winners(_checkpoints(tables)).get(key)
        if winner is None:
            return None
        file, row = winner
        return tables[file].column("checkpoint")[row].as_py()["status"]

    def status(self) -> dict[Key, str]:
        """(suite, run, step) -> status of every committed checkpoint."""
        return {
            (row["suite"], row["run"], row["step"]): row["status"]
            for row in self.checkpoints().select(["suite", "run", "step", "status"]).to_pylist()
        }

    def checkpoints(self) -> pa.Table:
        """Every committed checkpoint, done or quarantined (`schemas.CHECKPOINTS`)."""
        return self._rows("checkpoint", CHECKPOINTS)

    def accuracies(self) -> pa.Table:
        """Accuracies of all done checkpoints (`schemas.ACCURACIES`), sorted by trajectory.

        Raises:
            DataError: contents that break the contract across checkpoints.
        """
        rows = self._rows("accuracies", LISTS["accuracies"])
        return validate_accuracies(rows, name=str(self.folder))

    def losses(self) -> pa.Table:
        """Mean validation losses of all done checkpoints (`schemas.LOSSES`)."""
        return self._rows("losses", LISTS["losses"])

    def token_losses(self) -> pa.Table:
        """Token or word losses of all done checkpoints (`schemas.TOKEN_LOSSES`)."""
        return self._rows("token_losses", LISTS["token_losses"])

    def _rows(self, name: str, schema: pa.Schema) -> pa.Table:
        """A column of `UNIT` as a tidy table, in order of (suite, run, step).

        In pieces, a file each at most: the lists of all files may be too long for one array.
        """
        self.fingerprint()
        tables = self._read(dict.fromkeys(["checkpoint", name]))
        counted = winners(_checkpoints(tables))
        pieces = [schema.empty_table()]
        for file, group in groupby(counted.values(), key=itemgetter(0)):
            column = tables[file].column(name).combine_chunks()
            rows = column.take(pa.array([row for _, row in group]))
            structs = rows if name == "checkpoint" else rows.flatten()
            pieces.append(pa.Table.from_arrays(structs.flatten(), schema=schema))
        return pa.concat_tables(pieces)

    def _read(
        self, columns: Iterable[str], *, below: str = UNITS, step: int | None = None
    ) -> dict[str, pa.Table]:
        """Columns of all files of units in one folder, or of those that may hold one step.

        A compaction puts its file first and then deletes what it stands for. So once nothing
        that was read is gone and no compacted file is new, nothing was missed.

        Raises:
            StoreError: a damaged file.
            StorageError: files came and went all the time.
        """
        tables: dict[str, pa.Table] = {}
        listed = self._listed(below, step)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(_LISTINGS):
                new = sorted(listed - tables.keys())
                read = list(pool.map(partial(self._file, columns), new))
                tables |= {n: table for n, table in zip(new, read, strict=True) if table}
                listed = self._listed(below, step)
                missed = any(is_compacted(name) for name in listed - tables.keys())
                if not missed and tables.keys() <= listed:
                    return tables
                tables = {name: table for name, table in tables.items() if name in listed}
        raise StorageError(
            f"{self.folder}: files of {below} were replaced {_LISTINGS} times while it was read; "
            "wait until the other jobs on this store have ended."
        )

    def _listed(self, below: str, step: int | None) -> set[str]:
        names = {f"{below}/{name}" for name in (self.folder / below).files(".parquet")}
        own = "" if step is None else f"{step:012d}."
        return {
            name
            for name in names
            if is_unit_name(name)
            and (is_compacted(name) or name.rpartition("/")[2].startswith(own))
        }

    def _file(self, columns: Iterable[str], name: str) -> pa.Table | None:
        """Columns of one file; None if it is gone since it was listed."""
        try:
            with self.folder.open(name) as file:
                return decode(file, columns, name=f"{self.folder}/{name}")
        except FileNotFoundError:
            return None


def _checkpoints(tables: Mapping[str, pa.Table]) -> dict[str, pa.StructArray]:
    return {name: table.column("checkpoint").combine_chunks() for name, table in tables.items()}
