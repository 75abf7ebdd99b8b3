"""The packed scorer compared with transformers' best batch size, engine against engine.

    .venv/bin/python benchmarks/packed/run.py --output docs/results/packed.json

The same weights and prompts in one process and on one thread (or one GPU): padded batches, sorted
by length, of several sizes in tokens against packed forwards. Both warm up on all prompts, take
turns, and the least of the repetitions counts: CPU seconds, or seconds of the GPU. Both must find
the same log-probabilities.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packed_scorer import PackedScorer
from neuneu.scoring.engines.packing import Prompts, plan

SIZES: Final = {  # width, layers, heads, vocabulary
    "2M": (128, 4, 4, 4096),
    "7M": (256, 8, 8, 4096),
    "7M, vocabulary 50k": (64, 8, 8, 50_304),
    "160M": (768, 12, 12, 50_304),
    "410M": (1024, 24, 16, 50_304),
}
DEFAULT_SIZES: Final = {"cpu": ("2M", "7M, vocabulary 50k"), "cuda": ("160M", "410M")}
BATCHES: Final = {"cpu": (512, 2048), "cuda": (16_384, 65_536)}
DTYPES: Final = {"cpu": "float32", "cuda": "bfloat16"}
AGREE: Final = {"float32": 1e-4, "bfloat16": 0.3}
WINDOW: Final = 1024
REQUESTS: Final = 81_000


def save(folder: Path, size: str) -> None:
    """Save a model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, vocabulary = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=WINDOW,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def corpus(vocabulary: int, scale: int) -> Prompts:
    """Texts of 8 to 1,023 tokens, a median of 120; all tokens are scored."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(120), 1.0, 32 * scale)).astype(int).clip(8, WINDOW - 1)
    return Prompts.of([random.integers(0, vocabulary, n) for n in lengths])


def five_shot(vocabulary: int, scale: int) -> Prompts:
    """Questions of 20 to 80 tokens, each with 4 choices of 1 to 12, after 500 of examples."""
    random = np.random.default_rng(1)
    examples = random.integers(0, vocabulary, 500)
    prompts, last = [], []
    for _ in range(5 * scale):
        question = random.integers(0, vocabulary, random.integers(20, 81))
        for n in random.integers(1, 13, 4):
            prompts.append(np.concatenate([examples, question, random.integers(0, vocabulary, n)]))
            last.append(int(n))
    return Prompts.of(prompts, last)


CASES: Final[dict[str, Callable[[int, int], Prompts]]] = {
    "corpus of mixed lengths": corpus,
    "five-shot task": five_shot,
}


def seconds(scorer: PackedScorer, prompts: Prompts, device: str) -> tuple[float, Any]:
    """Return CPU seconds of this process, or the GPU's time, and the log-probabilities."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    found = scorer.score(prompts)
    return clock() - started, found


def compare(size: str, device: str, *, scale: int, repetitions: int) -> list[dict[str, Any]]:
    """Measure both ways on all cases."""
    dtype = DTYPES[device]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder, size)
        settings = {"max_model_len": WINDOW, "dtype": dtype}
        ways = {0: PackedScorer(EngineConfig(**settings), folder)}  # type: ignore[arg-type]
        for batch in BATCHES[device]:
            config = EngineConfig(**settings, max_num_batched_tokens=batch)  # type: ignore[arg-type]
            ways[batch] = PackedScorer(config, folder, padded=True)
        for case, make in CASES.items():
            prompts = make(SIZES[size][3], scale)
            times: dict[int, list[float]] = {way: [] for way in ways}
            reference: Any = None
            for repetition in range(repetitions + 1):
                for way, scorer in ways.items():
                    before = scorer.computed_tokens
                    spent, found = seconds(scorer, prompts, device)
                    reference = found if reference is None else reference
                    gap = float(np.abs(found - reference).max())
                    assert gap <= AGREE[dtype], f"{way} differs by {gap} nats"
                    if repetition:
                        times[way].append(spent)
                    if way == 0:
                        computed = scorer.computed_tokens - before
            least = {way: min(found) for way, found in times.items()}
            best = min(BATCHES[device], key=least.__getitem__)
            rows.append(
                {
                    "size": size,
                    "case": case,
                    "requests": len(prompts),
                    "tokens": len(prompts.tokens),
                    "computed": computed,
                    "packed_s": least[0],
                    "padded_s": {str(batch): least[batch] for batch in BATCHES[device]},
                    "best_batch": best,
                    "ratio": least[best] / least[0],
                    "ratios": sorted(b / a for a, b in zip(times[0], times[best], strict=True)),
                }
            )
    return rows


def overhead() -> dict[str, float]:
    """CPU seconds of everything but the model: a forward that returns zeros, 81,000 requests.

    Questions of four choices in 66 tasks of five shots, as in the paper's suite.
    """
    from neuneu.scoring.engines import packed_scorer

    random = np.random.default_rng(2)
    prompts, last = [], []
    for _ in range(66):
        examples = random.integers(0, 50_000, 500)
        for _ in range(REQUESTS // 66 // 4 + 1):
            question = random.integers(0, 50_000, random.integers(20, 81))
            for n in random.integers(1, 13, 4):
                choice = random.integers(0, 50_000, n)
                prompts.append(np.concatenate([examples, question, choice]).astype(np.int32))
                last.append(int(n))
    joined = Prompts.of(prompts, last)
    started = time.process_time()
    forwards = plan(joined, batch_tokens=8192)
    planned = time.process_time() - started
    with tempfile.TemporaryDirectory() as name:
        save(Path(name), "2M")
        scorer = PackedScorer(EngineConfig(max_model_len=WINDOW, dtype="float32"), Path(name))
    original = packed_scorer.PackedScorer._forward
    try:
        packed_scorer.PackedScorer._forward = (  # type: ignore[method-assign]
            lambda self, forward, layout: torch.zeros(len(forward.targets))  # noqa: ARG005
        )
        scorer.score(joined)
        started = time.process_time()
        scorer.score(joined)
        spent = time.process_time() - started
    finally:
        packed_scorer.PackedScorer._forward = original  # type: ignore[method-assign]
    return {
        "requests": len(joined), "tokens": len(joined.tokens),
        "computed": sum(len(f.tokens) for f in forwards),
        "plan_s": planned, "checkpoint_s": spent,
        "ms_a_request": 1000 * spent / len(joined),
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Print the ratios."""
    table = Table(title="Packed against padded")
    for name in ("model", "case", "tokens", "computed", "best batch", "ratio", "by repetition"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["size"], row["case"], f"{row['tokens']:,}", f"{row['computed']:,}",
            f"{row['best_batch']:,}", f"{row['ratio']:.2f}",
            f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--scale", type=int, default=1, help="times as many prompts")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes or DEFAULT_SIZES[arguments.device]:
        rows += compare(
            size, arguments.device, scale=arguments.scale, repetitions=arguments.repetitions
        )
        show(rows)
    record = {
        "device": arguments.device, "dtype": DTYPES[arguments.device], "window": WINDOW,
        "repetitions": arguments.repetitions, "rows": rows, "overhead": overhead(),
    }  # fmt: skip
    print(record["overhead"])
    if arguments.output:
        from neuneu.core.files import write_text_atomic

        write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
