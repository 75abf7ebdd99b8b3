"""Inspection of a trajectory store: a full check of its files, and a summary by run."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import NeuneuError, StorageError, StoreError
from neuneu.core.progress import stage
from neuneu.core.storage import THREADS
from neuneu.data.schemas import validate_accuracies
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.checkpoint_files import (
    KEYS,
    LISTS,
    Key,
    decode,
    file_name,
    is_checkpoint_file,
    is_compacted,
    run_folder,
    winners,
)
from neuneu.data.store.items import ITEMS, items_name, read_items
from neuneu.data.store.parts import PARTS, Part
from neuneu.data.store.store import META, Store

_HISTORY: Final = "extraction.json"
_OTHERS: Final = re.compile(
    rf"{re.escape(META)}|tasks\.parquet|{re.escape(_HISTORY)}|"
    rf"{ATTEMPTS}/.+|{PARTS}/[^/]+\.json|{ITEMS}/[^/]+\.parquet"
)
_STATUSES: Final = ("done", "quarantined")


@dataclass(kw_only=True)
class StoreReport:
    """Result of `check`.

    `version` is that of the store. `checkpoints` counts checkpoints by status, `rows` the rows that
    count in each tidy table (`choices`: log-probabilities), and `duplicates` rows that do not count
    because of another row for their part of a checkpoint. `damaged`
    gives the problem and its remedy by file; `foreign` files do not belong in a store.
    `mixed_tokenizers` counts done checkpoints by tokenizer hash, for each run (`suite/run`) with
    several tokenizers unless an extraction allowed it: their losses are not comparable.
    """

    store: str
    version: str
    fingerprint: dict[str, Any]
    files: int = 0
    files_compacted: int = 0
    runs: int = 0
    checkpoints: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    mixed_tokenizers: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunStatus:
    """Numbers of checkpoints of one run, and why some are quarantined.

    `reasons` are counted; reasons that differ only in numbers count as one, in the first's words.
    """

    suite: str
    run: str
    done: int = 0
    quarantined: int = 0
    in_flight: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def check(store: Store) -> StoreReport:
    """Read everything in a store and report what is there and what is wrong.

    Raises:
        StoreError: not a store.
        StorageError: storage failed.
    """
    meta = store.meta()
    report = StoreReport(
        store=str(store.folder), version=meta["schema_version"], fingerprint=meta["fingerprint"]
    )
    listed = list(store.folder.files())
    names = [name for name in listed if is_checkpoint_file(name)]
    others = set(listed).difference(names)
    report.foreign = sorted(name for name in others if not _OTHERS.fullmatch(name))
    report.files = len(names)
    report.files_compacted = sum(map(is_compacted, names))
    try:
        store.old_tasks()
    except StoreError as error:
        report.damaged["tasks.parquet"] = str(error)
    try:
        store.records()
    except StoreError as error:
        report.damaged[PARTS] = str(error)
    if not report.damaged:
        report.rows["tasks"] = store.tasks().num_rows
    tables: dict[str, pa.Table] = {}
    with stage("check files", len(names)) as bar, ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda name: _read(store, name), names)
        for name, result in zip(names, results, strict=True):
            bar.advance()
            if isinstance(result, str):
                report.damaged[name] = result
            else:
                tables[name] = result
    _count(report, store, tables, allowed=_allowed(store))
    return report


def summarize(store: Store) -> list[RunStatus]:
    """Return the status of each run's checkpoints, by suite and run; reads no losses.

    Raises:
        StoreError: not a store, or damaged.
        StorageError: storage failed.
    """
    runs: dict[tuple[str, str], RunStatus] = {}

    def run_of(suite: str, run: str) -> RunStatus:
        return runs.setdefault((suite, run), RunStatus(suite=suite, run=run))

    errors: dict[tuple[str, str], list[str]] = {}
    wanted = ["suite", "run", "status", "error"]
    for row in store.checkpoints().select(wanted).to_pylist():
        run = run_of(row["suite"], row["run"])
        if row["status"] == "done":
            run.done += 1
        else:
            run.quarantined += 1
            errors.setdefault((run.suite, run.run), []).append(row["error"] or "no reason given")
    for key, texts in errors.items():
        runs[key].reasons = _grouped(texts)
    for suite, name, _ in AttemptLedger(store.folder / ATTEMPTS, timeout_s=math.inf).in_flight():
        run_of(suite, name).in_flight += 1
    return [runs[key] for key in sorted(runs)]


def _grouped(texts: list[str]) -> dict[str, int]:
    """Count texts, most frequent first, regardless of the numbers in them."""
    patterns = [re.sub(r"\d+", "0", text) for text in texts]
    first = dict(zip(reversed(patterns), reversed(texts), strict=True))
    return {first[pattern]: count for pattern, count in Counter(patterns).most_common()}


def _read(store: Store, name: str) -> pa.Table | str:
    """Return a file's checkpoints, accuracies and lengths of lists, or what is wrong with it."""
    where = f"{store.folder}/{name}"
    try:
        with store.folder.open(name) as file:
            table = decode(file, name=where)
    except StoreError as error:
        return str(error)
    except FileNotFoundError:
        raise StorageError(
            f"{where}: deleted while the store was checked; check again when no compaction runs."
        ) from None
    files: dict[Key, str] = {}
    parts: dict[Key, list[Part]] = {}
    for row in table.select(KEYS.names).to_pylist():
        key = (row["suite"], row["run"], row["step"])
        if row["kind"] in {"task", "corpus"}:
            part = Part(row["kind"], row["name"], row["num_fewshot"], row["hash"])
            parts.setdefault(key, []).append(part)
    own = table.filter(pc.field("checkpoint").is_valid()).column("checkpoint")
    for row in own.to_pylist():
        key = (row["suite"], row["run"], row["step"])
        files[key] = file_name(row, parts.get(key, ()))
        fits = run_folder(*key[:2]) == name.rpartition("/")[0] and (
            is_compacted(name) or name == files[key]
        )
        if row["status"] not in _STATUSES or not fits:
            return (
                f"{where}: holds checkpoint {key}, status {row['status']!r}, which belongs in "
                f"{files[key]}; it was moved or edited by hand: put it back or delete it."
            )
    if lost := sorted(parts.keys() - files.keys()):
        return f"{where}: holds results of checkpoint {lost[0]} without its record; delete it."
    lengths = [pc.fill_null(pc.list_value_length(table.column(column)), 0) for column in LISTS]
    tokenizers = pc.struct_field(table.column("checkpoint"), "tokenizer_hash")
    return pa.table(
        [*table.select(KEYS.names).columns, tokenizers, table.column("accuracies"), *lengths],
        names=[*KEYS.names, "tokenizer", "values", *LISTS],
    )


def _allowed(store: Store) -> set[str]:
    """Return the runs that may mix tokenizers by the configs of the extractions."""
    try:
        history = json.loads(store.folder.read(_HISTORY))
        return {name for entry in history for name in entry["config"].get("mixed_tokenizers", ())}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return set()


def _countable(table: pa.Table) -> int:
    """Number of rows that count once; a checkpoint has a `done` row for each of its commits."""
    return int(pc.sum(pc.not_equal(table.column("kind"), "done")).as_py() or 0)


def _check_items(report: StoreReport, store: Store, needed: Mapping[tuple[str, str], str]) -> None:
    """Read the item sets behind the log-probabilities."""
    for task_hash, tokenizer_hash in sorted(needed):
        try:
            read_items(store.folder, task_hash, tokenizer_hash)
        except StoreError as error:
            report.damaged[items_name(task_hash, tokenizer_hash)] = str(error)


def _count(
    report: StoreReport, store: Store, tables: Mapping[str, pa.Table], *, allowed: set[str]
) -> None:
    statuses: dict[Key, str] = {}
    tokenizers: dict[tuple[str, str], Counter[str]] = {}
    tokenizer: str | None = None
    needed: dict[tuple[str, str], str] = {}
    report.rows |= dict.fromkeys([*LISTS, "choices"], 0)
    accuracies = [LISTS["accuracies"].empty_table()]
    n_rows = 0
    for piece in winners(tables):
        n_rows += _countable(piece)
        for row in piece.select([*KEYS.names, "tokenizer"]).to_pylist():
            key = (row["suite"], row["run"], row["step"])
            if row["kind"] in _STATUSES:
                hashes = tokenizers.setdefault(key[:2], Counter())
                # A later quarantine of a checkpoint that is done says nothing about what is done.
                if statuses.setdefault(key, row["kind"]) == row["kind"] == "done":
                    tokenizer = row["tokenizer"]
                    hashes.update([tokenizer] if tokenizer else [])
            elif row["n_choices"]:
                needed.setdefault((row["hash"], tokenizer or ""), row["name"])
            report.rows["choices"] += row["n_choices"] or 0
        for name in LISTS:
            report.rows[name] += pc.sum(piece.column(name)).as_py()
        structs = piece.column("values").combine_chunks().flatten()
        accuracies.append(pa.Table.from_arrays(structs.flatten(), schema=LISTS["accuracies"]))
    report.checkpoints = dict.fromkeys(_STATUSES, 0) | Counter(statuses.values())
    report.runs = len(tokenizers)
    total = sum(_countable(table) for table in tables.values())
    report.duplicates = total - n_rows
    _check_items(report, store, needed)
    report.mixed_tokenizers = {
        f"{suite}/{run}": dict(counts.most_common())
        for (suite, run), counts in sorted(tokenizers.items())
        if len(counts) > 1 and allowed.isdisjoint({run, f"{suite}/{run}"})
    }
    try:
        validate_accuracies(pa.concat_tables(accuracies), name=report.store)
    except NeuneuError as error:
        report.damaged["accuracies"] = (
            f"{error} Delete the files of these checkpoints and run the extraction again."
        )
