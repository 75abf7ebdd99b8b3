"""Objects in processes of their own: what fails, hangs or crashes there, and how they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neuneu.core.errors import CheckpointError
from neuneu.scoring.workers.processes import ProcessError, Remote

LONG_S = 60.0


class Object:
    """What is called from afar."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, *numbers: int) -> int:
        self.value += sum(numbers)
        return self.value

    def size(self, data: bytes) -> int:
        return len(data)

    def refuse(self) -> None:
        raise CheckpointError("not finite")

    def fail(self) -> None:
        raise ZeroDivisionError("first\nsecond")

    def panic(self) -> None:
        raise BaseException("native code")  # noqa: TRY002 - as pyo3 does

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang(self) -> None:
        time.sleep(LONG_S)

    def child(self) -> int:
        """Starts a process of its own, as an engine with several GPUs does."""
        return subprocess.Popen(["sleep", "60"]).pid

    def close(self) -> None:
        """Nothing is held."""


class Unmade:
    def __init__(self) -> None:
        raise ImportError("no vllm here")


@pytest.fixture
def start() -> Iterator[Callable[..., Remote]]:
    started: list[Remote] = []

    def make(*args: Any) -> Remote:
        started.append(Remote(*args))
        return started[-1]

    yield make
    for remote in started:
        remote.kill()


def gone(pid: int) -> bool:
    """Whether a process ends within a minute; a zombie has ended."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_call_keeps_state_and_passes_large_values(start: Callable[..., Remote]) -> None:
    remote = start(Object, 5)
    assert remote.pid != os.getpid()
    assert remote.call("add", 1, 2, timeout_s=LONG_S) == 8
    assert remote.call("add", 1, timeout_s=LONG_S) == 9
    assert remote.call("size", bytes(10**7), timeout_s=LONG_S) == 10**7
    remote.close()
    remote.close()
    assert gone(remote.pid)
    with pytest.raises(ProcessError, match="was closed"):
        remote.call("add", 1, timeout_s=LONG_S)


def test_call_errors_of_ours_come_back_as_they_are(start: Callable[..., Remote]) -> None:
    remote = start(Object)
    with pytest.raises(CheckpointError, match=r"^not finite$"):
        remote.call("refuse", timeout_s=LONG_S)
    assert remote.call("add", 1, timeout_s=LONG_S) == 1


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fail", "^ZeroDivisionError: first$"),
        ("panic", "^BaseException: native code$"),
        ("crash", "died .SIGSEGV; see"),
        ("absent", "AttributeError"),
    ],
)
def test_call_anything_else_is_a_failure_of_the_process(
    start: Callable[..., Remote], method: str, message: str
) -> None:
    with pytest.raises(ProcessError, match=message):
        start(Object).call(method, timeout_s=LONG_S)


def test_call_past_its_limit_ends_the_process_and_all_it_started(
    start: Callable[..., Remote],
) -> None:
    remote = start(Object)
    grandchild = remote.call("child", timeout_s=LONG_S)
    with pytest.raises(ProcessError, match=r"took longer than the limit of 0.2 s; it was stopped"):
        remote.call("hang", timeout_s=0.2)
    assert gone(remote.pid)
    assert gone(grandchild)
    with pytest.raises(ProcessError, match=r"limit of 0.2 s"):
        remote.call("add", 1, timeout_s=LONG_S)


def test_start_that_fails_tells_the_first_call(start: Callable[..., Remote]) -> None:
    with pytest.raises(ProcessError, match=r"^ImportError: no vllm here$"):
        start(Unmade).call("add", timeout_s=LONG_S)


def test_start_that_takes_longer_than_the_limit_is_stopped(start: Callable[..., Remote]) -> None:
    with pytest.raises(ProcessError, match=r"limit of 0.3 s"):
        start(time.sleep, LONG_S).call("add", timeout_s=0.3)


def test_process_ends_with_the_one_that_started_it_however_that_ends() -> None:
    script = (
        "import time; from neuneu.scoring.workers.processes import Remote\n"
        "remote = Remote(dict); print(remote.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    assert gone(pid)
