"""The vLLM engine against transformers, which computes in another process, across swaps."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import VOCAB_SIZE, copy_of, rewrite_weights, save_model

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.engines.prefixes import computed_tokens

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TOLERANCE_NATS = 1e-4
REFERENCE = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
prompts = json.load(open(sys.argv[1]))
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    parts = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            logits = model(tokens).logits[0, :-1]
        parts.append(logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0])
    np.save(folder + "/reference.npy", torch.cat(parts).numpy())
"""


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    lengths = [2, 3, 127, *generator.integers(4, 127, size=30)]
    return [generator.integers(0, VOCAB_SIZE, size=n).tolist() for n in lengths]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, prompts: list[list[int]]) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind, tied in (("tied", True), ("untied", False)):
        for name, seed in (("A", 1), ("B", 2)):
            save_model(root / f"{kind}-{name}", tied=tied, seed=seed)
    (root / "prompts.json").write_text(json.dumps(prompts))
    folders = sorted(str(path) for path in root.iterdir() if path.is_dir())
    subprocess.run([sys.executable, "-c", REFERENCE, root / "prompts.json", *folders], check=True)
    return root


@pytest.fixture(scope="module", params=["tied", "untied"])
def engine(request: pytest.FixtureRequest, models: Path) -> Iterator[Any]:
    """An engine of each kind, started with A."""
    from neuneu.scoring.engines.vllm_scorer import VllmScorer

    scorer = VllmScorer(EngineConfig(max_model_len=128), models / f"{request.param}-A")
    scorer.kind = request.param
    yield scorer
    scorer.close()


def check(engine: Any, folder: Path, prompts: list[list[int]]) -> None:
    found = engine.score(Prompts.of(prompts))
    reference = np.load(folder / "reference.npy")
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE_NATS)


def test_swaps_equal_transformers(engine: Any, models: Path, prompts: list[list[int]]) -> None:
    a, b = models / f"{engine.kind}-A", models / f"{engine.kind}-B"
    assert engine.max_prompt_tokens == 127
    assert np.abs(np.load(a / "reference.npy") - np.load(b / "reference.npy")).max() > 1
    check(engine, a, prompts)
    for folder in (b, a, b, b, a):
        engine.load(folder)
        check(engine, folder, prompts)


def test_swap_not_finite_is_the_checkpoints_fault(
    engine: Any, models: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    import torch

    bad = copy_of(models / f"{engine.kind}-B", tmp_path / "bad")
    rewrite_weights(bad, {"model.norm.weight": torch.full((64,), float("inf"))})
    engine.load(models / f"{engine.kind}-A")
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' holds NaN or infinite"):
        engine.load(bad)
    check(engine, models / f"{engine.kind}-A", prompts)


def test_swap_that_keeps_an_old_tensor_is_detected(
    engine: Any, models: Path, tmp_path: Path
) -> None:
    # What preflight refuses: vLLM reports success and keeps layer 1's tensor of A.
    bad = copy_of(models / f"{engine.kind}-B", tmp_path / "bad")
    rewrite_weights(bad, {"model.layers.1.mlp.down_proj.weight": None})
    engine.load(models / f"{engine.kind}-A")
    with pytest.raises(EngineError, match=r"other weights.*layer 1, its matrices of 96 columns"):
        engine.load(bad)


def test_tied_head_stays_stale_without_the_repair(
    models: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.platforms import current_platform

    from neuneu.scoring.engines import vllm_scorer

    if not current_platform.is_cpu():
        pytest.skip("only CPU kernels pack the head")
    scorer = vllm_scorer.VllmScorer(EngineConfig(max_model_len=128), models / "tied-A")
    monkeypatch.setattr(vllm_scorer, "_repack_tied_head", lambda model: None)
    with pytest.raises(EngineError, match="the first the output head"):
        scorer.load(models / "tied-B")
    wrong = scorer.score(Prompts.of(prompts)) - np.load(models / "tied-B" / "reference.npy")
    assert np.abs(wrong).max() > 0.5
    scorer.close()
    with pytest.raises(EngineError, match="closed"):
        scorer.score(Prompts.of(prompts))


def test_start_with_impossible_settings_is_an_engine_error(models: Path) -> None:
    from neuneu.scoring.engines.vllm_scorer import VllmScorer

    with pytest.raises(EngineError, match="vLLM does not start"):
        VllmScorer(EngineConfig(max_model_len=128, kv_cache_mb=2**30), models / "tied-A")


def test_start_with_a_head_size_that_has_no_kernel_is_the_checkpoints_fault(
    tmp_path: Path,
) -> None:
    from vllm.platforms import current_platform

    from neuneu.scoring.engines.vllm_scorer import VllmScorer

    if not current_platform.is_cpu():
        pytest.skip("GPU kernels take more head sizes")
    save_model(tmp_path / "narrow", tied=True, seed=1, num_attention_heads=4)
    with pytest.raises(CheckpointError, match=r"heads of 16 dimensions.*engine.kind=packed"):
        VllmScorer(EngineConfig(max_model_len=128), tmp_path / "narrow")


def few_shot_prompts() -> tuple[list[list[int]], list[int]]:
    """Questions of four choices after one beginning, and pairs that part inside the continuation.

    The contexts of 64 and 96 tokens end where a cache block does.
    """
    generator = np.random.default_rng(1)

    def tokens(n: int) -> list[int]:
        return generator.integers(1, VOCAB_SIZE, size=n).tolist()

    shots = tokens(64)
    prompts, last = [], []
    for n_question in (0, 3, 17, 32, 40):
        context = shots + tokens(n_question)
        for n_choice in (1, 2, 9, 20):
            prompts.append(context + tokens(n_choice))
            last.append(n_choice)
    for n_same in (5, 40):
        common = tokens(70 + n_same)
        prompts += [common + tokens(3), common + tokens(4)]
        last += [n_same + 3, n_same + 4]
    order = generator.permutation(len(prompts))
    return [prompts[i] for i in order], [last[i] for i in order]


def test_shared_contexts_are_computed_once_and_change_no_number(
    engine: Any, models: Path, prompts: list[list[int]]
) -> None:
    few_shot, last = few_shot_prompts()
    asked, whole = Prompts.of(few_shot, last), Prompts.of(few_shot)
    for name in ("B", "A", "B"):
        engine.load(models / f"{engine.kind}-{name}")
        before = engine.computed_tokens
        shared = asked.each(engine.score(asked))
        between = engine.computed_tokens
        alone = whole.each(engine.score(whole))
        # What the plan of an extraction says; some are computed twice, as their pairs part late.
        assert between - before == computed_tokens(asked, block=32)
        assert between - before < 0.7 * (engine.computed_tokens - between)
        for found, every, n in zip(shared, alone, last, strict=True):
            np.testing.assert_allclose(found, every[-n:], rtol=0, atol=1e-5)
    # Whole prompts ask for every token: nothing may come from the cache.
    engine.load(models / f"{engine.kind}-A")
    found = engine.score(Prompts.of(prompts))
    reference = np.load(models / f"{engine.kind}-A" / "reference.npy")
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE_NATS)


def test_packed_scorer_finds_the_same(engine: Any, models: Path, prompts: list[list[int]]) -> None:
    from neuneu.scoring.engines.packed_scorer import PackedScorer

    few_shot, last = few_shot_prompts()
    asked = Prompts.join([Prompts.of(few_shot, last), Prompts.of(prompts)])
    folder = models / f"{engine.kind}-B"
    engine.load(folder)
    packed = PackedScorer(EngineConfig(max_model_len=128, dtype="float32"), folder)
    np.testing.assert_allclose(packed.score(asked), engine.score(asked), rtol=0, atol=1e-5)
