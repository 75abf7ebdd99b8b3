"""Extraction in this process, without Ray: the worker's own code, its processes replaced."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuneu.data.checkpoints import list_local
from neuneu.data.store.store import Store
from neuneu.scoring.checkpoints.grouping import group
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.pipeline import fingerprint
from neuneu.scoring.wanted import load_wanted, old_meanings
from neuneu.scoring.workers.worker import Outcome, Worker


class InProcess:
    """A host in this process."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self.target = make(*args)

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        return getattr(self.target, method)(*args)

    def close(self) -> None:
        self.target.close()

    kill = close


def score(config: ExtractConfig) -> list[Outcome]:
    """Score the pending checkpoints as an extraction does; all must be done afterwards."""
    outcomes = attempt(config)
    for outcome in outcomes:
        assert outcome.status == "done", outcome.error
    return outcomes


def attempt(config: ExtractConfig) -> list[Outcome]:
    """Score or quarantine the pending checkpoints as an extraction does."""
    wanted, store = load_wanted(config), Store(config.store)
    store.bind(fingerprint(config, engine="test"), corpus=wanted.corpora[0].name)
    old_meanings(store, wanted)
    store.claim(wanted.records())
    staging = Path(config.store).parent / "staging"
    worker = Worker(replace(config, staging=staging, staging_gb=1), wanted, host=InProcess)
    outcomes = [worker.run(pending) for pending in group(list_local(config.checkpoints)).pending]
    worker.close()
    return outcomes
