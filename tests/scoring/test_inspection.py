"""The inspection of a worker, by a host that counts what it is asked."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from neuneu.core.errors import CheckpointError
from neuneu.scoring.workers.inspection import Inspection
from neuneu.scoring.workers.processes import ProcessError


class Counting:
    """Notes its calls; one for folder `broken` breaks it."""

    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self.calls = calls

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        self.calls.append((method, args[1]))
        time.sleep(0.05)
        if args[0] == Path("broken"):
            raise ProcessError("its process died.")
        return f"workload of {args[1]}"

    def close(self) -> None:
        """Nothing is held."""

    def kill(self) -> None:
        self.calls.append(("kill", None))


@pytest.fixture
def calls() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def inspection(calls: list[tuple[str, Any]]) -> Inspection:
    return Inspection(lambda *_: Counting(calls), None)  # type: ignore[arg-type]


def test_tokenise_once_for_threads_that_ask_at_the_same_time(
    inspection: Inspection, calls: list[tuple[str, Any]]
) -> None:
    ready = Barrier(2)

    def ask() -> Any:
        ready.wait(60)
        return inspection.tokenise(("hash", 127, ()), Path("good"), timeout_s=60)

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(ask) for _ in range(2)]
        assert [future.result() for future in found] == ["workload of 127"] * 2
    assert calls == [("workload", 127)]


def test_what_breaks_the_inspector_is_the_checkpoints_fault_and_another_is_started(
    inspection: Inspection, calls: list[tuple[str, Any]]
) -> None:
    with pytest.raises(CheckpointError, match=r"^tokenising with its tokenizer: its process died"):
        inspection.tokenise(("hash", 127, ()), Path("broken"), timeout_s=60)
    assert inspection.tokenise(("hash", 63, ()), Path("good"), timeout_s=60) == "workload of 63"
    assert calls == [("workload", 127), ("kill", None), ("workload", 63)]
