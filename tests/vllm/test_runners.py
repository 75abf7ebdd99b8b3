"""The scorer on engines that answer as vLLM's two model runners do, cache hits included."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import save_model

from neuneu.core.errors import EngineError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

BLOCK = 16
GARBAGE = 77.0


def logprob(prefix: Sequence[int], token: int) -> float:
    """A made-up log-probability that depends on all tokens before."""
    return -1.0 - (31 * sum((i + 1) * t for i, t in enumerate(prefix)) + token) % 101 / 101


class Engine:
    """vLLM's answers: a cache of whole blocks, and prompt log-probabilities of one runner.

    `held` is what its ranks say of their weights; None makes it that of the files.
    """

    def __init__(self, runner: str, folder: str, held: Any = None) -> None:
        self.runner, self.folder, self.held = runner, Path(folder), held
        self.cache: set[tuple[int, ...]] = set()
        config = SimpleNamespace(cache_config=SimpleNamespace(block_size=BLOCK))
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(vllm_config=config, engine_core=core)

    def generate(self, prompts: list[Any], sampling: Any, **_: Any) -> list[Any]:
        return [self._answer(p["prompt_token_ids"], sampling) for p in prompts]

    def _answer(self, tokens: list[int], sampling: Any) -> Any:
        n_cached = 0
        if not sampling.skip_reading_prefix_cache:
            # The last token of a prompt is always computed.
            while (
                n_cached + BLOCK < len(tokens) and tuple(tokens[: n_cached + BLOCK]) in self.cache
            ):
                n_cached += BLOCK
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            self.cache.add(tuple(tokens[:end]))
        values = [logprob(tokens[:i], tokens[i]) for i in range(1, len(tokens))]
        if self.runner == "v1":
            values[:n_cached] = [GARBAGE] * n_cached
        else:
            values = values[n_cached:]
        if self.runner == "broken":
            values = values[1:]
        found = SimpleNamespace(logprobs=values) if values else None
        return SimpleNamespace(prompt_logprobs=found, num_cached_tokens=n_cached)

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        assert method == "reload_weights"
        self.folder = Path(kwargs["weights_path"])

    def reset_prefix_cache(self) -> bool:
        self.cache.clear()
        return True

    def apply_model(self, function: Any) -> list[Any]:
        from neuneu.scoring.engines import swap, vllm_scorer

        if function is vllm_scorer._repack_tied_head:
            return []
        if self.held is not None:
            return self.held
        products = swap.file_products(self.folder, dtype=vllm_scorer.torch.float32, tied=True)
        embedding = max(products, key=lambda place: products[place].rows)
        head = {(swap.HEAD_LAYER, embedding[1]): swap.Products(1, 1.0, 1.0)}
        return [swap.Shard(rows=products | head, whole={}, partial={}, head=head)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        save_model(root / str(seed), tied=True, seed=seed)
    return root


@pytest.fixture
def make(models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A scorer on an engine whose runner answers as `v1`, `v2` or `broken`."""
    from neuneu.scoring.engines import vllm_scorer

    def make(runner: str, held: Any = None) -> Any:
        monkeypatch.setattr(vllm_scorer, "LLM", lambda folder, **_: Engine(runner, folder, held))
        config = EngineConfig(max_model_len=128, dtype="float32")
        return vllm_scorer.VllmScorer(config, models / "1")

    return make


def few_shot() -> tuple[list[list[int]], list[int]]:
    """Choices after shared contexts; the last pair parts inside its continuation."""
    generator = np.random.default_rng(0)
    shots = generator.integers(1, 300, size=40).tolist()
    prompts, last = [], []
    for n_question in (0, 5, 16):
        question = shots + generator.integers(1, 300, size=n_question).tolist()
        for n_choice in (1, 3, 12):
            prompts.append(question + generator.integers(1, 300, size=n_choice).tolist())
            last.append(n_choice)
    common = generator.integers(1, 300, size=70).tolist()
    return [*prompts, [*common, 1], [*common, 2]], [*last, 31, 31]


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_score_uses_computed_positions_only(make: Callable[..., Any], runner: str) -> None:
    scorer = make(runner)
    prompts, last = few_shot()
    before = scorer.computed_tokens
    joined = Prompts.of(prompts, last)
    found = joined.each(scorer.score(joined))
    for prompt, count, values in zip(prompts, last, found, strict=True):
        ends = range(len(prompt) - count, len(prompt))
        expected = [logprob(prompt[:i], prompt[i]) for i in ends]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)
    computed = scorer.computed_tokens - before
    assert computed < 0.7 * sum(map(len, prompts)), "nothing came from the cache"


def test_score_other_number_of_values_is_an_engine_error(make: Callable[..., Any]) -> None:
    with pytest.raises(EngineError, match=r"22 log-probabilities for a prompt of 24 tokens"):
        make("broken")


def test_start_faulty_first_load_is_an_engine_error_and_keeps_the_proof(
    make: Callable[..., Any], models: Path
) -> None:
    import torch

    from neuneu.scoring.engines import swap

    other = swap.file_products(models / "2", dtype=torch.float32, tied=True)
    head = {(swap.HEAD_LAYER, 64): swap.Products(1, 1.0, 1.0)}
    shard = swap.Shard(rows=other | head, whole={}, partial={}, head=head)
    with pytest.raises(EngineError, match="other weights than its files"):
        make("v2", [shard])
    assert make("v2").proof == "weights compared"


def test_proof_that_cannot_be_made_says_why(make: Callable[..., Any]) -> None:
    from neuneu.scoring.engines import swap

    elsewhere = swap.Shard(rows={(0, 5): swap.Products(1, 1.0, 1.0)}, whole={}, partial={}, head={})
    scorer = make("v1", [elsewhere])
    assert scorer.proof == (
        "fixed prompt only: vLLM keeps the weights of this architecture in another layout"
    )
