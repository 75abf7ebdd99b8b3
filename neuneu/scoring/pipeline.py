"""Extraction: score every checkpoint of a suite on tasks and texts into the trajectory store.

The driver lists, groups and counts; workers on Ray Data stage, check, score and commit. A killed
run loses at most the checkpoints that were in flight, and the next run resumes with the rest.
"""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from neuneu.core import logs
from neuneu.core.config import config_to_dict
from neuneu.core.errors import UserError
from neuneu.core.progress import Bar, stage
from neuneu.core.ray_metrics import CHECKPOINTS_QUARANTINED
from neuneu.core.ray_session import cluster_address, ray_session
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.attempts import ATTEMPTS, AttemptLedger
from neuneu.data.store.checkpoint_files import Key
from neuneu.data.store.parts import Progress
from neuneu.data.store.store import META, Store
from neuneu.scoring.checkpoints.grouping import Groups, Pending, group, is_named, with_tokenizers
from neuneu.scoring.checkpoints.sources import list_checkpoints
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.engines.engine import engine_version, local_gpu, with_dtype
from neuneu.scoring.evaluation import quarantined
from neuneu.scoring.summary import ExtractSummary, repeated_weights
from neuneu.scoring.wanted import Wanted, load_wanted, old_meanings
from neuneu.scoring.workers.fan_out import cluster_has_gpus, fan_out, slots
from neuneu.scoring.workers.placement import Placement, need, place
from neuneu.scoring.workers.worker import Outcome

SUMMARY_FILE: Final = "extraction.json"
_log = logging.getLogger(__name__)


def extract(config: ExtractConfig, *, address: str | None = None) -> ExtractSummary:
    """Score those tasks and texts of every checkpoint that are not in the store yet.

    Args:
        config: What to score.
        address: Ray cluster; None starts one on this machine if there is a checkpoint to score.

    Raises:
        UserError: A setting, an input or the store cannot be used; nothing was scored.
    """
    started = time.perf_counter()
    store = Store(config.store)
    config = _with_dtype(_with_kind(config, store), store, address)
    refs = list_checkpoints(config.checkpoints)
    largest = max((ref.params for ref in refs), default=0)
    engine = engine_version(config.engine, largest=largest)
    summary = ExtractSummary(store=config.store, engine=engine)
    _check_runs(config.mixed_tokenizers, refs)
    wanted = load_wanted(config)
    store.bind(fingerprint(config, engine=summary.engine), corpus=wanted.corpora[0].name)
    old_meanings(store, wanted)  # what has the name of an old task must be that task
    store.claim(wanted.records())

    progress = store.progress(meanings=wanted.meanings)
    status = {ref.key: config.status(progress.get(ref.key), wanted.parts) for ref in refs}
    todo = [ref for ref in refs if config.is_due(status[ref.key])]
    summary.listed = len(refs)
    summary.skipped_done = sum(status[ref.key] == "done" for ref in refs)
    summary.skipped_quarantined = len(refs) - len(todo) - summary.skipped_done
    _log.info(
        "checkpoints to score",
        extra={"store": config.store, "listed": len(refs), "to_score": len(todo)},
    )
    if todo:
        groups = _group(config, store, progress, todo, summary)
        _score(config, groups, wanted=wanted, summary=summary, address=address)
    assert summary.listed == (
        summary.skipped_done
        + summary.skipped_quarantined
        + summary.done
        + summary.quarantined
        + summary.left
    ), f"checkpoints were lost: {summary}"
    summary.repeated_weights = repeated_weights(store.checkpoints().to_pylist())
    summary.wall_s = time.perf_counter() - started
    _append_summary(config, store, summary)
    return summary


def _with_kind(config: ExtractConfig, store: Store) -> ExtractConfig:
    """Resolve a kind of `auto` to vLLM for a store whose numbers are all from it, or many GPUs."""
    if config.engine.kind != "auto":
        return config
    bound = store.fingerprint().get("engine") if store.folder.exists(META) else ""
    if config.engine.tensor_parallel > 1 or str(bound).startswith("vllm"):
        return replace(config, engine=replace(config.engine, kind="vllm"))
    return config


def _with_dtype(config: ExtractConfig, store: Store, address: str | None) -> ExtractConfig:
    """Resolve a dtype of `auto`: that of the store, or else by whether GPUs will score."""
    if config.engine.dtype != "auto":
        return config
    if store.folder.exists(META) and (known := store.fingerprint().get("dtype")) is not None:
        return replace(config, engine=replace(config.engine, dtype=known))
    return replace(config, engine=with_dtype(config.engine, gpu=_on_gpus(config, address)))


def _on_gpus(config: ExtractConfig, address: str | None) -> bool:
    if config.gpus_per_actor is not None:
        return config.gpus_per_actor > 0
    if cluster_address(address) is None:
        return local_gpu()
    with ray_session(address):
        return cluster_has_gpus()


def fingerprint(config: ExtractConfig, *, engine: str) -> dict[str, Any]:
    """What all numbers in a store depend on, apart from each checkpoint's own tokenizer."""
    return {
        "prefix_token": "bos, else eos; bos before contexts where the tokenizer adds it",
        "truncation": "left",
        "max_model_len": config.engine.max_model_len,
        "dtype": config.engine.dtype,
        "engine": engine,
    }


def _check_runs(names: Sequence[str], refs: Sequence[CheckpointRef]) -> None:
    """Raise a UserError if `mixed_tokenizers` names an unknown run."""
    for name in names:
        if not any(is_named(ref, [name]) for ref in refs):
            runs = ", ".join(sorted({ref.run for ref in refs})[:3])
            raise UserError(
                f"mixed_tokenizers: no run is named {name!r}; expected names such as {runs}."
            )


def _group(
    config: ExtractConfig,
    store: Store,
    progress: Mapping[Key, Progress],
    todo: Sequence[CheckpointRef],
    summary: ExtractSummary,
) -> Groups:
    """Group checkpoints by architecture, and quarantine those without a usable config."""
    started = time.perf_counter()
    known: dict[tuple[str, str], list[str]] = defaultdict(list)
    tokenizers: dict[tuple[str, str], list[str]] = defaultdict(list)
    weights: dict[Key, str | None] = {}
    earlier_attempts = {key: found.attempts for key, found in progress.items()}
    for row in store.checkpoints().to_pylist():
        run = (row["suite"], row["run"])
        if row["status"] != "done":
            continue
        weights[*run, row["step"]] = row["weights_hash"]
        known[run].append(row["config_hash"])
        if row["tokenizer_hash"]:
            tokenizers[run].append(row["tokenizer_hash"])
    with stage("read configs", len(todo)) as bar:
        groups = group(todo, known=known, earlier_attempts=earlier_attempts, advance=bar.advance)
    groups = with_tokenizers(groups, known=tokenizers, mixed=config.mixed_tokenizers)
    pending = [replace(p, weights_hash=weights.get(p.ref.key)) for p in groups.pending]
    groups = replace(groups, pending=pending)
    for ref, error in groups.failed:
        attempts = earlier_attempts.get(ref.key, 0) + 1
        store.commit(quarantined(ref, error, attempts=attempts))
        with logs.checkpoint(*ref.key):
            _log.warning("quarantined: %s", error)
        summary.count_quarantined(ref.key, error)
    for ref, error in groups.unreached:
        with logs.checkpoint(*ref.key):
            _log.warning("left: %s", error)
        summary.count_left(ref.key, error)
    summary.seconds["group"] = time.perf_counter() - started
    summary.architectures = len({item.config_hash for item in groups.pending})
    looked_at = len(groups.pending) + len(groups.failed) + len(groups.unreached)
    assert looked_at == len(todo), "grouping lost checkpoints"
    return groups


def _score(
    config: ExtractConfig,
    groups: Groups,
    *,
    wanted: Wanted,
    summary: ExtractSummary,
    address: str | None,
) -> None:
    pending = groups.pending
    ledger = AttemptLedger(
        Store(config.store).folder / ATTEMPTS, timeout_s=config.checkpoint_timeout_s
    )
    ledger.clear()
    if not pending:
        return
    allowed = math.inf if config.max_failures is None else config.max_failures
    failures, started = 0, time.perf_counter()
    outcomes: list[Outcome] = []
    with ray_session(address), stage("score checkpoints", len(pending)) as bar:
        for ref, _ in groups.failed:
            CHECKPOINTS_QUARANTINED.record(1, suite=ref.suite, run=ref.run)
        grows = cluster_address(address) is not None
        for outcome in _outcomes(config, pending, grows=grows, wanted=wanted, summary=summary):
            outcomes.append(outcome)
            _log_outcome(outcome)
            failures += outcome.status == "quarantined" or outcome.engine_failed
            _show(bar, outcomes, seconds=time.perf_counter() - started)
            if failures > allowed:
                summary.stopped = f"{failures} checkpoints failed; max_failures is {allowed}."
                _log.warning(summary.stopped)
                break
    ledger.clear()
    keys = sorted((outcome.suite, outcome.run, outcome.step) for outcome in outcomes)
    assert summary.stopped or keys == sorted(item.ref.key for item in pending), (
        f"{len(pending)} checkpoints went to the workers, {len(outcomes)} came back."
    )
    summary.left += len(pending) - len(outcomes)
    summary.count(outcomes, seconds=time.perf_counter() - started)


def _outcomes(
    config: ExtractConfig,
    pending: list[Pending],
    *,
    grows: bool,
    wanted: Wanted,
    summary: ExtractSummary,
) -> Iterator[Outcome]:
    """Yield outcomes as they arrive, one placement after another.

    A cluster that `grows` need not have the resources for `actors` yet.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = config.gpus_per_actor is None and cluster_has_gpus()
    for placement, items in _placed(config, pending, has_gpus=has_gpus):
        actors = config.actors
        if not (grows and actors):
            count = slots(nodes, cpus=config.cpus_per_actor, gpus=placement.gpus)
            actors = min(count, actors or count)
        actors = min(len(items), actors)
        summary.actors = max(summary.actors, actors)
        yield from fan_out(
            items,
            _with_placement(config, placement),
            actors=actors,
            gpus=placement.gpus,
            wanted=wanted,
        )


def _placed(
    config: ExtractConfig, pending: list[Pending], *, has_gpus: bool
) -> list[tuple[Placement, list[Pending]]]:
    """Group checkpoints by the resources that an engine of their model needs, small models first.

    Raises:
        UserError: A model does not fit on GPUs.
    """

    def placement(item: Pending) -> Placement:
        if config.gpus_per_actor is not None:
            return Placement(gpus=config.gpus_per_actor)
        if not has_gpus:
            return Placement(gpus=0.0)
        needed = need(item.ref.params, item.vocab_size, item.cache_values, config.engine)
        return place(
            needed, gpu_gb=config.gpu_memory_gb, utilization=config.engine.gpu_memory_utilization
        )

    ordered = sorted(pending, key=placement)
    return [(key, list(items)) for key, items in groupby(ordered, key=placement)]


def _with_placement(config: ExtractConfig, placement: Placement) -> ExtractConfig:
    """The config for workers of a placement, which may run in another working directory."""
    engine = config.engine
    if placement.gpus:
        engine = replace(
            engine,
            tensor_parallel=placement.tensor_parallel,
            gpu_memory_utilization=placement.utilization(engine.gpu_memory_utilization),
        )
    store = config.store if "://" in config.store else str(Path(config.store).resolve())
    return replace(config, engine=engine, store=store)


def _log_outcome(outcome: Outcome) -> None:
    with logs.checkpoint(outcome.suite, outcome.run, outcome.step):
        numbers: dict[str, float] = {"attempts": outcome.attempts, "tokens": outcome.tokens}
        if outcome.status == "done":
            numbers |= {f"{phase}_s": seconds for phase, seconds in outcome.seconds.items()}
            _log.info("done", extra=numbers)
        else:
            _log.warning("%s: %s", outcome.status, outcome.error, extra=numbers)


def _show(bar: Bar, outcomes: Sequence[Outcome], *, seconds: float) -> None:
    last = outcomes[-1]
    rate = sum(outcome.tokens for outcome in outcomes) / seconds
    state = "" if last.status == "done" else f" {last.status}"
    bar.advance(1, f"{last.run} step {last.step}{state}, {rate:,.0f} tokens/s")


def _append_summary(config: ExtractConfig, store: Store, summary: ExtractSummary) -> None:
    """Append this invocation and its config to `extraction.json` in the store."""
    history = []
    if store.folder.exists(SUMMARY_FILE):
        history = json.loads(store.folder.read(SUMMARY_FILE))
    history.append(asdict(summary) | {"config": config_to_dict(config)})
    store.folder.write(SUMMARY_FILE, (json.dumps(history, indent=1) + "\n").encode())
