"""The inspection of a worker: checks, conversions and tokenization, one checkpoint at a time."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.parts import Part
from neuneu.scoring.checkpoints.preflight import Preflight, inspect
from neuneu.scoring.engines.engine import read_tokenizer
from neuneu.scoring.evaluation import Workload, make_workload
from neuneu.scoring.wanted import Wanted
from neuneu.scoring.workers.engine import WorkloadCache, WorkloadKey
from neuneu.scoring.workers.processes import Host, ProcessError

_ACTIVITIES: Final = {
    "run": "converting it",
    "inspect": "inspecting it",
    "workload": "tokenising with its tokenizer",
}


class Inspector:
    """Inspects checkpoints and tokenises tasks and texts with their tokenizers."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def inspect(self, ref: CheckpointRef, folder: Path) -> Preflight:
        """Call `neuneu.scoring.checkpoints.preflight.inspect`.

        Raises:
            CheckpointError: The checkpoint must not be scored.
        """
        try:
            return inspect(ref, folder)
        except OSError as error:
            raise CheckpointError(f"its files cannot be read ({error}).") from error

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a module-level function, such as a conversion."""
        return function(*args)

    def workload(self, folder: Path, max_tokens: int, parts: Sequence[Part]) -> Workload:
        """Tokenise some tasks and texts with the tokenizer of a checkpoint.

        Raises:
            CheckpointError: They do not fit the tokenizer.
        """
        tokenizer = read_tokenizer(folder)
        try:
            return make_workload(self._wanted.only(parts), tokenizer, max_tokens=max_tokens)
        except ValueError as error:
            raise CheckpointError(f"tasks or texts do not fit its tokenizer: {error}") from error

    def close(self) -> None:
        """Do nothing."""


class Inspection:
    """An `Inspector` in a process of its own, which is replaced if a checkpoint breaks it.

    Threads may share it. Every method raises CheckpointError for faults of the checkpoint, which
    include breaking the inspector, hanging it and exceeding `timeout_s` seconds.
    """

    def __init__(self, host: Callable[..., Host], wanted: Wanted) -> None:
        """Start the inspector; `host` creates an object in a process of its own."""
        self._new: Callable[[], Host] = lambda: host(Inspector, wanted)
        self._host: Host | None = self._new()
        self._calling = threading.Lock()
        self._tokenising = threading.Lock()
        self._workloads = WorkloadCache()

    def inspect(self, ref: CheckpointRef, folder: Path, *, timeout_s: float) -> Preflight:
        """Call `neuneu.scoring.checkpoints.preflight.inspect`."""
        checked: Preflight = self._call("inspect", ref, folder, timeout_s=timeout_s)
        return checked

    def convert(self, function: Callable[..., Any], *args: Any, timeout_s: float) -> None:
        """Call a conversion, a module-level function, with its folders."""
        self._call("run", function, *args, timeout_s=timeout_s)

    def tokenise(self, key: WorkloadKey, folder: Path, *, timeout_s: float) -> Workload:
        """Tokenise the parts in `key` for the tokenizer in a folder and the window in `key`, once.

        The last `WORKLOADS_KEPT` are cached and shared by threads.
        """
        with self._tokenising:
            if key not in self._workloads:
                _, max_tokens, parts = key
                self._workloads[key] = self._call(
                    "workload", folder, max_tokens, parts, timeout_s=timeout_s
                )
            self._workloads.move_to_end(key)
            return self._workloads[key]

    def kill(self) -> None:
        """Kill the inspector; a later call starts another."""
        host, self._host = self._host, None
        if host is not None:
            host.kill()

    def _call(self, method: str, *args: Any, timeout_s: float) -> Any:
        with self._calling:
            if self._host is None:
                self._host = self._new()
            try:
                return self._host.call(method, *args, timeout_s=timeout_s)
            except ProcessError as failure:
                self.kill()
                raise CheckpointError(f"{_ACTIVITIES[method]}: {failure}") from failure
