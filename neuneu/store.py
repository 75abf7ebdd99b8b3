"""The trajectory store: one committed unit a checkpoint, parquet, local (S3: see docs).

A unit is one parquet file of one row: the checkpoint's own record and its accuracies, losses
and token losses as lists. A commit is therefore one rename (or one put), so that a checkpoint
is in the store whole or not at all, and compaction is a concatenation of rows. The tidy
tables of `neuneu.schemas` are what readers get.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.errors import DataError, StoreError
from neuneu.files import atomic_path, write_text_atomic
from neuneu.schemas import (
    ACCURACIES,
    CHECKPOINTS,
    LOSSES,
    SCHEMA_VERSION,
    TASKS,
    TOKEN_LOSSES,
    check_version,
    conform,
    validate_accuracies,
)

Rows = list[dict[str, Any]]
_LISTS: dict[str, pa.Schema] = {
    "accuracies": ACCURACIES,
    "losses": LOSSES,
    "token_losses": TOKEN_LOSSES,
}
_UNIT = pa.schema(
    [pa.field("checkpoint", pa.struct(list(CHECKPOINTS)))]
    + [pa.field(name, pa.list_(pa.struct(list(schema)))) for name, schema in _LISTS.items()],
    metadata=CHECKPOINTS.metadata,
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Everything one checkpoint adds to the store, as rows of the tidy tables."""

    checkpoint: dict[str, Any]
    accuracies: Rows
    losses: Rows
    token_losses: Rows


class Store:
    """A trajectory store in a local folder.

    Layout: `store.json` (version, extraction fingerprint), `tasks.parquet`, and
    `units/<suite>/<run>/<step>.parquet`.
    """

    def __init__(self, path: str | Path) -> None:
        """Names a store; nothing is read or written yet."""
        self.path = Path(path)

    def bind(self, fingerprint: Mapping[str, Any]) -> None:
        """Claims the store for results of one extraction setting, creating it if absent.

        Args:
            fingerprint: JSON values that results depend on (corpus, tasks, dtype, ...).

        Raises:
            StoreError: the store holds results of another setting or schema version.
        """
        wanted = json.loads(json.dumps(fingerprint))
        meta_path = self.path / "store.json"
        if not meta_path.exists():
            meta = {"schema_version": SCHEMA_VERSION, "fingerprint": wanted}
            write_text_atomic(meta_path, json.dumps(meta, indent=1) + "\n")
            return
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
                f"store {self.path} holds results of another setting ({details}). "
                "Write to another store, or use the setting of this one."
            )

    def fingerprint(self) -> dict[str, Any]:
        """The extraction setting the store was bound to.

        Raises:
            StoreError: not a store, or written by another schema version.
        """
        meta_path = self.path / "store.json"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
            version, fingerprint = meta["schema_version"], meta["fingerprint"]
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.path}: expected a trajectory store (store.json), found none; "
                "make one with `neuneu extract` or `neuneu import`."
            ) from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreError(f"{meta_path}: not readable as a store's record.") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: schema version {version}, this neuneu reads {SCHEMA_VERSION}."
            )
        return dict(fingerprint)

    def write_tasks(self, rows: Rows) -> None:
        """Replaces the task table.

        Raises:
            DataError: rows that do not fit `schemas.TASKS`.
        """
        table = conform(pa.Table.from_pylist(rows, schema=TASKS), TASKS, name="tasks")
        with atomic_path(self.path / "tasks.parquet") as temporary:
            pq.write_table(table, temporary)

    def tasks(self) -> pa.Table:
        """The task table (`schemas.TASKS`); empty when none was written."""
        path = self.path / "tasks.parquet"
        return pq.read_table(path, schema=TASKS) if path.exists() else TASKS.empty_table()

    def commit(self, unit: Unit) -> None:
        """Writes one checkpoint, whole or not at all, replacing an earlier unit of it.

        Raises:
            DataError: rows that do not fit their schemas, or do not belong to the checkpoint.
        """
        identity = {key: unit.checkpoint[key] for key in ("suite", "run", "step")}
        for name in _LISTS:
            for row in getattr(unit, name):
                if any(row[key] != value for key, value in identity.items()):
                    raise DataError(f"{name}: a row does not belong to checkpoint {identity}.")
        if unit.accuracies:
            rows = pa.Table.from_pylist(unit.accuracies, schema=ACCURACIES)
            validate_accuracies(rows, name=f"accuracies of {identity}")
        row = {"checkpoint": unit.checkpoint} | {name: getattr(unit, name) for name in _LISTS}
        try:
            table = pa.Table.from_pylist([row], schema=_UNIT)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"checkpoint {identity}: {error}.") from error
        with atomic_path(self._unit_path(**identity)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def status(self) -> dict[tuple[str, str, int], str]:
        """(suite, run, step) -> status of every committed checkpoint."""
        return {
            (row["suite"], row["run"], row["step"]): row["status"]
            for row in self.checkpoints().select(["suite", "run", "step", "status"]).to_pylist()
        }

    def checkpoints(self) -> pa.Table:
        """Every committed checkpoint, done or quarantined (`schemas.CHECKPOINTS`)."""
        column = self._column("checkpoint")
        if len(column) == 0:
            return CHECKPOINTS.empty_table()
        return _flat(column.combine_chunks(), CHECKPOINTS)

    def accuracies(self) -> pa.Table:
        """Accuracies of all done checkpoints (`schemas.ACCURACIES`), sorted by trajectory.

        Raises:
            DataError: contents that break the contract across checkpoints.
        """
        return validate_accuracies(self._rows("accuracies"), name=str(self.path))

    def losses(self) -> pa.Table:
        """Mean validation losses of all done checkpoints (`schemas.LOSSES`)."""
        return self._rows("losses")

    def token_losses(self) -> pa.Table:
        """Token or word losses of all done checkpoints (`schemas.TOKEN_LOSSES`)."""
        return self._rows("token_losses")

    def _rows(self, name: str) -> pa.Table:
        column = self._column(name)
        if len(column) == 0:
            return _LISTS[name].empty_table()
        return _flat(column.combine_chunks().flatten(), _LISTS[name])

    def _column(self, name: str) -> pa.ChunkedArray:
        self.fingerprint()
        chunks = []
        for path in self._unit_files():
            try:
                unit = pq.read_table(path, columns=[name], partitioning=None)
            except (pa.ArrowInvalid, OSError) as error:
                raise StoreError(
                    f"{path}: not readable as a committed checkpoint ({error}). "
                    "Delete this file and run the extraction again: it redoes only this one."
                ) from error
            check_version(unit.schema, name=str(path))
            chunks += unit.column(name).chunks
        return pa.chunked_array(chunks, type=_UNIT.field(name).type)

    def _unit_files(self) -> Iterable[Path]:
        return sorted((self.path / "units").glob("*/*/*.parquet"))

    def _unit_path(self, suite: str, run: str, step: int) -> Path:
        return self.path / "units" / _safe_name(suite) / _safe_name(run) / f"{step:012d}.parquet"


def _flat(array: pa.StructArray, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(array.flatten(), schema=schema)


def _safe_name(name: str) -> str:
    """A name as one path part: kept when harmless, else cleaned with a hash of the original."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub('[^A-Za-z0-9]+', '-', name)[:60].strip('-')}-{digest}"
