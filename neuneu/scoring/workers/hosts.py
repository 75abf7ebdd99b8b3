"""What runs in processes of its own: the engine, and the inspection of checkpoints."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.store import CheckpointRows
from neuneu.scoring.checkpoints.preflight import Preflight, inspect
from neuneu.scoring.corpus import Corpus
from neuneu.scoring.engines.engines import EngineConfig, read_tokenizer
from neuneu.scoring.engines.factory import make_scorer
from neuneu.scoring.engines.scorer import Scorer
from neuneu.scoring.evaluation import Workload, evaluate, make_workload
from neuneu.scoring.requests import Task
from neuneu.scoring.workers.processes import peak_rss_mb

WorkloadKey = tuple[str, int]
"""(tokenizer hash, longest prompt in tokens)."""

WORKLOADS_KEPT: Final = 2
"""The one in use and that of the next architecture or tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A scored checkpoint.

    `computed_tokens` are those the model ran on; `rss_mb` is the most memory that the engine's
    process has held.
    """

    unit: CheckpointRows
    computed_tokens: int
    rss_mb: float


class EngineHost:
    """One engine: the first checkpoint starts it, others of its architecture are swapped in."""

    def __init__(self, config: EngineConfig, threads: int) -> None:
        """Imports what the engine needs, which takes seconds; starts nothing."""
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
        if config.kind == "vllm":
            import neuneu.scoring.engines.vllm_scorer  # noqa: F401 - ahead of the first checkpoint
        self._config = config
        self._scorer: Scorer | None = None
        self._workloads: OrderedDict[WorkloadKey, Workload] = OrderedDict()

    def start(self, folder: Path) -> None:
        """Starts the engine with a checkpoint.

        Raises:
            CheckpointError, EngineError: as `make_scorer`; the process is to be ended.
        """
        self._scorer = make_scorer(self._config, folder)

    def load(self, folder: Path) -> None:
        """Swaps in the weights of a checkpoint.

        Raises:
            CheckpointError: these weights cannot be used; the engine is still good.
            EngineError: the process is to be ended.
        """
        self._engine().load(folder)

    def knows(self, key: WorkloadKey) -> bool:
        """Whether a workload was given and is still kept."""
        return key in self._workloads

    def learn(self, key: WorkloadKey, workload: Workload) -> None:
        """Keeps a workload; of more than `WORKLOADS_KEPT` it forgets the oldest."""
        self._workloads[key] = workload
        while len(self._workloads) > WORKLOADS_KEPT:
            self._workloads.popitem(last=False)

    def score(self, checked: Preflight, key: WorkloadKey, attempts: int) -> Scored:
        """Scores the weights that were loaded last.

        Raises:
            CheckpointError: a log-probability is not finite.
            EngineError: the process is to be ended.
        """
        scorer = self._engine()
        before = scorer.computed_tokens
        unit = evaluate(scorer, self._workloads[key], checked, attempts=attempts)
        return Scored(
            unit=unit,
            computed_tokens=scorer.computed_tokens - before,
            rss_mb=peak_rss_mb(),
        )

    def proof(self) -> str:
        """What shows that the engine holds the weights loaded last."""
        return self._engine().proof

    def close(self) -> None:
        """Closes the engine."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.close()

    def _engine(self) -> Scorer:
        if self._scorer is None:
            raise EngineError("no engine was started in this process; start one.")
        return self._scorer


class Inspector:
    """Looks at checkpoints and tokenises what is scored on them."""

    def __init__(self, tasks: Sequence[Task], corpus: Corpus) -> None:
        """Takes what is scored."""
        self._tasks = tasks
        self._corpus = corpus

    def inspect(self, ref: CheckpointRef, folder: Path) -> Preflight:
        """As `neuneu.scoring.checkpoints.preflight.inspect`.

        Raises:
            CheckpointError: it must not be scored.
        """
        try:
            return inspect(ref, folder)
        except OSError as error:
            raise CheckpointError(f"its files cannot be read ({error}).") from error

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function of a module; a conversion, for example."""
        return function(*args)

    def workload(self, folder: Path, max_tokens: int) -> Workload:
        """Tasks and corpus for the tokenizer of a checkpoint.

        Raises:
            CheckpointError: they do not fit it.
        """
        tokenizer = read_tokenizer(folder)
        try:
            return make_workload(self._tasks, self._corpus, tokenizer, max_tokens=max_tokens)
        except ValueError as error:
            raise CheckpointError(f"tasks or corpus do not fit its tokenizer: {error}") from error

    def close(self) -> None:
        """Nothing is held."""
