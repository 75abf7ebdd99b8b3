"""Extraction: every checkpoint of a suite through tasks and corpus into the trajectory store.

The driver lists, checks and counts; workers on Ray Data score and commit. A killed run loses
at most the checkpoints that were in flight, and the next run goes on with the rest.
"""

import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from neuneu.checkpoints import CheckpointRef, list_local
from neuneu.config import config_dataclass, config_to_dict
from neuneu.errors import UserError
from neuneu.extraction.attempts import AttemptLedger
from neuneu.extraction.corpus import Corpus, load_corpus
from neuneu.extraction.engines import EngineConfig, engine_version
from neuneu.extraction.evaluation import quarantined
from neuneu.extraction.preflight import Preflight, preflight
from neuneu.extraction.requests import Task
from neuneu.extraction.tasks import load_tasks, task_rows, tasks_hash
from neuneu.extraction.worker import PHASES, Outcome, Worker, WorkerConfig
from neuneu.files import write_text_atomic
from neuneu.progress import Bar, stage
from neuneu.ray_session import ray_session
from neuneu.store import Store

SUMMARY_FILE: Final = "extraction.json"


@config_dataclass
class ExtractConfig:
    """What to score and how.

    `checkpoints` is a folder of checkpoints (`neuneu.checkpoints.list_local`), `store` the
    output. `task_text` is text for generated tasks; `limit` the most documents a task.
    `actors` of None means as many as the cluster's CPUs (and GPUs) hold. A checkpoint that
    takes longer than `checkpoint_timeout_s`, the start of an engine included, counts as failed.
    """

    checkpoints: Path
    store: Path
    corpus: Path
    corpus_words: Annotated[int, Field(ge=1)] = 256_000
    tasks: tuple[str, ...] = ("generated",)
    task_text: Path | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    engine: EngineConfig = EngineConfig()
    actors: Annotated[int, Field(ge=1)] | None = None
    cpus_per_actor: Annotated[int, Field(ge=1)] = 1
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0.0
    checkpoint_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    max_attempts: Annotated[int, Field(ge=1)] = 2
    retry_quarantined: bool = False


@dataclass(kw_only=True)
class ExtractSummary:
    """One invocation in numbers.

    `listed` = `skipped_done` + `skipped_quarantined` + `done` + `quarantined`. `tokens_per_s` is
    by the wall clock of all workers, their starts included; `tokens_per_s_engine` that of one
    engine while it scores. Seconds of the phases are summed over workers (`swap` includes its
    proof), but for `preflight` and `wall_s`, which are the driver's.
    """

    store: str
    engine: str
    listed: int = 0
    skipped_done: int = 0
    skipped_quarantined: int = 0
    done: int = 0
    quarantined: int = 0
    actors: int = 0
    architectures: int = 0
    engines_started: int = 0
    swaps: int = 0
    swap_s_median: float | None = None
    swap_s_max: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None
    tokens_per_s_engine: float | None = None
    rss_mb_max: float = 0.0
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def extract(config: ExtractConfig, *, address: str | None = None) -> ExtractSummary:
    """Scores every checkpoint that the store does not have yet.

    Checkpoints that must not be scored end as `quarantined` rows of the store, with the reason.

    Args:
        config: what to score.
        address: a Ray cluster; None starts one here, if a checkpoint is left to score.

    Raises:
        UserError: a setting, an input, or a store that cannot be used; nothing was scored.
    """
    started = time.perf_counter()
    store = Store(config.store)
    summary = ExtractSummary(store=str(config.store), engine=engine_version(config.engine))
    refs = list_local(config.checkpoints)
    tasks = load_tasks(config.tasks, limit=config.limit, seed=config.seed, text=config.task_text)
    corpus = load_corpus(config.corpus, max_words=config.corpus_words)
    store.bind(fingerprint(config, tasks, corpus, engine=summary.engine))
    store.write_tasks(task_rows(tasks))

    status = store.status()
    todo = [ref for ref in refs if _is_due(status.get(ref.key), config)]
    summary.listed = len(refs)
    summary.skipped_done = sum(status.get(ref.key) == "done" for ref in refs)
    summary.skipped_quarantined = len(refs) - len(todo) - summary.skipped_done
    if todo:
        checked = _preflight(store, todo, summary)
        _score(config, checked, tasks=tasks, corpus=corpus, summary=summary, address=address)
    assert summary.listed == (
        summary.skipped_done + summary.skipped_quarantined + summary.done + summary.quarantined
    ), f"checkpoints were lost: {summary}"
    summary.wall_s = time.perf_counter() - started
    _append_summary(config, summary)
    return summary


def fingerprint(
    config: ExtractConfig, tasks: Sequence[Task], corpus: Corpus, *, engine: str
) -> dict[str, Any]:
    """What the numbers of a store depend on; the tokenizer is each checkpoint's own."""
    return {
        "corpus": corpus.name,
        "corpus_hash": corpus.hash,
        "corpus_words": corpus.n_words,
        "tasks_hash": tasks_hash(tasks),
        "prefix_token": "bos, else eos",
        "truncation": "left",
        "max_model_len": config.engine.max_model_len,
        "dtype": config.engine.dtype,
        "engine": engine,
    }


def _is_due(status: str | None, config: ExtractConfig) -> bool:
    return status is None or (status == "quarantined" and config.retry_quarantined)


def _preflight(
    store: Store, todo: Sequence[CheckpointRef], summary: ExtractSummary
) -> list[Preflight]:
    """Quarantines what must not be scored; returns the rest, grouped by architecture."""
    started = time.perf_counter()
    known: dict[tuple[str, str], list[str]] = {}
    earlier_attempts: dict[tuple[str, str, int], int] = {}
    for row in store.checkpoints().to_pylist():
        if row["status"] == "done":
            known.setdefault((row["suite"], row["run"]), []).append(row["config_hash"])
        else:
            earlier_attempts[row["suite"], row["run"], row["step"]] = row["attempts"]
    with stage("preflight", len(todo)) as bar:
        result = preflight(todo, known=known, advance=bar.advance)
    for ref, error in result.failed:
        attempts = earlier_attempts.get(ref.key, 0) + 1
        store.commit(quarantined(ref, error, attempts=attempts))
        _count_quarantined(summary, ref.key, error)
    summary.seconds["preflight"] = time.perf_counter() - started
    summary.architectures = len({checked.config_hash for checked in result.passed})
    assert len(result.passed) + len(result.failed) == len(todo), "preflight lost checkpoints"
    return sorted(result.passed, key=lambda checked: (checked.config_hash, checked.ref.key))


def _score(
    config: ExtractConfig,
    checked: list[Preflight],
    *,
    tasks: Sequence[Task],
    corpus: Corpus,
    summary: ExtractSummary,
    address: str | None,
) -> None:
    ledger_folder = config.store / "attempts"
    ledger = AttemptLedger(ledger_folder, timeout_s=config.checkpoint_timeout_s)
    ledger.clear()
    if not checked:
        return
    started = time.perf_counter()
    outcomes: list[Outcome] = []
    with (
        ray_session(address),
        stage("score checkpoints", len(checked)) as bar,
    ):
        for outcome in _run_workers(config, checked, tasks=tasks, corpus=corpus, summary=summary):
            outcomes.append(outcome)
            _show(bar, outcomes, seconds=time.perf_counter() - started)
    ledger.clear()
    keys = sorted((outcome.suite, outcome.run, outcome.step) for outcome in outcomes)
    assert keys == sorted(item.ref.key for item in checked), (
        f"{len(checked)} checkpoints went to the workers and {len(outcomes)} came back."
    )
    _count(summary, outcomes, seconds=time.perf_counter() - started)


def _run_workers(
    config: ExtractConfig,
    checked: list[Preflight],
    *,
    tasks: Sequence[Task],
    corpus: Corpus,
    summary: ExtractSummary,
) -> Iterator[Outcome]:
    """Yields outcomes as checkpoints are committed.

    Blocks of one checkpoint, ordered by architecture, are handed out in order: a worker meets
    each architecture once, so that it starts one engine for each, and none waits at the end
    of a group.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("execution.streaming_executor", "progress"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)
    summary.actors = min(len(checked), _slots(config, ray.cluster_resources()))
    worker_config = WorkerConfig(
        engine=config.engine,
        store=config.store.resolve(),
        threads=config.cpus_per_actor,
        checkpoint_timeout_s=config.checkpoint_timeout_s,
        max_attempts=config.max_attempts,
    )
    shared = ray.put((worker_config, list(tasks), corpus, checked))
    dataset = ray.data.from_items(
        [{"index": index} for index in range(len(checked))], override_num_blocks=len(checked)
    ).map_batches(
        _ScoringActor,
        fn_constructor_args=([shared],),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=summary.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=config.cpus_per_actor,
        num_gpus=config.gpus_per_actor or None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.cpus_per_actor)}},
    )
    for row in dataset.iter_rows():
        seconds = {phase: row.pop(f"{phase}_s") for phase in PHASES}
        yield Outcome(**row, seconds=seconds)


class _ScoringActor:
    """A `Worker` as Ray Data calls it: a batch of one row `index` in, an outcome's row out."""

    def __init__(self, shared: list[Any]) -> None:
        import ray

        worker_config, tasks, corpus, self._checked = ray.get(shared[0])
        self._worker = Worker(worker_config, tasks, corpus)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Scores one checkpoint."""
        row = asdict(self._worker.run(self._checked[int(batch["index"][0])]))
        seconds = row.pop("seconds")
        row |= {f"{phase}_s": seconds[phase] for phase in PHASES}
        return {key: [value] for key, value in row.items()}


def _slots(config: ExtractConfig, resources: dict[str, float]) -> int:
    """How many workers to run: as told, or as many as the cluster's CPUs and GPUs hold.

    Raises:
        UserError: the cluster cannot hold one.
    """
    slots = int(resources.get("CPU", 0) // config.cpus_per_actor)
    if config.gpus_per_actor:
        slots = min(slots, int(resources.get("GPU", 0) / config.gpus_per_actor))
    if slots < 1:
        raise UserError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} "
            f"GPUs; expected {config.cpus_per_actor} CPUs and {config.gpus_per_actor:g} GPUs for "
            "one worker; lower cpus_per_actor or gpus_per_actor, or use a larger cluster."
        )
    return min(slots, config.actors or slots)


def _show(bar: Bar, outcomes: Sequence[Outcome], *, seconds: float) -> None:
    last = outcomes[-1]
    rate = sum(outcome.tokens for outcome in outcomes) / seconds
    state = "" if last.status == "done" else f" {last.status}"
    bar.advance(1, f"{last.run} step {last.step}{state}, {rate:,.0f} tokens/s")


def _count(summary: ExtractSummary, outcomes: Sequence[Outcome], *, seconds: float) -> None:
    for outcome in outcomes:
        if outcome.status == "done":
            summary.done += 1
        else:
            key = (outcome.suite, outcome.run, outcome.step)
            _count_quarantined(summary, key, outcome.error)
    swap_s = [o.seconds["swap"] / o.swaps for o in outcomes if o.swaps]
    summary.swaps = sum(o.swaps for o in outcomes)
    summary.swap_s_median = statistics.median(swap_s) if swap_s else None
    summary.swap_s_max = max(swap_s, default=None)
    summary.engines_started = sum(o.engines_started for o in outcomes)
    summary.tokens = sum(o.tokens for o in outcomes)
    summary.tokens_per_s = summary.tokens / seconds
    summary.rss_mb_max = max(o.rss_mb for o in outcomes)
    for phase in PHASES:
        summary.seconds[phase] = sum(o.seconds[phase] for o in outcomes)
    scored_s = sum(o.seconds["score"] for o in outcomes if o.tokens)
    summary.tokens_per_s_engine = summary.tokens / scored_s if scored_s else None


def _count_quarantined(summary: ExtractSummary, key: tuple[str, str, int], error: str) -> None:
    summary.quarantined += 1
    summary.errors["{}/{} step {}".format(*key)] = error


def _append_summary(config: ExtractConfig, summary: ExtractSummary) -> None:
    """Adds this invocation and its config to `extraction.json` of the store."""
    path = config.store / SUMMARY_FILE
    history = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    history.append(asdict(summary) | {"config": config_to_dict(config)})
    write_text_atomic(path, json.dumps(history, indent=1) + "\n")
