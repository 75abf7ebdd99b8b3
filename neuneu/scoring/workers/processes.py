"""Objects that live in a process of their own: calls go in, results come out, within a time limit.

Engines and tokenizers are native code. They can hang with the interpreter's lock held, crash, take
all memory, and after a CUDA error fail on everything until their process ends. In a process of
their own none of that takes the worker along, and the memory of a GPU is given back for certain.
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
    """A process that died, was stopped, or raised what it should not; give it up."""


class Host(Protocol):
    """An object that is called from afar."""

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """The result of a method.

        Raises:
            NeuneuError: as the method raises it.
            ProcessError: anything else; what came before it is lost.
        """

    def close(self) -> None:
        """Ends the object and what it holds; calling it again does nothing."""

    def kill(self) -> None:
        """Ends it at once, without asking it."""


class Remote:
    """An object in a new process (`Host`), made in the background.

    The process ends with this one, however this one ends.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        """Starts the process, in which `make(*args)` makes the object; both have to pickle."""
        self._made = False
        self._stopped = ""
        # Not this thread: the child dies with the thread that started it.
        self._process, self._connection = _spawner().submit(_spawn).result()
        self._first = bytes(ForkingPickler.dumps((make, args)))
        self._sender: threading.Thread | None = threading.Thread(target=self._send_first)
        self._sender.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """As `Host.call`; the time that making the object takes counts."""
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
        """Calls the object's `close`, and ends its process if that does not."""
        if self._process.poll() is None and not self._stopped:
            with contextlib.suppress(NeuneuError):
                self.call("close", timeout_s=_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """Ends the process and all that it started."""
        self._stopped = self._stopped or "its process was closed."
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._sender is not None:
            self._sender.join()
        self._connection.close()

    def _send_first(self) -> None:
        # What it is made of can be large; a process that never reads is ended by a call's limit.
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
        # With faulthandler enabled in it, SIGABRT writes where it hangs into its log.
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
    """Runs the process: makes the object that was asked for, then answers calls until the end."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask to die with it
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
        except BaseException as error:  # noqa: BLE001 - panics of native code are not Exceptions
            _log.warning("unexpected: %s", "".join(traceback.format_exception(error)).rstrip())
            reply = ForkingPickler.dumps(("failed", first_line(error)))
        connection.send_bytes(reply)
        if target is None:
            return


def first_line(error: BaseException) -> str:
    """The type and the first line of an exception."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'without a message'}"


def peak_rss_mb() -> float:
    """The most memory this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@lru_cache(maxsize=1)
def _spawner() -> ThreadPoolExecutor:
    """A thread that lives as long as this process."""
    return ThreadPoolExecutor(1, "spawner")


def _spawn() -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        # By the interpreter itself and not by multiprocessing, which would run the parent's
        # main module again. A session of its own, so that all it starts can be ended with it.
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
