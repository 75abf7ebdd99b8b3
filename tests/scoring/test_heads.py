"""Padded heads: DataDecide's head sizes compute what they did.

What differs is how float32 rounds the rotary frequencies, which grows with the position: without
the search for a base (`Heads.theta`) it is up to 1e-4 at position 2,048.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hf_olmo import CONFIG
from tiny_checkpoints import make_ref, save_model

from neuneu.core.errors import CheckpointError
from neuneu.scoring.checkpoints.grouping import group
from neuneu.scoring.checkpoints.heads import kernel_heads
from neuneu.scoring.checkpoints.hf_olmo import as_llama_config, convert, padding_bytes
from neuneu.scoring.checkpoints.preflight import inspect
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.engines.swap import file_products

pytest.importorskip("transformers")

DATADECIDE = {12: 32, 18: 32, 26: 32, 44: 64, 84: 96}
HEADS, LAYERS, VOCAB = 3, 2, 320


def true_config(size: int, *, length: int) -> dict[str, Any]:
    """The Llama without padding."""
    return {
        "vocab_size": VOCAB, "hidden_size": HEADS * size, "intermediate_size": 2 * HEADS * size,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "head_dim": size, "max_position_embeddings": length, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "pad_token_id": None,
    }  # fmt: skip


def save_as_olmo(model: Any, folder: Path, *, size: int, length: int, **changes: Any) -> None:
    """A Llama's weights in the layout of hf_olmo."""
    save_model(folder, tied=False, seed=0)
    (folder / "generation_config.json").unlink()
    config = CONFIG | {
        "d_model": HEADS * size, "n_heads": HEADS, "n_layers": LAYERS, "mlp_ratio": 4,
        "embedding_size": VOCAB, "vocab_size": VOCAB, "max_sequence_length": length,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    state = {name.removesuffix(".weight"): value for name, value in model.state_dict().items()}
    weights = {
        "wte": state["model.embed_tokens"], "ln_f": state["model.norm"], "ff_out": state["lm_head"],
    }  # fmt: skip
    for layer in range(LAYERS):
        old, new = f"model.layers.{layer}", f"blocks.{layer}"
        queries = [state[f"{old}.self_attn.{part}_proj"] for part in "qkv"]
        weights |= {
            f"{new}.att_proj": torch.cat(queries),
            f"{new}.attn_out": state[f"{old}.self_attn.o_proj"],
            f"{new}.ff_proj": torch.cat(
                [state[f"{old}.mlp.up_proj"], state[f"{old}.mlp.gate_proj"]]
            ),
            f"{new}.ff_out": state[f"{old}.mlp.down_proj"],
            f"{new}.attn_norm": state[f"{old}.input_layernorm"],
            f"{new}.ff_norm": state[f"{old}.post_attention_layernorm"],
        }
    named = {f"model.transformer.{name}.weight": value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


def random_llama(size: int, *, length: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**true_config(size, length=length))).float().eval()
    generator = torch.Generator().manual_seed(size)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim == 1 else 1 / math.sqrt(parameter.shape[-1])
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(float(parameter.ndim == 1) + scale * noise)
    return model


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(tokens).logits[0]


@pytest.mark.parametrize(("length", "tolerance"), [(512, 1e-5), (2048, 3e-5)])
@pytest.mark.parametrize("size", DATADECIDE)
def test_padded_model_gives_the_logits_of_the_true_one(
    tmp_path: Path, size: int, length: int, tolerance: float
) -> None:
    from transformers import AutoModelForCausalLM

    padded = DATADECIDE[size]
    true = random_llama(size, length=length)
    save_as_olmo(true, tmp_path / "in", size=size, length=length)
    convert(tmp_path / "in", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert model.config.head_dim == padded
    query = model.model.layers[0].self_attn.q_proj.weight
    assert query.shape == (HEADS * padded, HEADS * size)
    tokens = torch.randint(0, VOCAB, (1, length), generator=torch.Generator().manual_seed(0))
    expected = logits(true, tokens)
    assert expected.std() > 0.5
    difference = (logits(model, tokens) - expected).abs().max()
    assert difference <= tolerance


@pytest.mark.parametrize(("size", "padded"), DATADECIDE.items())
def test_padded_frequencies_are_those_of_the_true_head(size: int, padded: int) -> None:
    """To a spacing of float32 below 1 at the most: at position 2,048 that is 1.2e-4 radians."""
    theta = kernel_heads(1, size).theta(10_000.0)
    assert theta == pytest.approx(10_000 ** (padded / size), rel=1e-5)
    true = 10_000.0 ** (-np.arange(size // 2) * 2 / size)
    found = theta ** (-np.arange(size // 2) * 2 / padded)
    assert np.abs(found - true).max() <= 6e-8


def test_padded_rows_keep_rotary_pairs_together() -> None:
    heads = kernel_heads(1, 4)
    assert heads.padded == 32
    rows = heads.pad_rows(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))[:, 0]
    assert rows.nonzero()[:, 0].tolist() == [0, 1, 16, 17]
    assert rows[[0, 1, 16, 17]].tolist() == [1, 2, 3, 4]
    columns = heads.pad_columns(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert torch.equal(columns[0], rows)
    queries = heads.pad_queries(torch.ones(4, 1))[:, 0]
    assert queries[[0, 1, 16, 17]].tolist() == pytest.approx([math.sqrt(8)] * 4)
    assert queries.sum().item() == pytest.approx(4 * math.sqrt(8))


@pytest.mark.parametrize("size", [32, 64, 80, 128, 256, 512])
def test_sizes_that_kernels_take_stay_as_they_are(size: int) -> None:
    heads = kernel_heads(2, size)
    assert (heads.padded, heads.are_padded, heads.added_bytes(64)) == (size, False, 0)
    assert heads.theta(10_000.0) == 10_000.0


def test_unpadded_conversion_keeps_every_bit(tmp_path: Path) -> None:
    true = random_llama(32, length=64)
    save_as_olmo(true, tmp_path / "in", size=32, length=64)
    convert(tmp_path / "in", tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    state = true.state_dict()
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["head_dim"], config["rope_theta"]) == (32, 10000.0)


@pytest.mark.parametrize("theta", [1e9, 1e-30, 1e-60])
def test_base_that_padding_cannot_reach_is_refused(theta: float) -> None:
    with pytest.raises(
        CheckpointError, match=rf"rope_theta = {re.escape(f'{theta:g}')} with heads of 4 dimensions"
    ):
        kernel_heads(1, 4).theta(theta)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_padded_checkpoint_agrees_in_all_that_reads_it(tmp_path: Path, kind: torch.dtype) -> None:
    """Grouping, preflight, the proof of a swap and the space that staging sets aside."""
    true = random_llama(12, length=64).to(kind)
    save_as_olmo(true, tmp_path / "in", size=12, length=64)
    convert(tmp_path / "in", tmp_path / "out")
    (pending,) = group([make_ref(tmp_path / "in")]).pending
    checked = inspect(make_ref(tmp_path / "out"))
    assert pending.config_hash == checked.config_hash
    assert pending.cache_values == 2 * LAYERS * HEADS * 32
    weights = load_file(tmp_path / "out" / "model.safetensors")
    queries = {name for name in weights if "q_proj" in name}
    assert {weights[name].dtype for name in queries} == {torch.float32}
    assert {weights[name].dtype for name in weights.keys() - queries} == {kind}
    true.save_pretrained(tmp_path / "true")
    held = file_products(tmp_path / "out", dtype=torch.float32, tied=False)
    of_true = file_products(tmp_path / "true", dtype=torch.float32, tied=False)
    # Queries are scaled and output columns moved; all else is the same but for zeros.
    assert held.keys() - of_true.keys() == {(layer, 96) for layer in range(LAYERS)}
    assert held[-1, -1] == of_true[-1, -1]
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("in", "out")]
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    assert 0 < sizes[1] - sizes[0] <= padding_bytes(config) + 2000  # names in the header
    assert as_llama_config(config)["head_dim"] == 32


def test_tensor_of_another_size_than_the_heads_is_refused(tmp_path: Path) -> None:
    true = random_llama(12, length=64)
    save_as_olmo(true, tmp_path / "other", size=12, length=64, d_model=48, n_heads=4)
    with pytest.raises(CheckpointError, match=r"att_proj.* has parts of shape \[36, 36\]"):
        convert(tmp_path / "other", tmp_path / "out")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("size", [12, 84])
def test_padded_checkpoint_in_vllm_gives_the_losses_of_the_true_model(
    tmp_path: Path, size: int
) -> None:
    pytest.importorskip("vllm")
    from neuneu.scoring.engines.vllm_scorer import VllmScorer

    true = random_llama(size, length=128)
    tokens = torch.randint(0, VOCAB, (1, 100), generator=torch.Generator().manual_seed(1))
    everything = logits(true, tokens).log_softmax(dim=1)
    expected = everything[:-1].gather(1, tokens[0, 1:, None])[:, 0].numpy()
    assert expected.std() > 0.5
    save_as_olmo(true, tmp_path / "in", size=size, length=128)
    convert(tmp_path / "in", tmp_path / "out")
    scorer = VllmScorer(EngineConfig(max_model_len=128), tmp_path / "out")
    try:
        scorer.load(tmp_path / "out")
        found = scorer.score(Prompts.of([tokens[0].tolist()]))
    finally:
        scorer.close()
    assert np.abs(found - expected).max() < 1e-4
