"""What is in a trajectory store: a full check of its files, and a summary by run."""

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
from neuneu.data.store.store import META, Store
from neuneu.data.store.units import (
    LISTS,
    decode,
    file_name,
    is_compacted,
    is_unit_name,
    run_folder,
    winners,
)

_HISTORY: Final = "extraction.json"
_OTHERS: Final = re.compile(
    rf"{re.escape(META)}|tasks\.parquet|{re.escape(_HISTORY)}|{ATTEMPTS}/.+"
)
_STATUSES: Final = ("done", "quarantined")


@dataclass(kw_only=True)
class StoreReport:
    """What `check` found.

    `checkpoints` counts those of each status, `rows` those of each tidy table that count;
    `duplicates` are rows of a checkpoint that do not, since another does. `damaged` says by file
    what is wrong and what to do; `foreign` are files that do not belong in a store.
    `mixed_tokenizers` counts the done checkpoints by the hash of their tokenizer, for each run
    (`suite/run`) that has several of them, unless an extraction allowed it by name: their losses
    are not comparable.
    """

    store: str
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
    """One run in numbers of checkpoints; `reasons` are those of the quarantined, counted.

    Reasons that differ in numbers alone are one, told in the words of the first.
    """

    suite: str
    run: str
    done: int = 0
    quarantined: int = 0
    in_flight: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _File:
    """What is kept of a file that was read: (n,) checkpoints, (n,) lengths of each list."""

    checkpoints: pa.StructArray
    lengths: Mapping[str, list[int]]
    accuracies: pa.ListArray


def check(store: Store) -> StoreReport:
    """Reads everything in a store and says what is there and what is wrong.

    Raises:
        StoreError: not a store.
        StorageError: storage failed.
    """
    report = StoreReport(store=str(store.folder), fingerprint=store.fingerprint())
    listed = list(store.folder.files())
    names = [name for name in listed if is_unit_name(name)]
    report.foreign = [
        name for name in listed if not (is_unit_name(name) or _OTHERS.fullmatch(name))
    ]
    report.files = len(names)
    report.files_compacted = sum(map(is_compacted, names))
    try:
        report.rows["tasks"] = store.tasks().num_rows
    except StoreError as error:
        report.damaged["tasks.parquet"] = str(error)
    files: dict[str, _File] = {}
    with stage("check files", len(names)) as bar, ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda name: _read(store, name), names)
        for name, result in zip(names, results, strict=True):
            bar.advance()
            if isinstance(result, _File):
                files[name] = result
            else:
                report.damaged[name] = result
    _count(report, files)
    for name in _allowed(store):
        for run in [run for run in report.mixed_tokenizers if name in (run, run.partition("/")[2])]:
            del report.mixed_tokenizers[run]
    return report


def summarize(store: Store) -> list[RunStatus]:
    """What became of the checkpoints of each run, by suite and run; reads no losses.

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
    for attempt in AttemptLedger(store.folder / ATTEMPTS, timeout_s=math.inf).in_flight():
        run_of(attempt.suite, attempt.run).in_flight += 1
    return [runs[key] for key in sorted(runs)]


def _grouped(texts: list[str]) -> dict[str, int]:
    """Texts counted, most frequent first; numbers do not tell them apart."""
    first: dict[str, str] = {}
    counts = Counter(re.sub(r"\d+", "0", text) for text in texts)
    for text in texts:
        first.setdefault(re.sub(r"\d+", "0", text), text)
    return {first[pattern]: count for pattern, count in counts.most_common()}


def _read(store: Store, name: str) -> _File | str:
    """A file's facts, or what is wrong with it."""
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
    checkpoints = table.column("checkpoint").combine_chunks()
    for row in checkpoints.to_pylist():
        key = (row["suite"], row["run"], row["step"])
        placed = run_folder(*key[:2]) == name.rpartition("/")[0]
        if row["status"] not in _STATUSES or not placed or not _is_named(name, row):
            return (
                f"{where}: holds checkpoint {key}, status {row['status']!r}, which belongs in "
                f"{file_name(row)}; it was moved or edited by hand: put it back or delete it."
            )
    lengths = {
        column: pc.list_value_length(table.column(column)).fill_null(0).to_pylist()
        for column in LISTS
    }
    return _File(
        checkpoints=checkpoints,
        lengths=lengths,
        accuracies=table.column("accuracies").combine_chunks(),
    )


def _is_named(name: str, row: Mapping[str, Any]) -> bool:
    return is_compacted(name) or name == file_name(row)


def _allowed(store: Store) -> set[str]:
    """The runs whose tokenizers may differ, by the configs of the extractions."""
    try:
        history = json.loads(store.folder.read(_HISTORY))
        return {name for entry in history for name in entry["config"].get("mixed_tokenizers", ())}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return set()


def _count(report: StoreReport, files: Mapping[str, _File]) -> None:
    counted = winners({name: file.checkpoints for name, file in files.items()})
    rows: Counter[str] = Counter(dict.fromkeys(LISTS, 0))
    statuses: Counter[str] = Counter(dict.fromkeys(_STATUSES, 0))
    tokenizers: dict[str, Counter[str]] = {}
    pieces = [LISTS["accuracies"].empty_table()]
    for (suite, run, _), (name, row) in counted.items():
        file = files[name]
        checkpoint = file.checkpoints[row]
        status, tokenizer = checkpoint["status"].as_py(), checkpoint["tokenizer_hash"].as_py()
        statuses[status] += 1
        if status == "done" and tokenizer:
            tokenizers.setdefault(f"{suite}/{run}", Counter())[tokenizer] += 1
        rows.update({column: lengths[row] for column, lengths in file.lengths.items()})
        structs = file.accuracies.slice(row, 1).flatten()
        pieces.append(pa.Table.from_arrays(structs.flatten(), schema=LISTS["accuracies"]))
    report.checkpoints = dict(statuses)
    report.mixed_tokenizers = {
        run: dict(counts.most_common())
        for run, counts in sorted(tokenizers.items())
        if len(counts) > 1
    }
    report.rows |= rows
    report.runs = len({key[:2] for key in counted})
    report.duplicates = sum(len(file.checkpoints) for file in files.values()) - len(counted)
    try:
        validate_accuracies(pa.concat_tables(pieces), name=report.store)
    except NeuneuError as error:
        report.damaged["accuracies"] = (
            f"{error} Delete the files of these checkpoints and run the extraction again."
        )
