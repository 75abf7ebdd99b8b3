"""The stateful part of extraction: one engine a worker, checkpoint after checkpoint."""

import contextlib
import faulthandler
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from neuneu.errors import CheckpointError, EngineError
from neuneu.extraction.attempts import AttemptLedger
from neuneu.extraction.corpus import Corpus
from neuneu.extraction.engines import EngineConfig, make_scorer, window
from neuneu.extraction.evaluation import Workload, evaluate, make_workload, quarantined
from neuneu.extraction.preflight import Preflight
from neuneu.extraction.requests import Task
from neuneu.extraction.scorer import Scorer
from neuneu.store import Store, Unit

ENGINE_FAILURES_TO_GIVE_UP: Final = 2
PHASES: Final = ("tokenise", "engine_start", "swap", "score", "write")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker is told; `threads` are the CPU threads of its engine."""

    engine: EngineConfig
    store: Path
    threads: int
    checkpoint_timeout_s: float
    max_attempts: int


@dataclass(kw_only=True)
class Outcome:
    """What became of a checkpoint; seconds are summed over its attempts.

    `engine` names the engine that scored it, `engines_started` are those begun for it.
    """

    suite: str
    run: str
    step: int
    status: str = ""
    error: str = ""
    attempts: int = 0
    tokens: int = 0
    engine: str = ""
    engines_started: int = 0
    swaps: int = 0
    rss_mb: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the block's wall time to a phase, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


class Worker:
    """Scores checkpoints and commits each to the store as soon as it is scored.

    Keeps one engine as long as the architecture stays the same, and swaps weights. A failed
    engine is closed and another is made; a checkpoint that fails `max_attempts` times is
    quarantined, and after two of an architecture that was never scored, so are its others.
    One that hangs past the time limit takes its process along: only that frees a
    hung engine, and the ledger tells the next process what happened.
    """

    def __init__(self, config: WorkerConfig, tasks: Sequence[Task], corpus: Corpus) -> None:
        """Starts nothing yet: the first checkpoint says which engine is wanted."""
        self._config = config
        self._tasks = tasks
        self._corpus = corpus
        self._store = Store(config.store)
        self._ledger = AttemptLedger(
            config.store / "attempts", timeout_s=config.checkpoint_timeout_s
        )
        self._scorer: Scorer | None = None
        self._architecture = ""
        self._engine_name = ""
        self._n_engines = 0
        self._scored: set[str] = set()
        self._engine_failures: dict[str, list[str]] = {}
        self._workloads: dict[tuple[str, int], Workload] = {}
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        import torch

        torch.set_num_threads(config.threads)

    def run(self, checked: Preflight) -> Outcome:
        """Scores and commits one checkpoint, or quarantines it."""
        ref = checked.ref
        outcome = Outcome(suite=ref.suite, run=ref.run, step=ref.step)
        unit = self._unit(checked, outcome)
        with outcome.timed("write"):
            self._store.commit(unit)
        self._ledger.end(ref)
        outcome.status = unit.checkpoint["status"]
        outcome.error = unit.checkpoint["error"] or ""
        outcome.attempts = unit.checkpoint["attempts"]
        outcome.rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return outcome

    def close(self) -> None:
        """Closes the engine; the next checkpoint starts another."""
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.close()

    def _unit(self, checked: Preflight, outcome: Outcome) -> Unit:
        """The unit to commit, after as many attempts as it takes or is allowed."""
        failures = self._engine_failures.get(checked.config_hash, [])
        if len(failures) >= ENGINE_FAILURES_TO_GIVE_UP:
            error = (
                f"not tried: the engine failed on {len(failures)} checkpoints of this "
                f"architecture and scored none of it; the last time: {failures[-1]}"
            )
            return quarantined(checked.ref, error, attempts=0, checked=checked)
        error = ""
        while True:
            attempt = self._ledger.begin(checked.ref)
            error = attempt.last_error or error
            if attempt.number > self._config.max_attempts:
                if checked.config_hash not in self._scored:
                    self._engine_failures.setdefault(checked.config_hash, []).append(error)
                number = attempt.number - 1
                return quarantined(checked.ref, error, attempts=number, checked=checked)
            try:
                with _stopped_after(self._config.checkpoint_timeout_s):
                    unit = self._attempt(checked, attempt.number, outcome)
            except CheckpointError as failure:
                return quarantined(
                    checked.ref, str(failure), attempts=attempt.number, checked=checked
                )
            except EngineError as failure:
                self.close()
                self._ledger.fail(checked.ref, attempt.number, str(failure))
                continue
            self._scored.add(checked.config_hash)
            self._engine_failures.pop(checked.config_hash, None)
            return unit

    def _attempt(self, checked: Preflight, number: int, outcome: Outcome) -> Unit:
        folder = Path(checked.ref.uri)
        with outcome.timed("tokenise"):
            workload = self._workload(checked, folder)
        if self._scorer is not None and self._architecture == checked.config_hash:
            with outcome.timed("swap"):
                self._scorer.load(folder)
            outcome.swaps += 1
        else:
            self.close()
            outcome.engines_started += 1
            with outcome.timed("engine_start"):
                self._scorer = make_scorer(self._config.engine, folder)
            self._architecture = checked.config_hash
            self._n_engines += 1
            self._engine_name = f"{os.uname().nodename}-{os.getpid()}-{self._n_engines}"
        outcome.engine = self._engine_name
        with outcome.timed("score"):
            unit = evaluate(self._scorer, workload, checked, attempts=number)
        outcome.tokens = workload.n_tokens
        return unit

    def _workload(self, checked: Preflight, folder: Path) -> Workload:
        """Tasks and corpus for the checkpoint's tokenizer and window, tokenised once."""
        max_tokens = window(self._config.engine, checked.max_positions) - 1
        key = (checked.tokenizer_hash, max_tokens)
        if key not in self._workloads:
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._workloads[key] = make_workload(
                    self._tasks, self._corpus, tokenizer, max_tokens=max_tokens
                )
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"tasks or corpus do not fit its tokenizer: {error}"
                ) from error
        return self._workloads[key]


@contextlib.contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Ends this process, with a traceback in its log, when the block takes longer.

    By a thread of the interpreter that needs no lock: a kernel that hangs with the global lock
    held is stopped as well.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
