"""The inspection of a worker: checkpoints looked at, converted and tokenised for, one at a time."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.preflight import Preflight, inspect
from neuneu.scoring.corpus import Corpus
from neuneu.scoring.engines.engine import read_tokenizer
from neuneu.scoring.evaluation import Workload, make_workload
from neuneu.scoring.multiple_choice import Task
from neuneu.scoring.workers.engine import WorkloadCache, WorkloadKey
from neuneu.scoring.workers.processes import Host, ProcessError

_WORDS: Final = {
    "run": "converting it",
    "inspect": "inspecting it",
    "workload": "tokenising with its tokenizer",
}


class Inspector:
    """Looks at checkpoints and tokenises what is scored on them."""

    def __init__(self, tasks: Sequence[Task], corpus: Corpus) -> None:
        """Takes what is scored."""
        self._tasks = tasks
        self._corpus = corpus

    def inspect(self, ref: CheckpointRef, folder: Path) -> Preflight:
        """As `neuneu.scoring.checkpoints.preflight.inspect`.

        Raises:
            CheckpointError: it must not be scored.
        """
        try:
            return inspect(ref, folder)
        except OSError as error:
            raise CheckpointError(f"its files cannot be read ({error}).") from error

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function of a module; a conversion, for example."""
        return function(*args)

    def workload(self, folder: Path, max_tokens: int) -> Workload:
        """Tasks and corpus for the tokenizer of a checkpoint.

        Raises:
            CheckpointError: they do not fit it.
        """
        tokenizer = read_tokenizer(folder)
        try:
            return make_workload(self._tasks, self._corpus, tokenizer, max_tokens=max_tokens)
        except ValueError as error:
            raise CheckpointError(f"tasks or corpus do not fit its tokenizer: {error}") from error

    def close(self) -> None:
        """Nothing is held."""


class Inspection:
    """An `Inspector` in a place of its own, which is replaced when a checkpoint breaks it.

    Threads may share it. Every method raises CheckpointError for what the checkpoint is at fault
    for: what breaks the inspector, hangs in it or takes longer than `timeout_s` seconds, too.
    """

    def __init__(self, host: Callable[..., Host], tasks: Sequence[Task], corpus: Corpus) -> None:
        """Starts the inspector; `host` makes an object in a place of its own."""
        self._new: Callable[[], Host] = lambda: host(Inspector, tasks, corpus)
        self._host: Host | None = self._new()
        self._calling = threading.Lock()
        self._tokenising = threading.Lock()
        self._workloads = WorkloadCache()

    def inspect(self, ref: CheckpointRef, folder: Path, *, timeout_s: float) -> Preflight:
        """As `neuneu.scoring.checkpoints.preflight.inspect`."""
        checked: Preflight = self._call("inspect", ref, folder, timeout_s=timeout_s)
        return checked

    def convert(self, function: Callable[..., Any], *args: Any, timeout_s: float) -> None:
        """Calls a conversion, a function of a module, with its folders."""
        self._call("run", function, *args, timeout_s=timeout_s)

    def tokenise(self, key: WorkloadKey, folder: Path, *, timeout_s: float) -> Workload:
        """Tasks and corpus for the tokenizer in a folder and the window that `key` names.

        Each is tokenised once, whichever thread asks first; `WORKLOADS_KEPT` of them are kept.
        """
        with self._tokenising:
            if key not in self._workloads:
                _, max_tokens = key
                self._workloads[key] = self._call(
                    "workload", folder, max_tokens, timeout_s=timeout_s
                )
            self._workloads.move_to_end(key)
            return self._workloads[key]

    def kill(self) -> None:
        """Ends the inspector; a later call starts another."""
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
                raise CheckpointError(f"{_WORDS[method]}: {failure}") from failure
