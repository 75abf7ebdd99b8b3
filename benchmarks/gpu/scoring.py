"""Steps `transformers` and `vllm-...`: the same models and prompts through both engines.

transformers saves its log-probabilities in the work folder; vLLM, which patches transformers'
classes in its process, is compared with them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from gpu import models
from gpu.models import Model
from gpu.report import Context, Row
from neuneu.scoring.engines.engine import EngineConfig, Scorer
from neuneu.scoring.engines.packed_scorer import PackedScorer
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.workers.engine import make_scorer

Dtype = Literal["float32", "bfloat16"]
Values = list[npt.NDArray[np.float32]]

DTYPES: Final[tuple[Dtype, ...]] = ("float32", "bfloat16")
AGREES: Final = {"float32": 5e-3, "bfloat16": 0.1}
"""Largest mean difference of log-probabilities, in nats, that counts as rounding; unrelated numbers
differ by more than 1. In float32, vLLM's attention multiplies in TF32: 0.0025 on an H200."""
FIVE_SHOT: Final = ("llama-10M", "llama-160M")
_LEAST_S: Final = 1.0
_PASSES: Final = 2
_AFTER_SWAP: Final = 32
"""Number of corpus prompts that show whether a swap reached the computation."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The work of one vLLM process.

    `memory` is its fraction of the GPU's memory, `engine` has non-default settings. With
    `together`, it measures at the same time as the other cases of its group.
    """

    model: str
    dtype: Dtype = "bfloat16"
    memory: float = 0.15
    engine: tuple[tuple[str, Any], ...] = ()
    together: bool = False


CASES: Final = {
    "vllm-10M": Case(model="llama-10M"),
    "vllm-160M": Case(model="llama-160M"),
    "vllm-160M-float32": Case(model="llama-160M", dtype="float32"),
    "vllm-1B": Case(model="llama-1B"),
    "vllm-neox-160M": Case(model="neox-160M"),
    "vllm-tied": Case(model="tied"),
    "vllm-head-12": Case(model="head-12"),
    "vllm-two-engines-1": Case(model="llama-10M", memory=0.45, together=True),
    "vllm-two-engines-2": Case(model="llama-10M", memory=0.45, together=True),
}


def score_with_transformers(context: Context) -> None:
    """Measure every model in both dtypes: tokens/s, and the difference of bfloat16 from float32."""
    for model in models.shapes(dry_run=context.dry_run).values():
        if model.name == models.PIPELINE or not model.folder(context.work).exists():
            continue
        for dtype in DTYPES:
            with context.report.case(f"{model.name} {dtype}"):
                _reference(context, model, dtype)


def _reference(context: Context, model: Model, dtype: Dtype) -> None:
    config = EngineConfig(
        dtype=dtype, max_model_len=models.window(dry_run=context.dry_run),
        max_num_batched_tokens=16_384,
    )  # fmt: skip
    prompts = models.corpus_prompts(model.vocabulary, dry_run=context.dry_run)
    scorer = PackedScorer(config, model.folder(context.work), padded=True)
    try:
        _scores(scorer, prompts[:8])
        found, rate = _timed(scorer, prompts)
        exact = read_reference(context.work, model, "float32") if dtype == "bfloat16" else None
        largest, mean = differences(found, exact) if exact else (None, None)
        params = models.count_parameters(model.folder(context.work))
        context.report.add(
            Row(what=f"{model.name} {dtype}", rate=rate, share=context.share(params, rate),
                difference=largest, mean_difference=mean,
                note="difference: from float32" if exact else "")
        )  # fmt: skip
        _write_reference(context.work, model, dtype, 0, found)
        if model.name in FIVE_SHOT:
            asked = models.five_shot(model.vocabulary, dry_run=context.dry_run)
            five_shot = _scores(scorer, *asked)
            _write_reference(context.work, model, dtype, "five-shot", five_shot)
        for checkpoint in range(1, model.checkpoints):
            scorer.load(model.folder(context.work, checkpoint))
            swapped = _scores(scorer, prompts[:_AFTER_SWAP])
            _write_reference(context.work, model, dtype, checkpoint, swapped)
    finally:
        scorer.close()


def score_with_vllm(context: Context) -> None:
    """Measure one engine: start, tokens/s, equality with transformers, swaps, a five-shot task."""
    case = CASES[context.name]
    model = models.shapes(dry_run=context.dry_run)[case.model]
    config = EngineConfig(
        kind="vllm", dtype=case.dtype, max_model_len=models.window(dry_run=context.dry_run),
        gpu_memory_utilization=case.memory, **dict(case.engine),
    )  # fmt: skip
    started = time.perf_counter()
    scorer = make_scorer(config, model.folder(context.work))
    engine = _Engine(context=context, case=case, model=model, scorer=scorer)
    try:
        start_s = time.perf_counter() - started
        _scores(scorer, engine.prompts[:8])
        context.turns.ready()
        if case.together:
            engine.measure(start_s)
            return
        with context.turns.alone():
            engine.measure(start_s)
            if model.name in FIVE_SHOT:
                with context.report.case("five-shot"):
                    engine.five_shot()
            for checkpoint in range(1, model.checkpoints):
                with context.report.case(f"swap {checkpoint}"):
                    engine.swap(checkpoint)
    finally:
        scorer.close()


@dataclass(kw_only=True)
class _Engine:
    """A running engine and its measurements."""

    context: Context
    case: Case
    model: Model
    scorer: Scorer

    @cached_property
    def prompts(self) -> list[npt.NDArray[np.int32]]:
        """The prompts that every engine scores."""
        return models.corpus_prompts(self.model.vocabulary, dry_run=self.context.dry_run)

    def measure(self, start_s: float) -> None:
        """Measure tokens/s of the corpus prompts."""
        found, rate = _timed(self.scorer, self.prompts)
        params = models.count_parameters(self.model.folder(self.context.work))
        settings = ", ".join(f"{key} {value:,}" for key, value in self.case.engine)
        beside = ", two at once" if self.case.together else ""
        row = Row(
            what=f"{self.model.name} {self.case.dtype}{beside}",
            rate=rate,
            share=self.context.share(params, rate),
            seconds=start_s,
            note="; ".join(filter(None, ["seconds: start", settings])),
        )
        self._compare(0, found, row)

    def swap(self, checkpoint: int) -> None:
        """Measure a swap, including its proof; scores have to be those of the new weights."""
        started = time.perf_counter()
        self.scorer.load(self.model.folder(self.context.work, checkpoint))
        seconds = time.perf_counter() - started
        found = _scores(self.scorer, self.prompts[:_AFTER_SWAP])
        what = f"{self.model.name} {self.case.dtype}, swap {checkpoint}"
        self._compare(checkpoint, found, Row(what=what, seconds=seconds))

    def five_shot(self) -> None:
        """Measure the tokens saved by shared contexts, and the time per request."""
        prompts, last = models.five_shot(self.model.vocabulary, dry_run=self.context.dry_run)
        before, started = self.scorer.computed_tokens, time.perf_counter()
        found = _scores(self.scorer, prompts, last)
        seconds = time.perf_counter() - started
        computed, total = self.scorer.computed_tokens - before, sum(map(len, prompts))
        row = Row(
            what=f"{self.model.name} {self.case.dtype}, five-shot",
            rate=total / seconds,
            seconds=seconds,
            note=f"{len(prompts)} requests of {total:,} tokens, {computed:,} computed; "
            f"{1000 * seconds / len(prompts):.2f} ms a request",
        )
        self._compare("five-shot", found, row)

    def _compare(self, what: int | str, found: Values, row: Row) -> None:
        """Add the row with the difference from transformers; fail if it exceeds rounding."""
        report, dtype = self.context.report, self.case.dtype
        expected = read_reference(self.context.work, self.model, dtype, what)
        if expected is None:
            note = "; ".join(filter(None, [row.note, "transformers has no values"]))
            report.add(replace(row, note=note))
            return
        largest, mean = differences(found, expected)
        report.add(replace(row, difference=largest, mean_difference=mean))
        if not mean <= AGREES[dtype]:  # NaN, too
            report.fail(
                f"{row.what}: differs from transformers by {mean:.3g} nats on average; expected "
                f"at most {AGREES[dtype]:.3g}."
            )


def differences(found: Values, expected: Values) -> tuple[float, float]:
    """Return the largest and the mean difference of log-probabilities, in nats.

    Raises:
        ValueError: numbers of prompts or tokens differ.
    """
    lengths, wanted = [len(array) for array in found], [len(array) for array in expected]
    if lengths != wanted:
        raise ValueError(f"{sum(lengths):,} log-probabilities of {len(lengths):,} prompts; "
                         f"expected {sum(wanted):,} of {len(wanted):,}.")  # fmt: skip
    gaps = np.abs(np.concatenate(found) - np.concatenate(expected))
    return float(gaps.max()), float(gaps.mean())


def _timed(scorer: Scorer, prompts: Sequence[Any]) -> tuple[Values, float]:
    """Return log-probabilities, and tokens/s of the fastest of two to five passes.

    The first pass loads or compiles kernels for each shape.
    """
    times: list[float] = []
    joined = Prompts.of(prompts)
    found = np.empty(0, np.float32)
    while len(times) < _PASSES or (sum(times) < _LEAST_S and len(times) < 5):
        started = time.perf_counter()
        found = scorer.score(joined)
        times.append(time.perf_counter() - started)
    return joined.each(found), len(joined.tokens) / min(times)


def _scores(scorer: Scorer, prompts: Sequence[Any], last: Sequence[int] | None = None) -> Values:
    joined = Prompts.of(prompts, last)
    return joined.each(scorer.score(joined))


def _reference_file(work: Path, model: Model, dtype: str, what: int | str) -> Path:
    return work / "references" / f"{model.name}-{dtype}-{what}.npz"


def read_reference(work: Path, model: Model, dtype: str, what: int | str = 0) -> Values | None:
    """Return the values of transformers for a checkpoint or the five-shot task, if they exist."""
    path = _reference_file(work, model, dtype, what)
    if not path.exists():
        return None
    with np.load(path) as file:
        flat, ends = file["values"], np.cumsum(file["lengths"])
    return np.split(flat, ends[:-1])


def _write_reference(work: Path, model: Model, dtype: str, what: int | str, values: Values) -> None:
    path = _reference_file(work, model, dtype, what)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, values=np.concatenate(values), lengths=[len(array) for array in values])
