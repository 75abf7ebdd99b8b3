"""On a GPU: both scorers, swaps, processes that give memory back, and a training step.

`pytest -m gpu` runs them; each skips where torch sees no GPU, those of vLLM where it is missing.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import VOCAB_SIZE, save_model

from neuneu.core.errors import EngineError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.workers.engine import EngineHost
from neuneu.scoring.workers.processes import Remote

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

LIMIT_S = 300.0
KINDS = [
    "packed",
    pytest.param(
        "vllm",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("vllm") is None, reason="vllm is not installed"
        ),
    ),
]
# Random weights of sd 0.15 give losses of whole nats; bfloat16 keeps 8 bits of each product.
# vLLM's attention in float32 multiplies in TF32 (0.005 at the 99th percentile on an H200).
NATS = {"float32": 2e-2, "bfloat16": 0.35}


class Scoring(EngineHost):
    """An engine's host that hands out log-probabilities."""

    def logprobs(self, prompts: list[list[int]], last: list[int] | None) -> list[np.ndarray]:
        joined = Prompts.of(prompts, last)
        return joined.each(self._engine().score(joined))

    def computed(self) -> int:
        return self._engine().computed_tokens


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, tied, seed in (("A", True, 1), ("B", True, 2), ("C", False, 3)):
        save_model(root / name, tied=tied, seed=seed, head_dim=32)
    return root


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    lengths = [2, 3, 127, *generator.integers(4, 127, size=20)]
    return [generator.integers(0, VOCAB_SIZE, size=n).tolist() for n in lengths]


def _start(kind: str, folder: Path, **settings: Any) -> Remote:
    settings = {"gpu_memory_utilization": 0.1} | settings
    host = Remote(Scoring, EngineConfig(kind=kind, max_model_len=128, **settings), 4)  # type: ignore[arg-type]
    try:
        host.call("start", folder, timeout_s=LIMIT_S)
    except BaseException:
        host.kill()
        raise
    return host


@pytest.fixture
def start() -> Iterator[Callable[..., Remote]]:
    """Starts an engine of its own for a test."""
    hosts: list[Remote] = []

    def make(*args: Any, **settings: Any) -> Remote:
        hosts.append(_start(*args, **settings))
        return hosts[-1]

    yield make
    for host in hosts:
        host.kill()


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[Callable[[str, str], Remote]]:
    """An engine of a kind and dtype, started with A, that tests share: a start takes long."""
    hosts: dict[tuple[str, str], Remote] = {}

    def get(kind: str, dtype: str) -> Remote:
        if (kind, dtype) not in hosts:
            # The default on a GPU is bfloat16.
            hosts[kind, dtype] = _start(
                kind, models / "A", **({} if dtype == "bfloat16" else {"dtype": dtype})
            )
        return hosts[kind, dtype]

    yield get
    for host in hosts.values():
        host.kill()


def reference(folder: Path, prompts: list[list[int]]) -> np.ndarray:
    """Log-probabilities of transformers in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    parts = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            logits = model(tokens).logits[0, :-1]
        parts.append(logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0].numpy())
    return np.concatenate(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_of_swapped_weights_equal_transformers_on_the_cpu(
    engine: Callable[[str, str], Remote],
    models: Path,
    prompts: list[list[int]],
    kind: str,
    dtype: str,
) -> None:
    host = engine(kind, dtype)
    for name in ("A", "B", "A"):
        host.call("load", models / name, timeout_s=LIMIT_S)
        found = np.concatenate(host.call("logprobs", prompts, None, timeout_s=LIMIT_S))
        apart = np.abs(found - reference(models / name, prompts))
        assert np.median(apart) < NATS[dtype] / 5, name
        assert np.quantile(apart, 0.99) < NATS[dtype], name
        # The default type rounds: else this would be float32 under another name.
        assert dtype == "float32" or np.median(apart) > NATS["float32"] / 5
    assert host.call("proof", timeout_s=LIMIT_S) in {"weights compared", "all weights copied"}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_shared_contexts_are_computed_once_and_change_no_number(
    engine: Callable[[str, str], Remote],
) -> None:
    generator = np.random.default_rng(1)
    shots = generator.integers(1, VOCAB_SIZE, size=70).tolist()
    asked, last = [], []
    for _ in range(6):
        question = generator.integers(1, VOCAB_SIZE, size=10).tolist()
        for n_choice in (1, 5, 12):
            choice = generator.integers(1, VOCAB_SIZE, size=n_choice).tolist()
            asked.append(shots + question + choice)
            last.append(n_choice)
    host = engine("vllm", "bfloat16")
    before = host.call("computed", timeout_s=LIMIT_S)
    shared = host.call("logprobs", asked, last, timeout_s=LIMIT_S)
    between = host.call("computed", timeout_s=LIMIT_S)
    alone = host.call("logprobs", asked, None, timeout_s=LIMIT_S)
    after = host.call("computed", timeout_s=LIMIT_S)
    assert between - before < 0.6 * (after - between)
    for found, whole, count in zip(shared, alone, last, strict=True):
        np.testing.assert_allclose(found, whole[-count:], rtol=0, atol=NATS["bfloat16"])


@pytest.mark.parametrize("kind", KINDS)
def test_process_of_an_engine_gives_the_memory_of_the_gpu_back(
    start: Callable[..., Remote], models: Path, kind: str
) -> None:
    def free() -> int:
        return int(torch.cuda.mem_get_info()[0])

    before = free()
    host = start(kind, models / "C")
    assert free() < before - 64 * 2**20
    host.kill()
    assert free() > before - 64 * 2**20


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_head_size_without_kernel_is_refused(
    start: Callable[..., Remote], tmp_path: Path
) -> None:
    from neuneu.core.errors import CheckpointError

    save_model(tmp_path / "narrow", tied=True, seed=1, head_dim=12)
    with pytest.raises(CheckpointError, match=r"heads of 12 dimensions.*engine.kind=packed"):
        start("vllm", tmp_path / "narrow")


def test_scorer_cuda_error_is_an_engine_error(start: Callable[..., Remote], models: Path) -> None:
    host = start("packed", models / "A")
    with pytest.raises(EngineError, match="failed while scoring"):
        host.call("logprobs", [[1, VOCAB_SIZE + 10**6]], None, timeout_s=LIMIT_S)
    # The CUDA context of that process is poisoned: everything fails from now on.
    with pytest.raises(EngineError, match="failed while scoring"):
        host.call("logprobs", [[1, 2]], None, timeout_s=LIMIT_S)
