"""What all tests share: where the shared data lies, isolation from the network, log lines."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests side by side: OpenMP threads that wait for a core slow each other down tenfold.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import hypothesis
import pytest

from neuneu.core import logs

# Machines are noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

pytest_plugins = ("s3_server", "hub_server", "browser", "answer_folders")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs so, and the commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data folder; tests that ask for it skip where it is absent."""
    path = Path(os.environ.get("NEUNEU_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "trajectories").is_dir():
        pytest.skip(f"no shared data at {path} (set NEUNEU_SHARED)")
    return path


@pytest.fixture
def log_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs as the test leaves them are put back."""
    for name in (logs.LEVEL_VARIABLE, logs.FORMAT_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger("neuneu")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before[0], before[1], before[2]


@pytest.fixture
def log_lines(
    log_settings: None, capsys: pytest.CaptureFixture[str]
) -> Callable[[], list[dict[str, Any]]]:
    """Logs everything as JSON; calling it gives what stderr got since, parsed."""
    logs.set_up("debug", "json")
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
