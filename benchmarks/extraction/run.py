"""Extraction compared with one engine per checkpoint and with plain transformers.

    .venv/bin/python benchmarks/extraction/run.py --output docs/results/extraction.json

Each method (`methods`) runs in its own process, methods take turns, and medians of the repetitions
are printed. Models have random weights; the text comes from this installation. With `--device
cuda`, models are larger and in bfloat16 on one GPU, and results include the fraction of the GPU's
matrix rate.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from extraction.methods import DTYPES, SIZES, WAYS, WINDOW, prepare, run

DEFAULT_SIZES: Final = {"cpu": "2M,7M", "cuda": "160M,410M"}
SCENARIOS: Final = {"48 x 10k": (48, 10_000), "16 x 50k": (16, 50_000), "4 x 360k": (4, 360_000)}
ONCE: Final = frozenset({"workers", "ours_a_cpu"})  # measured once
SHORT: Final = {"7M": "48 x 10k"}  # sizes with a single scenario


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
