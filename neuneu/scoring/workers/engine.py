"""The engine of a worker: the object in a process of its own, and the worker's handle on it."""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuneu.core.errors import EngineError
from neuneu.data.store.store import CheckpointRows, Part
from neuneu.scoring.checkpoints.configs import check_dense
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.checkpoints.weights import read_headers
from neuneu.scoring.engines.engine import EngineConfig, Scorer, chosen, read_model_config
from neuneu.scoring.evaluation import Workload, evaluate
from neuneu.scoring.workers.processes import Host, peak_rss_mb

WorkloadKey = tuple[str, int, tuple[Part, ...]]
"""(tokenizer hash, longest prompt in tokens, parts to score)."""

WORKLOADS_KEPT: Final = 2
"""The current one, and that of the next architecture or tokenizer."""


class WorkloadCache(OrderedDict[WorkloadKey, Workload]):
    """At most `WORKLOADS_KEPT` workloads; a new one replaces the first."""

    def __setitem__(self, key: WorkloadKey, workload: Workload) -> None:
        super().__setitem__(key, workload)
        while len(self) > WORKLOADS_KEPT:
            self.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A scored checkpoint, the tokens that the model computed, and its peak memory in MiB."""

    rows: CheckpointRows
    computed_tokens: int
    rss_mb: float


def make_scorer(config: EngineConfig, folder: Path) -> Scorer:
    """Start an engine for the architecture of a checkpoint and load that checkpoint.

    Raises:
        CheckpointError: The weights cannot be used, or not by this engine.
        EngineError: The engine does not start, or does not hold the weights it was given.
    """
    params = sum(math.prod(header.shape) for header in read_headers(folder).values())
    if chosen(config, params).kind == "vllm":
        check_dense(read_model_config(folder).to_dict())  # with the defaults of its type
        from neuneu.scoring.engines.vllm_scorer import VllmScorer

        return VllmScorer(config, folder)
    from neuneu.scoring.engines.packed_scorer import PackedScorer

    return PackedScorer(config, folder)


class EngineHost:
    """An engine: the first checkpoint starts it, others of its architecture are swapped in."""

    def __init__(self, config: EngineConfig, threads: int) -> None:
        """Import what the engine needs, which takes seconds, without starting it."""
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        if config.kind == "vllm":
            import neuneu.scoring.engines.vllm_scorer  # before the first checkpoint
        else:
            import neuneu.scoring.engines.packed_scorer  # noqa: F401
        self._config = config
        self._scorer: Scorer | None = None
        self._workloads = WorkloadCache()

    def start(self, folder: Path) -> None:
        """Start the engine with a checkpoint.

        Raises:
            CheckpointError, EngineError: As `make_scorer`; end this process.
        """
        self._scorer = make_scorer(self._config, folder)

    def load(self, folder: Path) -> None:
        """Swap in the weights of a checkpoint.

        Raises:
            CheckpointError: The weights cannot be used; the engine still works.
            EngineError: The engine failed; end this process.
        """
        self._engine().load(folder)

    def knows(self, key: WorkloadKey) -> bool:
        """Whether the workload is in the cache."""
        return key in self._workloads

    def learn(self, key: WorkloadKey, workload: Workload) -> None:
        """Add a workload to the cache."""
        self._workloads[key] = workload

    def score(self, checked: Preflight, key: WorkloadKey, attempts: int) -> Scored:
        """Score the weights loaded last.

        Raises:
            CheckpointError: A log-probability is not finite.
            EngineError: The engine failed; end this process.
        """
        scorer = self._engine()
        before = scorer.computed_tokens
        rows = evaluate(scorer, self._workloads[key], checked, attempts=attempts)
        computed = scorer.computed_tokens - before
        return Scored(rows=rows, computed_tokens=computed, rss_mb=peak_rss_mb())

    def proof(self) -> str:
        """Evidence that the engine holds the weights loaded last."""
        return self._engine().proof

    def close(self) -> None:
        """Close the engine."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.close()

    def _engine(self) -> Scorer:
        if self._scorer is None:
            raise EngineError("no engine was started in this process; start one first.")
        return self._scorer


@dataclass(kw_only=True)
class RunningEngine:
    """The process of an engine, which serves one architecture.

    `started` is whether the engine holds its first checkpoint.
    """

    host: Host
    name: str
    architecture: str = ""
    started: bool = False


class EngineSlot:
    """Holds one engine, of one architecture; threads may prepare the next."""

    def __init__(self, new_host: Callable[[], Host]) -> None:
        """Start nothing yet; `new_host` starts the process of an `EngineHost`."""
        self._new_host = new_host
        self._current: RunningEngine | None = None
        self._spare: RunningEngine | None = None
        self._count = 0
        self._changing = threading.Lock()

    def prepare(self, architecture: str) -> None:
        """Start a process for an architecture while the last checkpoint of another is scored."""
        with self._changing:
            current = self._current
            other = current is None or current.architecture != architecture
            if other and self._spare is None:
                self._spare = self._begin()

    def take(self, architecture: str) -> RunningEngine:
        """Return the engine of an architecture, after ending the process of another one."""
        with self._changing:
            if self._current is not None and self._current.architecture != architecture:
                self._current.host.close()
                self._current = None
            if self._current is None:
                self._current, self._spare = self._spare or self._begin(), None
                self._current.architecture = architecture
            return self._current

    def kill(self) -> None:
        """Kill the process of the engine."""
        with self._changing:
            current, self._current = self._current, None
        if current is not None:
            current.host.kill()

    def close(self) -> None:
        """End both processes."""
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
