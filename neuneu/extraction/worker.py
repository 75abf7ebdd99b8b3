"""The stateful part of extraction: one engine a worker, checkpoint after checkpoint."""

import contextlib
import faulthandler
import logging
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from neuneu import logs
from neuneu.errors import CheckpointError, EngineError
from neuneu.extraction.attempts import ATTEMPTS, AttemptLedger
from neuneu.extraction.corpus import Corpus
from neuneu.extraction.engines import EngineConfig, make_scorer, read_tokenizer, window
from neuneu.extraction.evaluation import Workload, evaluate, make_workload, quarantined
from neuneu.extraction.grouping import Pending
from neuneu.extraction.preflight import Preflight, inspect
from neuneu.extraction.requests import Task
from neuneu.extraction.scorer import Scorer
from neuneu.extraction.staging import Stager
from neuneu.extraction.turns import Turns
from neuneu.retries import TransientError
from neuneu.store import Store, Unit

_log = logging.getLogger(__name__)
ENGINE_FAILURES_TO_GIVE_UP: Final = 2
# Two tokenizers at a time: the one in use and that of the next architecture.
WORKLOADS_KEPT: Final = 2
PHASES: Final = ("stage", "inspect", "tokenise", "engine_start", "swap", "score", "write")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker is told; `threads` are the CPU threads of its engine.

    `staging` is a local folder that the workers of a node share, of at most `staging_bytes`.
    """

    engine: EngineConfig
    store: str
    staging: Path
    staging_bytes: int
    allow_pickle: bool
    threads: int
    checkpoint_timeout_s: float
    max_attempts: int


@dataclass(kw_only=True)
class Outcome:
    """What became of a checkpoint; seconds are summed over its attempts.

    `status` is done, quarantined or left (its source did not answer). `engine` names the engine
    that scored it, `engines_started` are those begun for it; without an engine it was done by
    another job in the meantime. `tokens` are those of its prompts, `computed_tokens` those that
    the engine ran on.
    """

    suite: str
    run: str
    step: int
    status: str = ""
    error: str = ""
    attempts: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    bytes_staged: int = 0
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
            seconds = time.perf_counter() - started
            self.seconds[phase] += seconds
            _log.debug(phase, extra={"seconds": seconds})


class Worker:
    """Scores checkpoints and commits each to the store as soon as it is scored.

    `run` may be called for the next checkpoint while one is being scored: it is then fetched,
    checked and tokenised, and waits for the engine. One thread holds the engine, keeps it as
    long as the architecture stays the same, and swaps weights. A failed
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
        self._stager = Stager(
            config.staging, budget_bytes=config.staging_bytes, allow_pickle=config.allow_pickle
        )
        self._ledger = AttemptLedger(
            self._store.folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s
        )
        self._scorer: Scorer | None = None
        self._architecture = ""
        self._engine_name = ""
        self._n_engines = 0
        self._scored: set[str] = set()
        self._engine_failures: dict[str, list[str]] = {}
        self._workloads: OrderedDict[tuple[str, int], Workload] = OrderedDict()
        self._tokenising = threading.Lock()
        self._turns = Turns()
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        self._engine_thread = ThreadPoolExecutor(1, "engine", initializer=self._start_thread)

    def run(self, pending: Pending) -> Outcome:
        """Scores and commits one checkpoint, or quarantines it.

        One that another job has done is not scored again; one whose source does not answer is
        `left` for a later run, with the error, and not committed.
        """
        with logs.checkpoint(*pending.ref.key):
            return self._run(pending)

    def _run(self, pending: Pending) -> Outcome:
        ref = pending.ref
        outcome = Outcome(suite=ref.suite, run=ref.run, step=ref.step)
        if self._store.has(ref.key) == "done":
            outcome.status = "done"
            return outcome
        try:
            unit = self._unit(pending, outcome)
        except TransientError as failure:
            outcome.status, outcome.error = "left", str(failure)
            return outcome
        with outcome.timed("write"):
            self._store.commit(unit)
        self._ledger.end(ref)
        outcome.status = unit.checkpoint["status"]
        outcome.error = unit.checkpoint["error"] or ""
        outcome.attempts = unit.checkpoint["attempts"]
        outcome.rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return outcome

    def close(self) -> None:
        """Closes the engine and its thread."""
        self._engine_thread.submit(self._close_engine).result()
        self._engine_thread.shutdown()

    def _start_thread(self) -> None:
        import torch

        torch.set_num_threads(self._config.threads)

    def _close_engine(self) -> None:
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer.close()

    def _unit(self, pending: Pending, outcome: Outcome) -> Unit:
        """The unit to commit: scored, or quarantined with the reason."""
        checked = None
        turn = self._turns.take()
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._turns.leave, turn)
                with outcome.timed("stage"):
                    staged = stack.enter_context(self._stager.stage(pending.ref))
                    outcome.bytes_staged = staged.bytes_moved
                with outcome.timed("inspect"):
                    checked = self._checked(pending, staged.folder)
                with outcome.timed("tokenise"):
                    workload = self._workload(checked, staged.folder)
                self._turns.wait_for(turn)
                scoring = self._engine_thread.submit(
                    logs.carried(self._score), pending, checked, staged.folder, workload, outcome
                )
                self._turns.leave(turn)
                return scoring.result()
        except TransientError:
            raise
        except CheckpointError as failure:
            attempts = pending.earlier_attempts + 1
            return quarantined(pending.ref, str(failure), attempts=attempts, checked=checked)

    def _checked(self, pending: Pending, folder: Path) -> Preflight:
        try:
            checked = inspect(pending.ref, folder)
        except OSError as error:
            raise CheckpointError(f"its files cannot be read ({error}).") from error
        if checked.config_hash != pending.config_hash:
            raise CheckpointError(
                f"config.json changed while this ran (hash {checked.config_hash}, before "
                f"{pending.config_hash}); run the extraction again."
            )
        return checked

    def _score(
        self,
        pending: Pending,
        checked: Preflight,
        folder: Path,
        workload: Workload,
        outcome: Outcome,
    ) -> Unit:
        """As many attempts as it takes or is allowed; runs on the engine's thread."""
        ref, earlier = pending.ref, pending.earlier_attempts
        failures = self._engine_failures.get(checked.config_hash, [])
        if len(failures) >= ENGINE_FAILURES_TO_GIVE_UP:
            error = (
                f"not tried: the engine failed on {len(failures)} checkpoints of this "
                f"architecture and scored none of it; the last time: {failures[-1]}"
            )
            return quarantined(ref, error, attempts=earlier, checked=checked)
        error = ""
        while True:
            attempt = self._ledger.begin(ref)
            error = attempt.last_error or error
            if attempt.number > self._config.max_attempts:
                if checked.config_hash not in self._scored:
                    self._engine_failures.setdefault(checked.config_hash, []).append(error)
                number = earlier + attempt.number - 1
                return quarantined(ref, error, attempts=number, checked=checked)
            number = earlier + attempt.number
            try:
                with _stopped_after(self._config.checkpoint_timeout_s):
                    unit = self._attempt(checked, folder, workload, number, outcome)
            except CheckpointError as failure:
                return quarantined(ref, str(failure), attempts=number, checked=checked)
            except EngineError as failure:
                _log.warning("engine failed: %s", failure, extra={"attempt": number})
                self._close_engine()
                self._ledger.fail(ref, attempt.number, str(failure))
                continue
            self._scored.add(checked.config_hash)
            self._engine_failures.pop(checked.config_hash, None)
            return unit

    def _attempt(
        self,
        checked: Preflight,
        folder: Path,
        workload: Workload,
        number: int,
        outcome: Outcome,
    ) -> Unit:
        if self._scorer is not None and self._architecture == checked.config_hash:
            with outcome.timed("swap"):
                self._scorer.load(folder)
            outcome.swaps += 1
        else:
            self._close_engine()
            outcome.engines_started += 1
            with outcome.timed("engine_start"):
                self._scorer = make_scorer(self._config.engine, folder)
            self._architecture = checked.config_hash
            self._n_engines += 1
            self._engine_name = f"{os.uname().nodename}-{os.getpid()}-{self._n_engines}"
        outcome.engine = self._engine_name
        computed = self._scorer.computed_tokens
        with outcome.timed("score"):
            unit = evaluate(self._scorer, workload, checked, attempts=number)
        outcome.tokens = workload.n_tokens
        outcome.computed_tokens = self._scorer.computed_tokens - computed
        return unit

    def _workload(self, checked: Preflight, folder: Path) -> Workload:
        """Tasks and corpus for the checkpoint's tokenizer and window, tokenised once."""
        max_tokens = window(self._config.engine, checked.max_positions) - 1
        key = (checked.tokenizer_hash, max_tokens)
        with self._tokenising:
            if key not in self._workloads:
                tokenizer = read_tokenizer(folder)
                try:
                    self._workloads[key] = make_workload(
                        self._tasks, self._corpus, tokenizer, max_tokens=max_tokens
                    )
                except ValueError as error:
                    raise CheckpointError(
                        f"tasks or corpus do not fit its tokenizer: {error}"
                    ) from error
            self._workloads.move_to_end(key)
            while len(self._workloads) > WORKLOADS_KEPT:
                self._workloads.popitem(last=False)
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
