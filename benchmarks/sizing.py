"""Write the sizing tables of docs/cluster.md from the suites' sizes and the cost model.

    .venv/bin/python benchmarks/sizing.py

Nothing is measured: GPU memory comes from `neuneu.scoring.workers.placement`, store sizes from
`neuneu.scoring.plan`. The shapes below are published; each has to reproduce the parameter count in
its suite file exactly.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuneu.core.config import load_config
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic
from neuneu.scoring.checkpoints.suite_file import ByRun, SuiteFile
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.plan import checkpoint_file_bytes
from neuneu.scoring.workers.placement import Placement, need, place

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "cluster.md"
SUITES: Final = ROOT / "jobs" / "configs" / "suites"
ENGINE: Final = EngineConfig(dtype="bfloat16")
UTILIZATION: Final = ENGINE.gpu_memory_utilization
WORDS: Final = int(ExtractConfig.corpus_words)
TASKS: Final = 66  # of the paper
CHOICES: Final = 81_000  # of their items
GPUS_GB: Final = (24, 48, 80)
# A worker stages the next checkpoint while it scores one.
_STAGED: Final = 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dense decoder with untied embeddings; `mlp` and `kept` (keys, values) are widths.

    `kind` determines further matrices, biases and norms.
    """

    kind: str
    layers: int
    width: int
    mlp: int
    kept: int
    vocabulary: int

    @property
    def cache_values(self) -> int:
        """Number of keys and values of one token in all layers."""
        return 2 * self.layers * self.kept

    @property
    def params(self) -> int:
        """Number of distinct parameters."""
        d, attention = self.width, 2 * self.width * (self.width + self.kept)
        layer, last = {
            "neox": (attention + 2 * d * self.mlp + 9 * d + self.mlp, 2 * d),  # biases, LayerNorms
            "llama": (attention + 3 * d * self.mlp + 2 * d, d),
            "olmo2": (attention + 3 * d * self.mlp + 3 * d + self.kept, d),  # norms of q and k
        }[self.kind]
        return 2 * self.vocabulary * d + self.layers * layer + last


def _neox(layers: int, width: int, vocabulary: int = 50_304) -> Shape:
    return Shape(
        kind="neox", layers=layers, width=width, mlp=4 * width, kept=width, vocabulary=vocabulary
    )


def _datadecide(layers: int, width: int) -> Shape:
    return Shape(
        kind="llama", layers=layers, width=width, mlp=4 * width, kept=width, vocabulary=50_304
    )


def _olmo2(layers: int, width: int, mlp: int, kept: int) -> Shape:
    return Shape(kind="olmo2", layers=layers, width=width, mlp=mlp, kept=kept, vocabulary=100_352)


# Biderman et al. 2023 (arXiv 2304.01373), table 1, and the models' config.json for the vocabulary;
# Magnusson et al. 2025 (arXiv 2504.11393), table of configurations; config.json of OLMo 2.
SHAPES: Final = {
    "pythia": {
        "14m": _neox(6, 128), "31m": _neox(6, 256), "70m": _neox(6, 512), "160m": _neox(12, 768),
        "410m": _neox(24, 1024), "1b": _neox(16, 2048), "1.4b": _neox(24, 2048),
        "2.8b": _neox(32, 2560), "6.9b": _neox(32, 4096, 50_432), "12b": _neox(36, 5120, 50_688),
    },
    "datadecide": {
        "4M": _datadecide(8, 64), "6M": _datadecide(8, 96), "8M": _datadecide(8, 128),
        "10M": _datadecide(8, 144), "14M": _datadecide(8, 192), "16M": _datadecide(8, 208),
        "20M": _datadecide(16, 192), "60M": _datadecide(16, 384), "90M": _datadecide(16, 528),
        "150M": _datadecide(12, 768), "300M": _datadecide(16, 1024),
        "530M": _datadecide(16, 1344), "750M": _datadecide(16, 1536), "1B": _datadecide(16, 2048),
    },
    "olmo2": {
        "OLMo-2-0425-1B": _olmo2(16, 2048, 8192, 2048),
        "OLMo-2-1124-7B": _olmo2(32, 4096, 11_008, 4096),
        "OLMo-2-1124-13B": _olmo2(40, 5120, 13_824, 5120),
        "OLMo-2-0325-32B": _olmo2(64, 5120, 27_648, 1024),
    },
}  # fmt: skip


def sizes(suite: str) -> dict[str, Shape]:
    """Return the models of a suite file with their shapes, in its order.

    Raises:
        UserError: a shape does not give the file's parameter count.
    """
    params = load_config(SuiteFile, SUITES / f"{suite}.yaml").params
    assert isinstance(params, ByRun)
    for name, count in params.values.items():
        found = SHAPES[suite][name].params
        if found != count:
            raise UserError(
                f"{suite} {name}: expected the {count:,.0f} parameters of the suite file, "
                f"found {found:,} in its shape."
            )
    return {name: SHAPES[suite][name] for name in params.values}


def gpu_table() -> Iterator[str]:
    """Yield memory of an engine, engines per GPU and file size for every model of the suites."""
    yield (
        "| suite | model | weights | cache | logits | other activations | with runtime, GB | "
        + " | ".join(f"{gpu} GB" for gpu in GPUS_GB)
        + " | float32 file, GB |"
    )
    yield "|---|---|" + "---:|" * (6 + len(GPUS_GB))
    for suite in SHAPES:
        for name, shape in sizes(suite).items():
            needed = need(shape.params, shape.vocabulary, shape.cache_values, ENGINE)
            parts = (needed.weights, needed.cache, needed.logits, needed.activations)
            cells = [
                suite,
                name.removeprefix("OLMo-2-"),
                *map(_gigabytes, (*parts, needed.per_gpu())),
            ]
            cells += [_share(place(needed, gpu_gb=gpu, utilization=UTILIZATION)) for gpu in GPUS_GB]
            yield "| " + " | ".join([*cells, _gigabytes(4 * shape.params / 1e9)]) + " |"


def store_table() -> Iterator[str]:
    """Yield the size of checkpoints in the store and in the memory of a job that reads it."""
    yield "| checkpoints | store before compaction, GB | word losses in memory, GB |"
    yield "|---:|---:|---:|"
    for checkpoints in (154, 3_000, 30_000):
        stored = checkpoints * checkpoint_file_bytes(WORDS, TASKS, CHOICES) / 1e9
        yield f"| {checkpoints:,} | {stored:.2g} | {checkpoints * WORDS * 2 / 1e9:.2g} |"


def staging_gb(shape: Shape, gpu_gb: float, *, converted: bool) -> float:
    """Return the disk space that float32 checkpoints take for the engines of one GPU."""
    needed = need(shape.params, shape.vocabulary, shape.cache_values, ENGINE)
    placed = place(needed, gpu_gb=gpu_gb, utilization=UTILIZATION)
    engines = max(1, round(1 / placed.gpus))
    return engines * _STAGED * (2 if converted else 1) * 4 * shape.params / 1e9


def staging_table() -> Iterator[str]:
    """Yield the maximum staging space of the engines of a GPU, by suite."""
    yield "| suite | " + " | ".join(f"{gpu} GB GPU" for gpu in GPUS_GB) + " |"
    yield "|---|" + "---:|" * len(GPUS_GB)
    for suite in SHAPES:
        shapes = sizes(suite).values()
        converted = suite == "datadecide"
        most = [max(staging_gb(s, gpu, converted=converted) for s in shapes) for gpu in GPUS_GB]
        yield f"| {suite} | " + " | ".join(f"{value:.0f}" for value in most) + " |"


def _share(placed: Placement) -> str:
    if placed.gpus > 1:
        return f"{placed.gpus:.0f} GPUs"
    return f"{round(1 / placed.gpus)} per GPU"


def _gigabytes(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


TABLES: Final = {"gpu": gpu_table, "staging": staging_table, "store": store_table}


def fill(page: str) -> str:
    """Return a page with new tables between their markers.

    Raises:
        UserError: a table's markers are missing.
    """
    for name, table in TABLES.items():
        start, end = f"<!-- sizing:{name} -->\n", f"<!-- /sizing:{name} -->"
        before, found_start, rest = page.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise UserError(f"expected {start.strip()} and {end} in the page, found none.")
        page = "".join([before, start, *(f"{line}\n" for line in table()), end, after])
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    page = parser.parse_args().page
    write_text_atomic(page, fill(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
