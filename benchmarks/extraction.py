"""Extraction against an engine a checkpoint and against plain transformers, in one run.

    .venv/bin/python benchmarks/extraction.py --output docs/results/extraction.json

Every way of scoring runs in its own process, ways take turns, and the medians of the repetitions
are printed. The models have random weights; the text is that of this installation.

* ours: `neuneu extract`, one worker with all threads, and one worker a CPU.
* engine: the same vLLM engine in process, started anew for every checkpoint.
* workers: vLLM as it comes, with worker processes, for three checkpoints (others add the same).
* transformers: batches by length, the best of several sizes, weights loaded for every checkpoint.
* bare: one warm engine that only scores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

SIZES: Final = {"2M": (128, 4, 4), "7M": (256, 8, 8)}  # width, layers, heads
SCENARIOS: Final = {"48 x 10k": (48, 10_000), "16 x 50k": (16, 50_000), "4 x 360k": (4, 360_000)}
WAYS: Final = ("ours", "ours_a_cpu", "engine", "workers", "transformers", "bare")
BATCHES: Final = (2048, 8192)
WINDOW: Final = 512
VOCABULARY: Final = 4096
N_WITH_WORKERS: Final = 3


def prepare(folder: Path, size: str, n_checkpoints: int, n_tokens: int) -> None:
    """Writes checkpoints, tokenizer and a corpus of about `n_tokens` tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from neuneu.checkpoints import CheckpointRef, write_metadata
    from neuneu.suites.text import TextConfig, prepare_text
    from neuneu.suites.tokenizer import load_tokenizer, train_tokenizer

    if (folder / "ready").exists():
        return
    prepared = prepare_text(TextConfig(), folder / "text")
    tokenizer = load_tokenizer(
        train_tokenizer(prepared, VOCABULARY, folder / "tokenizer", context_length=WINDOW)
    )
    texts = pq.read_table(prepared.train("prose"), columns=["text"]).column("text").to_pylist()
    kept, count = [], 0
    for text in texts:
        kept.append(text)
        count += len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if count >= n_tokens:
            break
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": kept}), folder / "corpus.parquet")
    width, layers, heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
    )
    for step in range(1, n_checkpoints + 1):
        torch.manual_seed(step)
        model = LlamaForCausalLM(config)
        target = folder / "checkpoints" / "run" / f"step-{step}"
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        ref = CheckpointRef(
            family="benchmark", suite="benchmark", run="run", params=model.num_parameters(),
            step=step, tokens=float(step), flops=float(step), planned_tokens=None, uri=str(target),
        )  # fmt: skip
        write_metadata(target, ref)
    (folder / "ready").touch()


def workload_of(folder: Path) -> Any:
    """The corpus as prompts, as every way scores it, and the checkpoint folders."""
    from transformers import AutoTokenizer

    from neuneu.checkpoints import list_local
    from neuneu.extraction.corpus import load_corpus
    from neuneu.extraction.evaluation import make_workload

    refs = list_local(folder / "checkpoints")
    corpus = load_corpus(folder / "corpus.parquet", max_words=10**9)
    tokenizer = AutoTokenizer.from_pretrained(refs[0].uri, local_files_only=True)
    return make_workload([], corpus, tokenizer, max_tokens=WINDOW - 1), [Path(r.uri) for r in refs]


def run_ours(folder: Path, *, actors: int, threads: int) -> dict[str, Any]:
    """Our pipeline; Ray's start is outside the time, as a cluster's would be."""
    from neuneu.checkpoints import list_local
    from neuneu.extraction.engines import EngineConfig
    from neuneu.extraction.pipeline import ExtractConfig, extract
    from neuneu.ray_session import ray_session

    with tempfile.TemporaryDirectory() as store, ray_session():
        summary = extract(
            ExtractConfig(
                checkpoints=str(folder / "checkpoints"),
                store=f"{store}/store",
                corpus=folder / "corpus.parquet",
                corpus_words=10**9,
                tasks=(),
                engine=EngineConfig(max_model_len=WINDOW),
                actors=actors,
                cpus_per_actor=threads,
            )
        )
    assert summary.quarantined == 0, summary.errors
    seconds = summary.seconds
    start = seconds["engine_start"] / actors
    scoring = seconds["score"] / actors
    return {
        "seconds": summary.wall_s,
        "params": list_local(folder / "checkpoints")[0].params,
        "seconds_scoring": scoring,
        "start_s": start,
        "tokens": summary.tokens,
        "other_s_a_checkpoint": (summary.wall_s - start - scoring) / summary.done,
        "scoring_tokens_per_s": summary.tokens / scoring,
        "phases": seconds,
    }


def run_engine(folder: Path, *, workers: bool) -> dict[str, Any]:
    """A vLLM engine for each checkpoint, in process or with vLLM's own worker processes."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if workers else "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    workload, folders = workload_of(folder)
    from vllm import LLM, SamplingParams

    folders = folders[:N_WITH_WORKERS] if workers else folders
    sampling = SamplingParams(
        max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": list(map(int, prompt))} for prompt in workload.prompts]
    started = time.perf_counter()
    scoring = 0.0
    for checkpoint in folders:
        engine = LLM(
            str(checkpoint), dtype="float32", skip_tokenizer_init=True, enforce_eager=True,
            use_tqdm_on_load=False, enable_prefix_caching=False, max_model_len=WINDOW,
            max_num_batched_tokens=2048, max_num_seqs=64, kv_cache_memory_bytes=2**28,
        )  # fmt: skip
        begun = time.perf_counter()
        engine.generate(prompts, sampling, use_tqdm=False)
        scoring += time.perf_counter() - begun
        engine.llm_engine.engine_core.shutdown()
        del engine
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "tokens": workload.n_tokens * len(folders),
        "other_s_a_checkpoint": (seconds - scoring) / len(folders),
        "checkpoints": len(folders),
    }


def run_transformers(folder: Path) -> dict[str, Any]:
    """Plain transformers: weights loaded for each checkpoint, batches of prompts of like length."""
    from neuneu.extraction.engines import EngineConfig
    from neuneu.extraction.hf_scorer import HfScorer

    workload, folders = workload_of(folder)
    results = {}
    for batch in BATCHES:
        config = EngineConfig(kind="hf", max_model_len=WINDOW, max_num_batched_tokens=batch)
        scorer = HfScorer(config, folders[0])
        scorer.score(workload.prompts[:32])
        started = time.perf_counter()
        for checkpoint in folders:
            scorer.load(checkpoint)
            scorer.score(workload.prompts, workload.last)
        results[batch] = time.perf_counter() - started
    best = min(results, key=results.__getitem__)
    return {
        "seconds": results[best],
        "tokens": workload.n_tokens * len(folders),
        "batch_tokens": best,
        "seconds_by_batch": results,
    }


def run_bare(folder: Path) -> dict[str, Any]:
    """The engine alone, warm: no swap, no proof, no store, the same prompts again and again."""
    from neuneu.extraction.engines import EngineConfig
    from neuneu.extraction.vllm_scorer import VllmScorer

    workload, folders = workload_of(folder)
    scorer = VllmScorer(EngineConfig(max_model_len=WINDOW), folders[0])
    scorer.score(workload.prompts[:32])
    started = time.perf_counter()
    for _ in folders:
        scorer.score(workload.prompts, workload.last)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": workload.n_tokens * len(folders)}


def run(way: str, folder: Path) -> dict[str, Any]:
    """One way of scoring all checkpoints of `folder`."""
    cpus = os.cpu_count() or 1
    if way == "ours":
        return run_ours(folder, actors=1, threads=cpus)
    if way == "ours_a_cpu":
        return run_ours(folder, actors=cpus, threads=1)
    if way == "transformers":
        return run_transformers(folder)
    if way == "bare":
        return run_bare(folder)
    return run_engine(folder, workers=way == "workers")


def measure(way: str, folder: Path) -> dict[str, Any]:
    """`run` in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [sys.executable, __file__, "--run", way, str(folder), result.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        found = json.loads(Path(result.name).read_text(encoding="utf-8"))
    found["tokens_per_s"] = found["tokens"] / found["seconds"]
    return dict(found)


def medians(results: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each number over repetitions."""
    keys = [key for key, value in results[0].items() if isinstance(value, int | float)]
    return {key: statistics.median(float(result[key]) for result in results) for key in keys}


def fit_profile(repetitions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The numbers of `neuneu.extraction.cost.HardwareProfile`, by non-negative least squares.

    From the repetitions of `ours`, relative errors weighted alike: scoring seconds a token are
    `token_s` + 2 * params / `flops_per_s`; the medians of the rest are what they are.
    """
    from scipy.optimize import nnls

    ours = [r for r in repetitions if r["way"] == "ours"]
    a_token = np.array([r["seconds_scoring"] / r["tokens"] for r in ours])
    params = np.array([r["params"] for r in ours])
    design = np.stack([np.ones(len(ours)), 2 * params], axis=1) / a_token[:, None]
    (token_s, inverse), _ = nnls(design, np.ones(len(ours)))
    predicted = token_s + 2 * params * inverse
    return {
        "name": name,
        "source": (
            f"benchmarks/extraction.py, {os.cpu_count()} CPUs, {len(ours)} runs of models of "
            f"{params.min():.3g} to {params.max():.3g} parameters; off by at most "
            f"{100 * float(np.abs(predicted / a_token - 1).max()):.0f} % on them"
        ),
        "overhead_s": round(statistics.median(r["other_s_a_checkpoint"] for r in ours), 3),
        "start_s": round(statistics.median(r["start_s"] for r in ours), 1),
        "token_s": float(f"{token_s:.3g}"),
        "flops_per_s": float(f"{1 / inverse:.3g}") if inverse > 0 else 1e18,
        "download_mb_s": 100.0,
        "gpus_per_engine": 0.0,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """One table of the medians."""
    table = Table(title="Extraction, medians")
    for name in ("model", "checkpoints x tokens", "way", "seconds", "tokens/s", "ckpts/h",
                 "not scoring, s/ckpt", "against transformers"):  # fmt: skip
        table.add_column(name, justify="right")
    rate = {
        (row["size"], row["scenario"]): row["tokens_per_s"]
        for row in rows
        if row["way"] == "transformers"
    }
    for row in rows:
        base = rate.get((row["size"], row["scenario"]))
        other = row.get("other_s_a_checkpoint")
        table.add_row(
            row["size"], row["scenario"], row["way"], f"{row['seconds']:.1f}",
            f"{row['tokens_per_s']:,.0f}", f"{row['checkpoints_per_h']:,.0f}",
            "-" if other is None else f"{other:.2f}",
            "-" if base is None else f"{row['tokens_per_s'] / base:.2f}",
        )  # fmt: skip
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs=3, metavar=("WAY", "FOLDER", "RESULT"))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "neuneu-bench")
    parser.add_argument("--profile", type=Path, help="write a fitted hardware profile, YAML")
    parser.add_argument("--output", type=Path, default=Path("docs/results/extraction.json"))
    arguments = parser.parse_args()
    if arguments.run:
        way, folder, result = arguments.run
        Path(result).write_text(json.dumps(run(way, Path(folder))), encoding="utf-8")
        return
    from neuneu.files import write_text_atomic

    rows: list[dict[str, Any]] = []
    repetitions: list[dict[str, Any]] = []
    for size in arguments.sizes.split(","):
        for scenario in arguments.scenarios.split(","):
            n_checkpoints, n_tokens = SCENARIOS[scenario]
            folder = arguments.work / f"{size}-{n_checkpoints}x{n_tokens}"
            prepare(folder, size, n_checkpoints, n_tokens)
            found: dict[str, list[dict[str, Any]]] = {w: [] for w in arguments.ways.split(",")}
            for repetition in range(arguments.repetitions):
                for way, results in found.items():
                    if way == "workers" and repetition:
                        continue
                    result = measure(way, folder)
                    print(size, scenario, way, f"{result['tokens_per_s']:,.0f}/s", flush=True)
                    results.append(result)
                    repetitions.append({"size": size, "scenario": scenario, "way": way} | result)
            for way, results in found.items():
                row = medians(results)
                count = row.get("checkpoints", n_checkpoints)
                row["checkpoints_per_h"] = 3600 * count / row["seconds"]
                rows.append({"size": size, "scenario": scenario, "way": way} | row)
            record = {
                "cpus": os.cpu_count(), "python": platform.python_version(),
                "numpy": np.__version__, "rows": rows, "repetitions": repetitions,
            }  # fmt: skip
            write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")
    show(rows)
    if arguments.profile:
        profile = fit_profile(repetitions, arguments.profile.stem)
        write_text_atomic(arguments.profile, yaml.safe_dump(profile, sort_keys=False))


if __name__ == "__main__":
    main()
