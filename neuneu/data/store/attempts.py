"""A ledger of attempts beside the results, which also counts attempts that kill their process."""

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
from neuneu.data.store.checkpoint_files import Key

ATTEMPTS: Final = "attempts"
"""The folder of a store with the ledger of its extraction."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The `number`-th attempt at a checkpoint; `last_error` tells how the previous one ended."""

    number: int
    last_error: str | None


class AttemptLedger:
    """The attempts of one extraction: a file for each checkpoint while it is being scored.

    The folder must be accessible from every node: the next attempt may run on another one.
    """

    def __init__(self, folder: Folder | Path | str, *, timeout_s: float) -> None:
        """Name a ledger; `timeout_s` is the time limit of an attempt, for messages."""
        self._folder = folder if isinstance(folder, Folder) else Folder(folder)
        self._timeout_s = timeout_s

    def begin(self, ref: CheckpointRef) -> Attempt:
        """Count one more attempt; call it before anything that can end the process."""
        number, error = 0, None
        record = self._read(_name(ref))
        if record is not None:
            number, error = record["number"], record["error"] or self._death(record["started"])
        self._write(ref, number + 1, error=None)
        return Attempt(number=number + 1, last_error=error)

    def fail(self, ref: CheckpointRef, number: int, error: str) -> None:
        """Record how an attempt failed that did not end the process."""
        self._write(ref, number, error=error)

    def end(self, ref: CheckpointRef) -> None:
        """Forget a checkpoint that was committed, done or quarantined."""
        self._folder.delete(_name(ref))

    def clear(self) -> None:
        """Forget everything: attempts of an interrupted extraction do not count in the next."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._folder.delete, self._folder.files()))

    def in_flight(self) -> list[Key]:
        """Return the (suite, run, step) of checkpoints begun and not ended, sorted.

        Their workers may have been killed.

        Raises:
            StoreError: a file that is no record of attempts.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            records = list(pool.map(self._read, self._folder.files()))
        return sorted((row["suite"], row["run"], row["step"]) for row in records if row)

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the record in a file, or None if there is no file."""
        try:
            record: dict[str, Any] = json.loads(self._folder.read(name))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
            return f"scoring took longer than the limit of {self._timeout_s:g} s and was stopped."
        return (
            f"the scoring process died after at most {seconds:.0f} s (out of memory, or a crash "
            "of the engine; see the worker's log)."
        )


def _name(ref: CheckpointRef) -> str:
    return hashlib.sha256(json.dumps(ref.key).encode()).hexdigest()[:24] + ".json"
