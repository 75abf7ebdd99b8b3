"""Step `pipeline`: extraction on Ray with engines on fractions of the GPU, compared with one."""

import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from gpu import models
from gpu.report import Context, Row, cpus

_TASKS: Final = "generated"
_WORDS: Final = {True: 400, False: 20_000}
_LIMIT: Final = {True: 10, False: 100}
_AGREES: Final = {"cpu": 1e-3, "cuda": 0.05}
_CHECKED: Final = (2, 11)


def run_pipeline(context: Context) -> None:
    """Use vLLM if installed, and transformers otherwise or if vLLM fails."""
    if find_spec("vllm"):
        with context.report.case("with vLLM"):
            if _extract(context, "vllm"):
                return
    _extract(context, "packed")


def _extract(context: Context, kind: Literal["vllm", "packed"]) -> bool:
    """Extract all checkpoints, and score some again with an engine in this process."""
    from neuneu.core.ray_session import ray_session
    from neuneu.scoring.config import ExtractConfig
    from neuneu.scoring.engines.engine import EngineConfig
    from neuneu.scoring.pipeline import extract

    inputs, on_gpu = context.work / "inputs", context.device == "cuda"
    engine = EngineConfig(kind=kind, max_model_len=128 if context.dry_run else 256)
    config = ExtractConfig(
        checkpoints=str(context.work / "models" / models.PIPELINE),
        store=str(context.work / f"store-{kind}"),
        corpus=str(inputs / "corpus.parquet"),
        corpus_words=_WORDS[context.dry_run],
        tasks=(_TASKS, f"blimp:{inputs / 'pairs.parquet'}"),
        task_text=str(inputs / "corpus.parquet"),
        limit=_LIMIT[context.dry_run],
        engine=engine,
        actors=None if on_gpu else min(2, max(1, cpus() // 2)),
        gpus_per_actor=0.25 if on_gpu else None,
        staging=context.work / "staging",
    )
    started = time.perf_counter()
    with ray_session():
        ray_s = time.perf_counter() - started
        summary = extract(config)
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.seconds.items())
    context.report.add(
        Row(what=f"{summary.done} checkpoints, {kind}", rate=summary.tokens / summary.wall_s,
            seconds=summary.wall_s,
            note=f"{summary.actors} actors, {summary.engines_started} engines started, "
                 f"{summary.swaps} swaps; Ray's start {ray_s:.1f} s; seconds: {phases}")
    )  # fmt: skip
    if summary.done != summary.listed:
        errors = [str(error) for error in summary.errors]
        context.report.fail(f"{summary.done} of {summary.listed} checkpoints done: {errors[:1]}")
        return False
    with context.report.case(f"one engine directly, {kind}"):
        _compare(context, config)
    return True


def _compare(context: Context, config: Any) -> None:
    """Compare rows of the store with those of an engine that has the card to itself."""
    from neuneu.data.checkpoints import list_local
    from neuneu.data.store.store import Store
    from neuneu.scoring.checkpoints.preflight import inspect
    from neuneu.scoring.engines.engine import read_tokenizer
    from neuneu.scoring.evaluation import evaluate, make_workload
    from neuneu.scoring.wanted import load_wanted
    from neuneu.scoring.workers.engine import make_scorer

    refs = list_local(Path(config.checkpoints))
    chosen = [refs[place] for place in _CHECKED]
    # Memory of the actors may not be free yet.
    engine = replace(config.engine, gpu_memory_utilization=0.3)
    scorer = make_scorer(engine, Path(chosen[0].uri))
    try:
        workload = make_workload(
            load_wanted(config),
            read_tokenizer(Path(chosen[0].uri)),
            max_tokens=scorer.max_prompt_tokens,
        )
        store = Store(config.store)
        stored = store.losses().to_pylist() + store.accuracies().to_pylist()
        for ref in chosen:
            scorer.load(Path(ref.uri))
            unit = evaluate(scorer, workload, inspect(ref), attempts=1)
            gaps = [
                abs(row["value"] - _value_of(stored, row))
                for row in [*unit.losses, *unit.accuracies]
            ]
            context.report.add(
                Row(what=f"step {ref.step} again, one engine directly",
                    difference=max(gaps[: len(unit.losses)]),
                    note=f"losses; accuracies differ by at most {max(gaps):.3g}")
            )  # fmt: skip
            if max(gaps[: len(unit.losses)]) > _AGREES[context.device]:
                context.report.fail(f"step {ref.step}: losses differ by {max(gaps):.3g}.")
    finally:
        scorer.close()


def _value_of(stored: list[dict[str, Any]], row: dict[str, Any]) -> float:
    name = "task" if "task" in row else "name"
    found = [
        other["value"]
        for other in stored
        if other.get(name) == row[name]
        and (other["step"], other["metric"]) == (row["step"], row["metric"])
    ]
    assert len(found) == 1, f"{len(found)} rows of {row[name]} {row['metric']} at {row['step']}"
    return float(found[0])
