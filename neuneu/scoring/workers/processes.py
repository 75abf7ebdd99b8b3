"""Objects in processes of their own, called with a time limit.

Engines and tokenizers are native code. They can hang while holding the interpreter lock, crash, use
up all memory, and after a CUDA error fail on everything until their process ends. In a process of
their own none of this affects the worker, and GPU memory is certain to be released.
"""

import contextlib
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, Protocol

from neuneu.core import logs
from neuneu.core.errors import NeuneuError

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG: Final = 1
_GRACE_S: Final = 10.0
_ABORT_S: Final = 2.0
_SERVE: Final = "from neuneu.scoring.workers.processes import serve; serve({}, {})"


class ProcessError(NeuneuError):
    """A process died, was stopped, or raised an unexpected exception; discard it."""


class Host(Protocol):
    """A handle on an object, possibly in another process."""

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Return the result of a method.

        Raises:
            NeuneuError: The method raised it.
            ProcessError: Anything else went wrong; the object is lost.
        """

    def close(self) -> None:
        """Close the object and release its resources; calling this again does nothing."""

    def kill(self) -> None:
        """End the object at once, without closing it."""


class Remote:
    """An object in a new process (`Host`), created in the background.

    The process ends when this one ends, in whatever way.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        """Start a process that creates the object by `make(*args)`; both must be picklable."""
        self._made = False
        self._stopped = ""
        # Spawned by another thread, because a child dies with the thread that started it.
        self._process, self._connection = _spawner().submit(_spawn).result()
        self._first = bytes(ForkingPickler.dumps((make, args)))
        self._sender: threading.Thread | None = threading.Thread(target=self._send_first)
        self._sender.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Call a method (`Host.call`); the time to create the object counts."""
        if self._stopped:
            raise ProcessError(self._stopped)
        watchdog = threading.Timer(timeout_s, self._time_out, (timeout_s,))
        watchdog.start()
        try:
            self._await_made()
            self._connection.send((method, args))
            return self._reply()
        except (EOFError, OSError) as error:
            raise ProcessError(self._death()) from error
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """Call `close` of the object, then end its process."""
        if self._process.poll() is None and not self._stopped:
            with contextlib.suppress(NeuneuError):
                self.call("close", timeout_s=_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """Kill the process and its children."""
        self._stopped = self._stopped or "its process was closed."
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._sender is not None:
            self._sender.join()
        self._connection.close()

    def _send_first(self) -> None:
        # The arguments can be large; if the process never reads them, the limit of a call ends it.
        with contextlib.suppress(OSError):
            self._connection.send_bytes(self._first)

    def _await_made(self) -> None:
        if self._made:
            return
        if self._sender is not None:
            self._sender.join()
            self._sender = None
            self._first = b""
        self._reply()
        self._made = True

    def _reply(self) -> Any:
        kind, value = self._connection.recv()
        if kind == "raised":
            raise value
        if kind == "failed":
            raise ProcessError(value)
        return value

    def _time_out(self, seconds: float) -> None:
        self._stopped = f"took longer than the limit of {seconds:g} s; it was stopped."
        # With faulthandler enabled, SIGABRT makes it log where it hangs.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ABORT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self) -> str:
        if not self._stopped:
            try:
                code = self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._stopped = "its process closed the connection; it was stopped."
                return self._stopped
            self._stopped = f"its process died ({_ending(code)}; see the worker's log)."
        return self._stopped


def serve(descriptor: int, parent: int) -> None:
    """Run the process: create the object, then answer calls until the connection closes."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the signal was set
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    logs.set_up()
    connection = Connection(descriptor)
    target: Any = None
    while True:
        try:
            try:
                called, args = connection.recv()
            except EOFError:
                return
            if target is None:
                target, value = called(*args), None
            else:
                value = getattr(target, called)(*args)
            reply = ForkingPickler.dumps(("value", value))
        except NeuneuError as error:
            reply = ForkingPickler.dumps(("raised", error))
        except BaseException as error:  # noqa: BLE001 - panics in native code are not Exceptions
            _log.warning("unexpected: %s", "".join(traceback.format_exception(error)).rstrip())
            reply = ForkingPickler.dumps(("failed", first_line(error)))
        connection.send_bytes(reply)
        if target is None:
            return


def first_line(error: BaseException) -> str:
    """Type and first line of an exception."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'without a message'}"


def peak_rss_mb() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@lru_cache(maxsize=1)
def _spawner() -> ThreadPoolExecutor:
    """A thread that lives until this process ends."""
    return ThreadPoolExecutor(1, "spawner")


def _spawn() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        # Not multiprocessing, which would run the main module of the parent again. In a session of
        # its own, so that its children can be killed with it.
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE.format(theirs.fileno(), os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    return process, Connection(ours.detach())


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
