"""Shared by all tests: the shared data, isolation from the network, log lines."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # In parallel tests, OpenMP threads that wait for a core slow each other down tenfold.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import hypothesis
import pytest

from neuneu.core import logs

# Machines are noisy, so the duration of an example is meaningless. The same examples at every run
# but `make test-random`'s: whether a change lands is no matter of luck.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile(os.environ.get("NEUNEU_EXAMPLES", "fixed"))

pytest_plugins = ("s3_server", "hub_server", "browser", "answer_folders")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Set by shells for background jobs; commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data; tests are skipped without it."""
    path = Path(os.environ.get("NEUNEU_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "trajectories").is_dir():
        pytest.skip(f"no shared data at {path} (set NEUNEU_SHARED)")
    return path


@pytest.fixture
def log_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the logging configuration after the test."""
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
    """Log everything as JSON; return a function that parses stderr since the last call."""
    logs.set_up("debug", "json")
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
