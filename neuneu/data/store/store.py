"""The trajectory store: committed results as parquet files, local or on S3.

A checkpoint's results are committed as one file by one rename or put (`checkpoint_files`), so that
they are in the store whole or not at all. `compaction` merges the files of a run. Readers get the
tidy tables of `neuneu.data.schemas`, and the log-probabilities of choices as `data.choices`.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neuneu.core.errors import StoreError
from neuneu.core.files import one_line
from neuneu.core.storage import Folder
from neuneu.data.choices import Choices, ItemSet
from neuneu.data.schemas import CHECKPOINTS, TASKS, conform, validate_accuracies
from neuneu.data.store.checkpoint_files import (
    LISTS,
    STORE_VERSION,
    Key,
    encode,
    file_name,
    run_folder,
    winners,
)
from neuneu.data.store.checkpoint_rows import CheckpointRows, Rows, TaskEvidence
from neuneu.data.store.evidence import choices_of_run
from neuneu.data.store.items import read_items, write_items
from neuneu.data.store.meta import META, encode_meta, read_meta
from neuneu.data.store.names import safe_name
from neuneu.data.store.parts import Part, PartRecord, Progress, Slot, claim, read_records
from neuneu.data.store.progress import progress_by_checkpoint
from neuneu.data.store.reading import Keep, list_names, read_files

__all__ = ["META", "CheckpointRows", "Part", "PartRecord", "Rows", "Store", "TaskEvidence"]

_TASKS: Final = "tasks.parquet"


class Store:
    """A trajectory store in a folder, local or on S3.

    Layout: `store.json` (version, extraction fingerprint), `parts/` (what its names of tasks and
    texts mean), `items/` (the items behind log-probabilities), and below `units/<suite>/<run>/` one
    file for each commit, or one for the run after compaction.

    Each part (task or text) of a checkpoint counts once, however many files hold it: of several
    rows, higher `attempts` win, then the greater file name. A checkpoint is `done` if any of its
    rows is. Reading is consistent while extractions commit and compactions run.

    Stores of version 1, with one text, one set of tasks and no log-probabilities, are read, and
    written after `neuneu store upgrade`.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        """Name a store; nothing is read or written yet.

        Raises:
            UserError: an address that is neither a path nor s3://.
        """
        self.folder = path if isinstance(path, Folder) else Folder(path)

    def bind(self, fingerprint: Mapping[str, Any], *, corpus: str | None = None) -> None:
        """Claim the store for results of one extraction setting; create it if absent.

        Of several extractions that bind a new store at once one wins; the others meet its setting.

        Args:
            fingerprint: JSON values that all results depend on (dtype, engine, ...).
            corpus: the text whose token losses are read by default, for a new store.

        Raises:
            StoreError: the store holds results of another setting or schema version.
        """
        wanted = json.loads(json.dumps(fingerprint))
        if not self.folder.exists(META):
            meta = {"schema_version": STORE_VERSION, "fingerprint": wanted, "corpus": corpus}
            self.folder.create(META, encode_meta(meta))
        self.check_writable()
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

    def check_writable(self) -> None:
        """Refuse to write to a store of version 1.

        Raises:
            StoreError: it is one, or not a store.
        """
        if self.meta()["schema_version"] != STORE_VERSION:
            raise StoreError(
                f"store {self.folder} has schema version 1, which this neuneu reads but does not "
                f"write; run `neuneu store upgrade {self.folder}` once, which keeps everything."
            )

    def claim(self, records: Iterable[PartRecord]) -> None:
        """Give tasks and texts their names in the store, before results of them are committed.

        Raises:
            StoreError: a name that means another content here.
        """
        claim(self.folder, records)

    def records(self) -> dict[Slot, PartRecord]:
        """Return what the names of tasks and texts mean, as `claim` wrote it."""
        return read_records(self.folder)

    def fingerprint(self) -> dict[str, Any]:
        """Return the extraction setting that the store is bound to.

        Raises:
            StoreError: not a store, or written by another schema version.
        """
        return dict(self.meta()["fingerprint"])

    def meta(self) -> dict[str, Any]:
        """Return the store's own record: `schema_version`, `fingerprint` and more.

        Raises:
            StoreError: not a store, or written by another schema version.
        """
        return read_meta(self.folder)

    def tasks(self) -> pa.Table:
        """Return the task table (`schemas.TASKS`), empty if no task was claimed.

        Raises:
            StoreError: the table is damaged.
        """
        old = self.old_tasks()
        rows = [dict(row) for record in self.records().values() for row in record.tasks]
        if not rows:
            return old
        by_key = {(row["task"], row["metric"]): row for row in [*old.to_pylist(), *rows]}
        table = pa.Table.from_pylist(list(by_key.values()), schema=TASKS)
        return conform(table, TASKS, name=str(self.folder))

    def old_tasks(self) -> pa.Table:
        """Return the task table as version 1 wrote it, empty if there is none.

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
                f"{self.folder}/{_TASKS}: not readable ({reason}). Restore a copy of this file, or "
                "delete it: forecasts then know less about the tasks."
            ) from error

    def write_items(self, items: ItemSet, tokenizer_hash: str) -> None:
        """Write an item set unless it is there; do so before committing evidence of it."""
        write_items(self.folder, items, tokenizer_hash)

    def commit(self, rows: CheckpointRows) -> None:
        """Write results of a checkpoint, whole or not at all; see the class for which rows count.

        Raises:
            DataError: rows that do not fit their schemas, or belong to another checkpoint.
        """
        self.folder.write(file_name(rows.checkpoint, rows.parts), encode(rows.table()))

    def has(self, key: Key) -> str | None:
        """Return the status of one committed checkpoint (suite, run, step), or None.

        Cheap: reads only the checkpoint's own files and the compacted ones of its run.
        """
        found = self.progress(key, meanings={}).get(key)
        return None if found is None else ("done" if found.done else "quarantined")

    def status(self) -> dict[Key, str]:
        """Return the status of every committed checkpoint by (suite, run, step)."""
        return {
            (row["suite"], row["run"], row["step"]): row["status"]
            for row in self.checkpoints().select(["suite", "run", "step", "status"]).to_pylist()
        }

    def meanings(self) -> dict[Slot, str]:
        """Return the hash of the content that each name of a task or text has, where known."""
        found = {slot: record.part.hash for slot, record in self.records().items()}
        fingerprint = self.fingerprint()
        if {"corpus", "corpus_hash"} <= fingerprint.keys():  # version 1
            slot = Part("corpus", str(fingerprint["corpus"])).slot
            found.setdefault(slot, str(fingerprint["corpus_hash"]))
        return found

    def progress(
        self, key: Key | None = None, *, meanings: Mapping[Slot, str] | None = None
    ) -> dict[Key, Progress]:
        """Return which parts of each checkpoint, or of one, were committed; reads no results.

        Args:
            key: (suite, run, step) of one checkpoint; None returns all.
            meanings: the hashes of names (`meanings`), for parts of version 1; they are read if
                not given.
        """
        if key is None:
            tables = read_files(self.folder, [])
        else:
            tables = read_files(self.folder, [], below=run_folder(key[0], key[1]), step=key[2])
        hashes = self.meanings() if meanings is None else meanings
        found = progress_by_checkpoint(winners(tables), hashes)
        return found if key is None else {at: one for at, one in found.items() if at == key}

    def checkpoints(self) -> pa.Table:
        """Return every committed checkpoint, done or quarantined (`schemas.CHECKPOINTS`)."""
        self.meta()
        pieces = [CHECKPOINTS.empty_table()]
        ties: dict[Key, int] = {}
        seen: set[Key] = set()
        for piece in winners(read_files(self.folder, ["ties", "checkpoint"])):
            counted = piece.filter(pc.field("ties").is_valid())
            for at, count in zip(_keys(counted), counted.column("ties").to_pylist(), strict=True):
                ties[at] = ties.get(at, 0) + count
            own = piece.filter(pc.field("kind").isin(["done", "quarantined"]))
            first = []
            for at in _keys(own):
                # The row of a later quarantine follows that of what is done.
                first.append(at not in seen)
                seen.add(at)
            structs = own.filter(pa.array(first, pa.bool_())).column("checkpoint").combine_chunks()
            pieces.append(pa.Table.from_arrays(structs.flatten(), schema=CHECKPOINTS))
        table = pa.concat_tables(pieces)
        known = pa.array([ties.get(at) for at in _keys(table)], pa.int32())
        i = CHECKPOINTS.get_field_index("ties")
        return table.set_column(i, CHECKPOINTS.field(i), pc.coalesce(known, table.column(i)))

    def errors(self) -> dict[Key, str]:
        """Return why the last attempt at a checkpoint failed, also if it is done in part."""
        found: dict[Key, str] = {}
        for piece in winners(read_files(self.folder, ["checkpoint"])):
            rows = piece.filter(pc.field("kind") == "quarantined")
            errors = pc.struct_field(rows.column("checkpoint"), "error").to_pylist()
            found |= dict(zip(_keys(rows), errors, strict=True))
        return found

    def accuracies(self) -> pa.Table:
        """Return the accuracies of all done checkpoints (`schemas.ACCURACIES`), by trajectory.

        Raises:
            DataError: contents that break the contract across checkpoints.
        """
        rows = self._rows("accuracies", LISTS["accuracies"])
        return validate_accuracies(rows, name=str(self.folder))

    def losses(self) -> pa.Table:
        """Return mean losses of all done checkpoints (`schemas.LOSSES`).

        They are those of the validation texts, and the continuous metrics of the tasks.
        """
        return self._rows("losses", LISTS["losses"])

    def token_losses(self, corpus: str | None = None) -> pa.Table:
        """Return the token or word losses of all done checkpoints (`schemas.TOKEN_LOSSES`).

        Args:
            corpus: name of a validation text; None returns those of all.
        """

        def of_text(table: pa.Table) -> npt.NDArray[np.bool_]:
            wanted = (pc.field("kind") == "corpus") & pc.field("name").isin([corpus])
            return _mask(table, wanted)

        return self._rows(
            "token_losses", LISTS["token_losses"], keep=None if corpus is None else of_text
        )

    def texts(self) -> list[str]:
        """Return the names of the validation texts."""
        return sorted(name for kind, name, _ in self.meanings() if kind == "corpus")

    def main_corpus(self) -> str | None:
        """Return the text whose token losses are read by default; None if there is only one."""
        return self.meta().get("corpus") if len(self.texts()) > 1 else None

    def choices(
        self, *, tasks: Collection[str] | None = None, runs: Collection[str] | None = None
    ) -> Iterator[Choices]:
        """Yield the log-probabilities of choices, by run and task; one run is read at a time.

        A run whose checkpoints have several tokenizers yields one for each.

        Args:
            tasks: names of tasks; None selects all.
            runs: names of runs; None selects all.

        Raises:
            StoreError: a damaged file, or log-probabilities without their items.
        """
        self.meta()
        folders = {name.rpartition("/")[0] for name in list_names(self.folder)}
        if runs is not None:
            wanted = {safe_name(run) for run in runs}
            folders = {folder for folder in folders if folder.rpartition("/")[2] in wanted}

        def keep(table: pa.Table) -> npt.NDArray[np.bool_]:
            evidence = (pc.field("kind") == "task") & (pc.field("n_choices") > 0)
            if tasks is not None:
                evidence &= pc.field("name").isin(list(tasks))
            return _mask(table, evidence | (pc.field("kind") == "done"))

        columns = ["checkpoint", "logprobs", "unconditional"]
        for folder in sorted(folders):
            tables = read_files(self.folder, columns, below=folder, keep=keep)
            yield from choices_of_run(winners(tables), partial(read_items, self.folder))

    def _rows(self, name: str, schema: pa.Schema, *, keep: Keep | None = None) -> pa.Table:
        """Return a column of `FILE_SCHEMA` as a tidy table, ordered by (suite, run, step)."""
        self.meta()
        pieces = [schema.empty_table()]
        for piece in winners(read_files(self.folder, [name], keep=keep)):
            structs = piece.column(name).combine_chunks().flatten()
            pieces.append(pa.Table.from_arrays(structs.flatten(), schema=schema))
        return pa.concat_tables(pieces)


def _keys(table: pa.Table) -> list[Key]:
    """The (suite, run, step) of rows."""
    columns = (table.column(name).to_pylist() for name in ("suite", "run", "step"))
    return list(zip(*columns, strict=True))


def _mask(table: pa.Table, condition: pc.Expression) -> npt.NDArray[np.bool_]:
    """Return (rows,) whether a condition holds."""
    rows = table.append_column("_row", pa.array(np.arange(table.num_rows)))
    mask = np.zeros(table.num_rows, bool)
    mask[np.asarray(rows.filter(condition).column("_row"), np.int64)] = True
    return mask
