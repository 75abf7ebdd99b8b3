"""The one engine of a worker: its process, and that of the next architecture ahead of time."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from neuneu.scoring.workers.processes import Host


@dataclass(kw_only=True)
class RunningEngine:
    """The process of an engine; one architecture for as long as it lives.

    `started` is false until the engine holds its first checkpoint.
    """

    host: Host
    name: str
    architecture: str = ""
    started: bool = False


class EngineSlot:
    """Holds one engine, of one architecture; threads may prepare the next one."""

    def __init__(self, new_host: Callable[[], Host]) -> None:
        """Starts nothing; `new_host` begins the process of an `EngineHost`."""
        self._new_host = new_host
        self._current: RunningEngine | None = None
        self._spare: RunningEngine | None = None
        self._count = 0
        self._changing = threading.Lock()

    def prepare(self, architecture: str) -> None:
        """Begins a process for an architecture while the last of another is scored."""
        with self._changing:
            current = self._current
            other = current is None or current.architecture != architecture
            if other and self._spare is None:
                self._spare = self._begin()

    def take(self, architecture: str) -> RunningEngine:
        """The engine of an architecture; that of another one is closed, its process with it."""
        with self._changing:
            if self._current is not None and self._current.architecture != architecture:
                self._current.host.close()
                self._current = None
            if self._current is None:
                self._current, self._spare = self._spare or self._begin(), None
                self._current.architecture = architecture
            return self._current

    def kill(self) -> None:
        """Ends the engine's process at once."""
        with self._changing:
            current, self._current = self._current, None
        if current is not None:
            current.host.kill()

    def close(self) -> None:
        """Ends both processes."""
        with self._changing:
            current, spare = self._current, self._spare
            self._current = self._spare = None
        if current is not None:
            current.host.close()
        if spare is not None:
            spare.host.kill()

    def _begin(self) -> RunningEngine:
        self._count += 1
        name = f"{os.uname().nodename}-{os.getpid()}-{self._count}"
        return RunningEngine(host=self._new_host(), name=name)
