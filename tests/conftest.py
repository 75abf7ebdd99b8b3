"""What all tests share: where the shared data lies, and isolation from the network."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# Machines are noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

pytest_plugins = ("s3_server", "hub_server")

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
