"""A worker of extraction: scores one checkpoint after another with an engine in its own process."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from neuneu.core import logs
from neuneu.core.errors import CheckpointError, EngineError, TransientError
from neuneu.data.choices import ItemSet
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.parts import Part, Progress
from neuneu.data.store.store import CheckpointRows, Store
from neuneu.scoring.checkpoints.grouping import Pending
from neuneu.scoring.checkpoints.preflight import Preflight, check_tokenizer
from neuneu.scoring.checkpoints.staging import Stager
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.engines.engine import window
from neuneu.scoring.evaluation import Workload, quarantined
from neuneu.scoring.wanted import Wanted
from neuneu.scoring.workers.breaker import Breaker
from neuneu.scoring.workers.engine import EngineHost, EngineSlot, Scored, WorkloadKey
from neuneu.scoring.workers.inspection import Inspection
from neuneu.scoring.workers.processes import Host, ProcessError, Remote, first_line

_log = logging.getLogger(__name__)
PHASES: Final = ("stage", "inspect", "tokenise", "engine_start", "swap", "score", "write")
LIMIT_IS_FOR_PARAMS: Final = 1e9
"""Time limits are for models of up to this many parameters, and scale with larger ones."""


@dataclass(kw_only=True)
class Outcome:
    """The result for a checkpoint; seconds are summed over attempts.

    `status` is done, quarantined or left (its source did not answer, or the engine of the worker
    fails on everything: `engine_failed` if it was tried). `engine` is the engine that scored it; if
    empty, another job did in the meantime. `engines_started` counts the engines started for it,
    `tokens` those of its prompts, `computed_tokens` those that the engine computed, and `ties` the
    items whose best score several choices share. `proof` is the evidence that the engine held its
    weights, `rss_mb` the peak memory of the engine's process.
    """

    suite: str
    run: str
    step: int
    status: str = ""
    error: str = ""
    attempts: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    ties: int = 0
    proof: str = ""
    bytes_staged: int = 0
    engine: str = ""
    engines_started: int = 0
    engine_failed: bool = False
    swaps: int = 0
    rss_mb: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall time of a block to a phase, even if it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self.seconds[phase] += seconds
            _log.debug(phase, extra={"seconds": seconds})


class _NotScoredError(Exception):
    """The engine of this worker fails, so the checkpoint is left for a later run."""


@dataclass(frozen=True)
class _Ready:
    """A checkpoint that is staged and inspected, and the workload for its tokenizer."""

    pending: Pending
    checked: Preflight
    folder: Path
    key: WorkloadKey
    workload: Workload


class TicketLock:
    """Serves callers in the order in which they took a ticket, even if a later one is ready first.

    Otherwise the first checkpoint of an architecture could overtake the last one of the previous
    architecture, and two more engines would have to be started.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._taken = 0
        self._changed = threading.Condition()

    def take(self) -> int:
        """Take the next ticket."""
        with self._changed:
            self._taken += 1
            self._waiting.append(self._taken)
            return self._taken

    def wait_for(self, ticket: int) -> None:
        """Wait until every earlier ticket is released."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == ticket)

    def release(self, ticket: int) -> None:
        """Release a ticket; releasing it again does nothing."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._changed.notify_all()


class Worker:
    """Scores checkpoints and commits each to the store as soon as it is scored.

    Only those tasks and texts of a checkpoint are scored that the store does not have.

    `run` may be called for the next checkpoint while one is being scored; that one is then fetched,
    checked and tokenised, and waits for the engine. Engine and inspection run in processes of their
    own, so that a failure, hang or crash there costs only that checkpoint. The engine swaps weights
    as long as the architecture stays the same; its process ends with the architecture (a closed
    engine keeps GPU memory) and after any failure (a CUDA error poisons its process). A checkpoint
    on which it fails `max_attempts` times is quarantined; if one after another fails, a `Breaker`
    keeps the worker from using up the queue.
    """

    def __init__(
        self,
        config: ExtractConfig,
        wanted: Wanted,
        *,
        peers: bool = False,
        host: Callable[..., Host] = Remote,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start the inspection; the engine starts with the first checkpoint.

        Args:
            config: Settings.
            wanted: Tasks and texts to score.
            peers: Whether other workers take from the same queue.
            host: Creates an object in a process of its own.
            sleep: How the breaker pauses.
        """
        self._config = config
        self._store = Store(config.store)
        self._stager = Stager(
            config.staging,
            budget_bytes=int(config.staging_gb * 1e9),
            allow_pickle=config.allow_pickle,
            run=self._convert,
        )
        self._ledger = AttemptLedger(
            self._store.folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s
        )
        self._wanted = wanted
        self._items_written: set[tuple[str, str]] = set()
        self._inspection = Inspection(host, wanted)
        self._engine = EngineSlot(lambda: host(EngineHost, config.engine, config.cpus_per_actor))
        self._breaker = Breaker(peers=peers, sleep=sleep)
        self._order = TicketLock()

    def run(self, pending: Pending) -> Outcome:
        """Score and commit one checkpoint, or quarantine it.

        A checkpoint that another job has done is not scored again. If its source does not answer,
        or the breaker is open, it is `left` for a later run, with the error, and not committed.

        Raises:
            StorageError, StoreError: The store cannot be read or written.
        """
        with logs.checkpoint(*pending.ref.key):
            return self._run(pending)

    def _run(self, pending: Pending) -> Outcome:
        ref = pending.ref
        outcome = Outcome(suite=ref.suite, run=ref.run, step=ref.step)
        found = self._store.progress(ref.key, meanings=self._wanted.meanings)
        progress = found.get(ref.key, Progress())
        missing = tuple(self._config.missing(progress, self._wanted.parts))
        if progress.done and not missing:
            outcome.status = "done"
            return outcome
        # Others may have tried since the driver looked; results of later attempts count.
        earlier = max(pending.earlier_attempts, progress.attempts)
        pending = replace(pending, earlier_attempts=earlier)
        try:
            rows, items = self._rows(pending, missing, outcome)
        except (TransientError, _NotScoredError) as failure:
            self._ledger.end(ref)
            outcome.status, outcome.error = "left", str(failure)
            return outcome
        with outcome.timed("write"):
            self._write_items(rows.checkpoint["tokenizer_hash"], items)
            self._store.commit(rows)
        self._ledger.end(ref)
        outcome.status = rows.checkpoint["status"]
        outcome.error = rows.checkpoint["error"] or ""
        outcome.attempts = rows.checkpoint["attempts"]
        return outcome

    def close(self) -> None:
        """End the processes of the engine and the inspection."""
        self._engine.close()
        self._inspection.kill()

    def _rows(
        self, pending: Pending, missing: tuple[Part, ...], outcome: Outcome
    ) -> tuple[CheckpointRows, Sequence[ItemSet]]:
        """The rows to commit, and the items behind their log-probabilities.

        Missing parts are scored, or the checkpoint is quarantined with the reason.
        """
        checked = None
        ticket = self._order.take()
        attempts = pending.earlier_attempts + 1
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._order.release, ticket)
                with outcome.timed("stage"):
                    staged = stack.enter_context(self._stager.stage(pending.ref))
                    outcome.bytes_staged = staged.bytes_moved
                self._engine.prepare(pending.config_hash)
                with outcome.timed("inspect"):
                    checked = self._checked(pending, staged.folder)
                with outcome.timed("tokenise"):
                    longest = window(self._config.engine, checked.max_positions) - 1
                    key = (checked.tokenizer_hash, longest, missing)
                    workload = self._inspection.tokenise(
                        key, staged.folder, timeout_s=self._config.checkpoint_timeout_s
                    )
                self._order.wait_for(ticket)
                ready = _Ready(pending, checked, staged.folder, key, workload)
                rows = self._score(ready, outcome)
                done = rows.checkpoint["status"] == "done"
                return rows, [task.items for task in workload.tasks if done]
        except (TransientError, _NotScoredError):
            raise
        except CheckpointError as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001
            # No failure of a single checkpoint may end the job.
            _log.exception("unexpected failure")
            error = f"it could not be scored ({first_line(failure)}; see the worker's log)."
        return quarantined(pending.ref, error, attempts=attempts, checked=checked), ()

    def _checked(self, pending: Pending, folder: Path) -> Preflight:
        limit = self._limit(self._config.inspect_timeout_s, pending)
        checked = self._inspection.inspect(pending.ref, folder, timeout_s=limit)
        if checked.config_hash != pending.config_hash:
            raise CheckpointError(
                f"config.json changed while this ran (hash {checked.config_hash}, before "
                f"{pending.config_hash}); run the extraction again."
            )
        check_tokenizer(checked, pending.tokenizer_hash)
        if pending.weights_hash not in {None, checked.weights_hash}:
            raise CheckpointError(
                f"its weights (hash {checked.weights_hash}) are not those that the store has "
                f"results of ({pending.weights_hash}); score it under another run's name, or into "
                "another store."
            )
        return checked

    def _convert(self, function: Callable[..., Any], *args: Any) -> None:
        self._inspection.convert(function, *args, timeout_s=self._config.checkpoint_timeout_s)

    def _limit(self, seconds: float, pending: Pending) -> float:
        return seconds * max(1.0, pending.ref.params / LIMIT_IS_FOR_PARAMS)

    def _score(self, ready: _Ready, outcome: Outcome) -> CheckpointRows:
        """Score a checkpoint in up to `max_attempts` attempts; called by one thread at a time."""
        pending, checked = ready.pending, ready.checked
        ref, earlier = pending.ref, pending.earlier_attempts
        broken = self._breaker.reason(checked.config_hash)
        if broken and not self._breaker.peers:
            raise _NotScoredError(f"not tried, left for the next run: {broken}")
        if broken:
            _log.warning("pausing: %s", broken)
            self._breaker.pause()
        tried, error = 0, ""
        while True:
            attempt = self._ledger.begin(ref)
            error = attempt.last_error or error
            if attempt.number > self._config.max_attempts or (broken and tried):
                outcome.engine_failed = True
                self._breaker.failed(checked.config_hash, error)
                if broken:
                    raise _NotScoredError(f"tried once, left for the next run: {broken}")
                number = earlier + attempt.number - 1
                return quarantined(ref, error, attempts=number, checked=checked)
            tried += 1
            number = earlier + attempt.number
            try:
                scored = self._attempt(ready, number, outcome)
            except CheckpointError as failure:
                return quarantined(ref, str(failure), attempts=number, checked=checked)
            except (EngineError, ProcessError) as failure:
                activity = "scoring it: " if isinstance(failure, ProcessError) else ""
                error = f"{activity}{failure}"
                _log.warning("engine failed: %s", error, extra={"attempt": number})
                self._engine.kill()
                self._ledger.fail(ref, attempt.number, error)
                continue
            self._breaker.worked(checked.config_hash)
            outcome.computed_tokens = scored.computed_tokens
            outcome.ties = scored.rows.checkpoint["ties"]
            outcome.proof = scored.rows.checkpoint["proof"]
            outcome.rss_mb = scored.rss_mb
            return scored.rows

    def _write_items(self, tokenizer_hash: str, items: Sequence[ItemSet]) -> None:
        """Write the items behind the log-probabilities, once for each task and tokenizer."""
        for one in items:
            key = (one.task_hash, tokenizer_hash)
            if key not in self._items_written:
                self._store.write_items(one, tokenizer_hash)
                self._items_written.add(key)

    def _attempt(self, ready: _Ready, number: int, outcome: Outcome) -> Scored:
        limit = self._limit(self._config.checkpoint_timeout_s, ready.pending)
        deadline = time.monotonic() + limit
        engine = self._engine.take(ready.checked.config_hash)

        def call(method: str, *args: Any) -> Any:
            left = max(deadline - time.monotonic(), 0.001)
            return engine.host.call(method, *args, timeout_s=left)

        if engine.started:
            with outcome.timed("swap"):
                call("load", ready.folder)
            outcome.swaps += 1
        else:
            outcome.engines_started += 1
            try:
                with outcome.timed("engine_start"):
                    call("start", ready.folder)
            except CheckpointError:
                self._engine.kill()
                raise
            engine.started = True
        outcome.engine = engine.name
        with outcome.timed("score"):
            if not call("knows", ready.key):
                call("learn", ready.key, ready.workload)
            scored: Scored = call("score", ready.checked, ready.key, number)
        outcome.tokens = ready.workload.n_tokens
        return scored
