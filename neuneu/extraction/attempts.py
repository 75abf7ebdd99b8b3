"""A ledger of attempts on disk, so that an attempt that kills its process is counted too."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from neuneu.checkpoints import CheckpointRef
from neuneu.files import write_text_atomic


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The `number`-th try at a checkpoint; `last_error` says how the one before ended."""

    number: int
    last_error: str | None


class AttemptLedger:
    """Attempts of one extraction, a file a checkpoint while it is being scored."""

    def __init__(self, folder: Path, *, timeout_s: float) -> None:
        """Names a ledger; `timeout_s` is what an attempt is killed after, for its message."""
        self._folder = folder
        self._timeout_s = timeout_s

    def begin(self, ref: CheckpointRef) -> Attempt:
        """Counts one more attempt; call it before anything that can end the process."""
        path = self._path(ref)
        number, error = 0, None
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            number, error = record["number"], record["error"] or self._death(record["started"])
        self._write(ref, number + 1, error=None)
        return Attempt(number=number + 1, last_error=error)

    def fail(self, ref: CheckpointRef, number: int, error: str) -> None:
        """Notes how an attempt ended that did not end the process."""
        self._write(ref, number, error=error)

    def end(self, ref: CheckpointRef) -> None:
        """Forgets a checkpoint that was committed, done or quarantined."""
        self._path(ref).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets everything: attempts of an interrupted run do not count against this one."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, ref: CheckpointRef, number: int, *, error: str | None) -> None:
        record = {"number": number, "started": time.time(), "error": error}
        write_text_atomic(self._path(ref), json.dumps(record))

    def _path(self, ref: CheckpointRef) -> Path:
        digest = hashlib.sha256(json.dumps(ref.key).encode()).hexdigest()[:24]
        return self._folder / f"{digest}.json"

    def _death(self, started: float) -> str:
        seconds = time.time() - started
        if seconds >= self._timeout_s:
            return f"scoring took longer than the limit of {self._timeout_s:g} s; it was stopped."
        return (
            f"the scoring process died after at most {seconds:.0f} s (out of memory, or a crash "
            "of the engine; see the worker's log)."
        )
