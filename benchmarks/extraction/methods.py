"""The ways of scoring checkpoints that are compared, and the checkpoints that they score.

* ours: `neuneu extract`, one worker on all threads or one worker per CPU; all checkpoints.
* engine: a vLLM engine in process, started anew for every checkpoint.
* workers: vLLM with its default worker processes.
* transformers: batches by length, the best of several sizes, weights loaded for every checkpoint.
* bare: one warm engine that only scores.

The others score only the first checkpoints (`AT_MOST`), because further ones would cost them the
same.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

SIZES: Final = {  # width, layers, heads
    "2M": (128, 4, 4),
    "7M": (256, 8, 8),
    "160M": (768, 12, 12),
    "410M": (1024, 24, 16),
}
DTYPES: Final = {"cpu": "float32", "cuda": "bfloat16"}
WAYS: Final = ("ours", "ours_a_cpu", "engine", "workers", "transformers", "bare")
AT_MOST: Final = {"engine": 6, "workers": 3, "transformers": 6, "bare": 6}
TOKENS_AT_MOST: Final = 200_000  # tokens, for long checkpoints
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
    joined = workload.prompts
    prompts = [{"prompt_token_ids": joined[i].tolist()} for i in range(len(joined))]
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
    from neuneu.scoring.engines.packed_scorer import PackedScorer

    workload, folders = workload_of(folder, "transformers")
    results = {}
    for batch in BATCHES[device]:
        config = EngineConfig(
            max_model_len=WINDOW,
            max_num_batched_tokens=batch,
            dtype=DTYPES[device],  # type: ignore[arg-type]
        )
        scorer = PackedScorer(config, folders[0], padded=True)
        scorer.score(workload.prompts.take(np.arange(min(32, len(workload.prompts)))))
        started = time.perf_counter()
        for checkpoint in folders:
            scorer.load(checkpoint)
            scorer.score(workload.prompts)
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
    from neuneu.scoring.engines.packed_scorer import PackedScorer

    workload, folders = workload_of(folder, "bare")
    config = EngineConfig(max_model_len=WINDOW, dtype=DTYPES[device])  # type: ignore[arg-type]
    scorer = PackedScorer(config, folders[0])
    scorer.score(workload.prompts.take(np.arange(min(32, len(workload.prompts)))))
    started = time.perf_counter()
    for _ in folders:
        scorer.score(workload.prompts)
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
