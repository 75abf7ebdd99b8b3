"""Extraction compared with one engine per checkpoint and with plain transformers.

    .venv/bin/python benchmarks/extraction/run.py --output docs/results/extraction.json

Each method runs in its own process, methods take turns, and medians of the repetitions are printed.
Models have random weights; the text comes from this installation.

* ours: `neuneu extract`, one worker on all threads or one worker per CPU; all checkpoints.
* engine: the same vLLM engine in process, started anew for every checkpoint.
* workers: vLLM with its default worker processes.
* transformers: batches by length, the best of several sizes, weights loaded for every checkpoint.
* bare: one warm engine that only scores.

The others score only the first checkpoints (`AT_MOST`), because further ones would cost them the
same. With `--device cuda`, models are larger and in bfloat16 on one GPU, and results include the
fraction of the GPU's matrix rate.
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

SIZES: Final = {  # width, layers, heads
    "2M": (128, 4, 4),
    "7M": (256, 8, 8),
    "160M": (768, 12, 12),
    "410M": (1024, 24, 16),
}
DEFAULT_SIZES: Final = {"cpu": "2M,7M", "cuda": "160M,410M"}
DTYPES: Final = {"cpu": "float32", "cuda": "bfloat16"}
SCENARIOS: Final = {"48 x 10k": (48, 10_000), "16 x 50k": (16, 50_000), "4 x 360k": (4, 360_000)}
WAYS: Final = ("ours", "ours_a_cpu", "engine", "workers", "transformers", "bare")
AT_MOST: Final = {"engine": 6, "workers": 3, "transformers": 6, "bare": 6}
TOKENS_AT_MOST: Final = 200_000  # tokens, for long checkpoints
ONCE: Final = frozenset({"workers", "ours_a_cpu"})  # measured once
SHORT: Final = {"7M": "48 x 10k"}  # sizes with a single scenario
BATCHES: Final = {"cpu": (2048, 8192), "cuda": (16_384, 65_536)}
WINDOW: Final = 512
VOCABULARY: Final = 4096


def prepare(folder: Path, size: str, n_checkpoints: int, n_tokens: int) -> None:
    """Write checkpoints, tokenizer and a corpus of about `n_tokens` tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from neuneu.data.checkpoints import CheckpointRef, write_metadata
    from neuneu.ladder.text import TextConfig, prepare_text
    from neuneu.ladder.tokenizer import load_tokenizer, train_tokenizer

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


def workload_of(folder: Path, way: str) -> Any:
    """Return the corpus as prompts, and the checkpoint folders to score."""
    from transformers import AutoTokenizer

    from neuneu.data.checkpoints import list_local
    from neuneu.scoring.corpus import load_corpus
    from neuneu.scoring.evaluation import make_workload
    from neuneu.scoring.wanted import Wanted

    refs = list_local(folder / "checkpoints")
    corpus = load_corpus(folder / "corpus.parquet", max_words=10**9)
    tokenizer = AutoTokenizer.from_pretrained(refs[0].uri, local_files_only=True)
    workload = make_workload(Wanted(tasks=[], corpora=[corpus]), tokenizer, max_tokens=WINDOW - 1)
    count = max(1, min(AT_MOST[way], TOKENS_AT_MOST // workload.n_tokens))
    return workload, [Path(ref.uri) for ref in refs[:count]]


def run_ours(folder: Path, *, actors: int, threads: int, device: str) -> dict[str, Any]:
    """Measure our pipeline, without the start of Ray, which a cluster would already have."""
    from neuneu.core.ray_session import ray_session
    from neuneu.scoring.config import ExtractConfig
    from neuneu.scoring.engines.engine import EngineConfig
    from neuneu.scoring.pipeline import extract

    with tempfile.TemporaryDirectory() as store, ray_session():
        summary = extract(
            ExtractConfig(
                checkpoints=str(folder / "checkpoints"),
                store=f"{store}/store",
                corpus=str(folder / "corpus.parquet"),
                corpus_words=10**9,
                tasks=(),
                engine=EngineConfig(max_model_len=WINDOW, dtype=DTYPES[device]),  # type: ignore[arg-type]
                actors=actors,
                cpus_per_actor=threads,
                gpus_per_actor=1.0 if device == "cuda" else 0.0,
            )
        )
    assert summary.quarantined == 0, summary.errors
    seconds = summary.seconds
    start = seconds["engine_start"] / actors
    scoring = seconds["score"] / actors
    return {
        "seconds": summary.wall_s,
        "seconds_scoring": scoring,
        "start_s": start,
        "tokens": summary.tokens,
        "other_s_a_checkpoint": (summary.wall_s - start - scoring) / summary.done,
        "scoring_tokens_per_s": summary.tokens / scoring,
        "phases": seconds,
    }


def run_engine(folder: Path, *, way: str, device: str) -> dict[str, Any]:
    """Measure one vLLM engine per checkpoint, in process or with vLLM's worker processes."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if way == "workers" else "0"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    workload, folders = workload_of(folder, way)
    from vllm import LLM, SamplingParams

    sampling = SamplingParams(
        max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )
    memory = {"kv_cache_memory_bytes": 2**28} if device == "cpu" else {}
    prompts = [{"prompt_token_ids": list(map(int, prompt))} for prompt in workload.prompts]
    started = time.perf_counter()
    scoring = 0.0
    for checkpoint in folders:
        engine = LLM(
            str(checkpoint), dtype=DTYPES[device], skip_tokenizer_init=True, enforce_eager=True,
            use_tqdm_on_load=False, enable_prefix_caching=False, max_model_len=WINDOW,
            max_num_batched_tokens=2048, max_num_seqs=64, **memory,
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


def run_transformers(folder: Path, *, device: str) -> dict[str, Any]:
    """Measure plain transformers: weights loaded per checkpoint, batches of similar length."""
    from neuneu.scoring.engines.engine import EngineConfig
    from neuneu.scoring.engines.hf_scorer import HfScorer

    workload, folders = workload_of(folder, "transformers")
    results = {}
    for batch in BATCHES[device]:
        config = EngineConfig(
            kind="hf",
            max_model_len=WINDOW,
            max_num_batched_tokens=batch,
            dtype=DTYPES[device],  # type: ignore[arg-type]
        )
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
        "checkpoints": len(folders),
        "batch_tokens": best,
        "seconds_by_batch": results,
    }


def run_bare(folder: Path, *, device: str) -> dict[str, Any]:
    """Measure a warm engine alone on the same prompts: no swap, no proof, no store."""
    from neuneu.scoring.engines.engine import EngineConfig
    from neuneu.scoring.engines.vllm_scorer import VllmScorer

    workload, folders = workload_of(folder, "bare")
    config = EngineConfig(max_model_len=WINDOW, dtype=DTYPES[device])  # type: ignore[arg-type]
    scorer = VllmScorer(config, folders[0])
    scorer.score(workload.prompts[:32])
    started = time.perf_counter()
    for _ in folders:
        scorer.score(workload.prompts, workload.last)
    seconds = time.perf_counter() - started
    tokens = workload.n_tokens * len(folders)
    return {"seconds": seconds, "tokens": tokens, "checkpoints": len(folders)}


def run(way: str, folder: Path, device: str) -> dict[str, Any]:
    """Measure one method on the checkpoints of `folder`."""
    cpus = os.cpu_count() or 1
    if way == "ours":
        return run_ours(folder, actors=1, threads=cpus, device=device)
    if way == "ours_a_cpu":
        return run_ours(folder, actors=cpus, threads=1, device=device)
    if way == "transformers":
        return run_transformers(folder, device=device)
    if way == "bare":
        return run_bare(folder, device=device)
    return run_engine(folder, way=way, device=device)


def matrix_rate() -> float:
    """Return the FLOP/s of the GPU on square bfloat16 matrices, the best of ten."""
    import torch

    size = 8192
    left, right = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def measure_words() -> dict[str, float]:
    """Return the seconds to align tokens with words: ours, and by a scan of all words."""
    from neuneu.scoring.corpus import token_words, word_spans

    text = " ".join(f"word{i % 97}" for i in range(10_000))
    spans = word_spans(text)
    offsets = [
        (a, b) for start, end in spans.tolist() for a, b in ((start, start + 3), (start + 3, end))
    ]
    listed, some = spans.tolist(), offsets[:: len(offsets) // 200]
    started = time.perf_counter()
    scanned = [
        next(i for i, (start, end) in enumerate(listed) if start < b <= end) for _, b in some
    ]
    quadratic = (time.perf_counter() - started) / len(some) * len(offsets)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        words = token_words(word_spans(text), np.array(offsets))
        times.append(time.perf_counter() - started)
    assert words[:: len(offsets) // 200].tolist() == scanned
    return {"tokens": len(offsets), "ours_s": min(times), "scan_s": quadratic}


def measure(way: str, folder: Path, device: str) -> dict[str, Any]:
    """Call `run` in its own process."""
    from neuneu.data.checkpoints import list_local

    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [sys.executable, __file__, "--device", device, "--run", way, str(folder)]
        subprocess.run(
            [*command, result.name],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | hidden,
        )
        found = json.loads(Path(result.name).read_text(encoding="utf-8"))
    found["tokens_per_s"] = found["tokens"] / found["seconds"]
    found["params"] = list_local(folder / "checkpoints")[0].params
    return dict(found)


def medians(results: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each number over repetitions."""
    keys = [key for key, value in results[0].items() if isinstance(value, int | float)]
    return {key: statistics.median(float(result[key]) for result in results) for key in keys}


def fit_profile(repetitions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Fit a `HardwareProfile` to the repetitions of `ours` by non-negative least squares.

    Scoring seconds per token are `token_s` + 2 * params / `flops_per_s`, with relative errors
    weighted equally; the other numbers are medians.
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
            f"benchmarks/extraction/run.py, {os.cpu_count()} CPUs, {len(ours)} runs of models of "
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
    """Print a table of the medians."""
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
    parser.add_argument("--device", choices=DTYPES, default="cpu")
    parser.add_argument("--sizes", help="among " + ", ".join(SIZES))
    parser.add_argument("--scenarios", help="among " + ", ".join(SCENARIOS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "neuneu-bench")
    parser.add_argument("--profile", type=Path, help="write a fitted hardware profile, YAML")
    parser.add_argument("--output", type=Path, default=Path("docs/results/extraction.json"))
    arguments = parser.parse_args()
    if arguments.run:
        way, folder, result = arguments.run
        Path(result).write_text(
            json.dumps(run(way, Path(folder), arguments.device)), encoding="utf-8"
        )
        return
    from neuneu.core.files import write_text_atomic

    rows: list[dict[str, Any]] = []
    repetitions: list[dict[str, Any]] = []
    words = measure_words()
    rate = matrix_rate() if arguments.device == "cuda" else None
    for size in (arguments.sizes or DEFAULT_SIZES[arguments.device]).split(","):
        scenarios = arguments.scenarios or SHORT.get(size, ",".join(SCENARIOS))
        for scenario in scenarios.split(","):
            n_checkpoints, n_tokens = SCENARIOS[scenario]
            folder = arguments.work / f"{size}-{n_checkpoints}x{n_tokens}"
            prepare(folder, size, n_checkpoints, n_tokens)
            found: dict[str, list[dict[str, Any]]] = {w: [] for w in arguments.ways.split(",")}
            for repetition in range(arguments.repetitions):
                for way, results in found.items():
                    if way in ONCE and repetition:
                        continue
                    result = measure(way, folder, arguments.device)
                    print(size, scenario, way, f"{result['tokens_per_s']:,.0f}/s", flush=True)
                    results.append(result)
                    repetitions.append({"size": size, "scenario": scenario, "way": way} | result)
            for way, results in found.items():
                row = medians(results)
                count = row.get("checkpoints", n_checkpoints)
                if rate:
                    row["share_of_matrix_rate"] = 2 * row["params"] * row["tokens_per_s"] / rate
                row["checkpoints_per_h"] = 3600 * count / row["seconds"]
                rows.append({"size": size, "scenario": scenario, "way": way} | row)
            record = {
                "cpus": os.cpu_count(), "python": platform.python_version(),
                "device": arguments.device, "dtype": DTYPES[arguments.device], "window": WINDOW,
                "matrix_flops_per_s": rate, "words": words,
                "rows": rows, "repetitions": repetitions,
            }  # fmt: skip
            write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")
    show(rows)
    if arguments.profile:
        profile = fit_profile(repetitions, arguments.profile.stem)
        write_text_atomic(arguments.profile, yaml.safe_dump(profile, sort_keys=False))


if __name__ == "__main__":
    main()
