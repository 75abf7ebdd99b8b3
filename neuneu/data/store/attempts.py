"""A ledger of attempts beside the results, so that one that kills its process is counted too."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import StoreError
from neuneu.core.storage import THREADS, Folder
from neuneu.data.checkpoints import CheckpointRef

ATTEMPTS: Final = "attempts"
"""The folder of a store that holds the ledger of its extraction."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The `number`-th try at a checkpoint; `last_error` says how the one before ended."""

    number: int
    last_error: str | None


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """A checkpoint in a worker's hands, or in those of one that was killed."""

    suite: str
    run: str
    step: int
    number: int
    started: float


class AttemptLedger:
    """Attempts of one extraction, a file a checkpoint while it is being scored.

    In a folder that every node can reach: the next process that tries a checkpoint may run
    on another.
    """

    def __init__(self, folder: Folder | Path | str, *, timeout_s: float) -> None:
        """Names a ledger; `timeout_s` is what an attempt is killed after, for its message."""
        self._folder = folder if isinstance(folder, Folder) else Folder(folder)
        self._timeout_s = timeout_s

    def begin(self, ref: CheckpointRef) -> Attempt:
        """Counts one more attempt; call it before anything that can end the process."""
        number, error = 0, None
        record = self._record(_name(ref))
        if record is not None:
            number, error = record["number"], record["error"] or self._death(record["started"])
        self._write(ref, number + 1, error=None)
        return Attempt(number=number + 1, last_error=error)

    def fail(self, ref: CheckpointRef, number: int, error: str) -> None:
        """Notes how an attempt ended that did not end the process."""
        self._write(ref, number, error=error)

    def end(self, ref: CheckpointRef) -> None:
        """Forgets a checkpoint that was committed, done or quarantined."""
        self._folder.delete(_name(ref))

    def clear(self) -> None:
        """Forgets everything: attempts of an interrupted run do not count against this one."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._folder.delete, self._folder.files()))

    def in_flight(self) -> list[InFlight]:
        """The checkpoints that were begun and not ended, by suite, run and step.

        Raises:
            StoreError: a record that is not one of this ledger.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            records = list(pool.map(self._record, self._folder.files()))
        names = ("suite", "run", "step", "number", "started")
        found = [InFlight(**{name: record[name] for name in names}) for record in records if record]
        return sorted(found, key=lambda item: (item.suite, item.run, item.step))

    def _record(self, name: str) -> dict[str, Any] | None:
        """What a file says; None if there is none."""
        try:
            content = self._folder.read(name)
        except FileNotFoundError:
            return None
        try:
            record: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise StoreError(
                f"{self._folder}/{name}: expected a record of attempts; delete this file."
            ) from error
        return record

    def _write(self, ref: CheckpointRef, number: int, *, error: str | None) -> None:
        record = {"suite": ref.suite, "run": ref.run, "step": ref.step}
        record |= {"number": number, "started": time.time(), "error": error}
        self._folder.write(_name(ref), json.dumps(record).encode())

    def _death(self, started: float) -> str:
        seconds = time.time() - started
        if seconds >= self._timeout_s:
            return f"scoring took longer than the limit of {self._timeout_s:g} s; it was stopped."
        return (
            f"the scoring process died after at most {seconds:.0f} s (out of memory, or a crash "
            "of the engine; see the worker's log)."
        )


def _name(ref: CheckpointRef) -> str:
    return hashlib.sha256(json.dumps(ref.key).encode()).hexdigest()[:24] + ".json"
