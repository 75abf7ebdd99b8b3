"""hf_olmo checkpoints: the converted Llama computes the same, and what is no Llama is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import save_model

from neuneu.core.errors import CheckpointError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.configs import canonical_config
from neuneu.scoring.checkpoints.hf_olmo import as_llama_config, convert
from neuneu.scoring.checkpoints.preflight import inspect

WIDTH, HEADS, LAYERS, VOCAB, EMBEDDINGS = 48, 4, 3, 320, 384
CONFIG: dict[str, Any] = {
    "activation_type": "swiglu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["OLMoForCausalLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": False,
    "auto_map": {"AutoConfig": "configuration_olmo.OLMoConfig"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "sequential",
    "clip_qkv": None,
    "d_model": WIDTH,
    "embedding_dropout": 0.0,
    "embedding_layer_norm": False,
    "embedding_size": EMBEDDINGS,
    "eos_token_id": 0,
    "flash_attention": True,
    "include_bias": False,
    "init_fn": "mitchell",
    "layer_norm_eps": 1e-6,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "max_sequence_length": 64,
    "mlp_hidden_size": None,
    "mlp_ratio": 8,
    "model_type": "hf_olmo",
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": None,
    "n_layers": LAYERS,
    "norm_after": False,
    "pad_token_id": 1,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 10000,
    "scale_logits": False,
    "transformers_version": "4.50.3",
    "use_cache": True,
    "vocab_size": VOCAB,
    "weight_tying": False,
}


def random_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> torch.Tensor:
        scale = 0.3 if len(shape) == 1 else 1.5 / math.sqrt(shape[-1])
        return float(len(shape) == 1) + scale * torch.randn(*shape, generator=generator)

    weights = {
        "wte": rand(EMBEDDINGS, WIDTH),
        "ln_f": rand(WIDTH),
        "ff_out": rand(EMBEDDINGS, WIDTH),
    }
    for layer in range(LAYERS):
        weights |= {
            f"blocks.{layer}.att_proj": rand(3 * WIDTH, WIDTH),
            f"blocks.{layer}.attn_out": rand(WIDTH, WIDTH),
            f"blocks.{layer}.ff_proj": rand(8 * WIDTH, WIDTH),
            f"blocks.{layer}.ff_out": rand(WIDTH, 4 * WIDTH),
            f"blocks.{layer}.attn_norm": rand(WIDTH),
            f"blocks.{layer}.ff_norm": rand(WIDTH),
        }
    return {f"model.transformer.{name}.weight": tensor for name, tensor in weights.items()}


def save_olmo(folder: Path, *, files: int = 1, **changes: Any) -> dict[str, torch.Tensor]:
    """A random checkpoint as hf_olmo saves it, with a tokenizer that asks for other code."""
    save_model(folder, tied=False, seed=0)
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "OLMoTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_olmo_fast.OLMoTokenizerFast", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    weights = random_weights()
    if files == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return weights
    weight_map = {
        name: f"model-{1 + i % files:05}-of-{files:05}.safetensors"
        for i, name in enumerate(weights)
    }
    for file in set(weight_map.values()):
        part = {name: weights[name] for name in weights if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def olmo_logits(weights: dict[str, torch.Tensor], tokens: list[int]) -> torch.Tensor:
    """The forward pass in the layout of OLMo: logits [tokens, embeddings], one head at a time."""
    eps, n, size = CONFIG["layer_norm_eps"], len(tokens), WIDTH // HEADS

    def weight(name: str) -> torch.Tensor:
        return weights[f"model.transformer.{name}.weight"].double()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return weight(name) * x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + eps)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        """Turns the pair (i, i + size / 2) of position p by p / 10000^(2 i / size)."""
        half = size // 2
        rates = 10000.0 ** (-torch.arange(half).double() * 2 / size)
        angle = torch.arange(n).double()[:, None] * rates
        a, b = x[:, :half], x[:, half:]
        return torch.cat(
            [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=1
        )

    x = weight("wte")[tokens]
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        rows = norm(x, f"{block}.attn_norm") @ weight(f"{block}.att_proj").T
        query, key, value = rows[:, :WIDTH], rows[:, WIDTH : 2 * WIDTH], rows[:, 2 * WIDTH :]
        heads = []
        for head in range(HEADS):
            at = slice(head * size, (head + 1) * size)
            scores = rotate(query[:, at]) @ rotate(key[:, at]).T / math.sqrt(size)
            scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(dim=1) @ value[:, at])
        x = x + torch.cat(heads, dim=1) @ weight(f"{block}.attn_out").T
        hidden = norm(x, f"{block}.ff_norm") @ weight(f"{block}.ff_proj").T
        up, gate = hidden[:, : 4 * WIDTH], hidden[:, 4 * WIDTH :]
        x = x + (gate * torch.sigmoid(gate) * up) @ weight(f"{block}.ff_out").T
    return norm(x, "ln_f") @ weight("ff_out").T


@pytest.mark.parametrize("files", [1, 3])
def test_converted_llama_gives_the_logits_of_olmo(tmp_path: Path, files: int) -> None:
    from transformers import AutoModelForCausalLM

    weights = save_olmo(tmp_path / "in", files=files)
    convert(tmp_path / "in", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert type(model).__name__ == "LlamaForCausalLM"
    tokens = [5, 200, 17, 0, 301, 5, 5, 88, 19]
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0]
    expected = olmo_logits(weights, tokens)
    assert expected.std() > 0.5
    assert logits.shape == (len(tokens), EMBEDDINGS)
    assert (logits - expected).abs().max() <= 1e-5


def test_converted_checkpoint_passes_preflight(tmp_path: Path) -> None:
    save_olmo(tmp_path / "in", files=2)
    convert(tmp_path / "in", tmp_path / "out")
    ref = CheckpointRef(
        family="f", suite="s", run="r", params=1.0, step=1, tokens=1.0, flops=6.0,
        planned_tokens=None, uri=str(tmp_path / "out"),
    )  # fmt: skip
    checked = inspect(ref)
    assert checked.architecture == "LlamaForCausalLM"
    assert (checked.vocab_size, checked.max_positions) == (EMBEDDINGS, 64)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert canonical_config(written) == canonical_config(as_llama_config(CONFIG))
    assert written["rms_norm_eps"] == 1e-6


def test_converted_weights_keep_their_type(tmp_path: Path) -> None:
    weights = save_olmo(tmp_path / "in")
    halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(halves, tmp_path / "in" / "model.safetensors")
    convert(tmp_path / "in", tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    # But for queries: half precision does not hold them scaled for padded heads.
    queries = {name for name in converted if "q_proj" in name}
    assert {converted[name].dtype for name in queries} == {torch.float32}
    assert {converted[name].dtype for name in converted.keys() - queries} == {torch.bfloat16}
    assert len(converted) == 3 + 9 * LAYERS


def test_converted_tokenizer_needs_no_other_code(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_olmo(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer.eos_token == "<|endoftext|>"
    text = "The quick brown fox"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    vocabulary = (tmp_path / "in" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == vocabulary


@pytest.mark.shared
def test_tokenizer_of_datadecide_is_read_as_it_is(tmp_path: Path, shared: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    save_olmo(tmp_path / "in")
    path = shared / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    (tmp_path / "in" / "tokenizer.json").write_bytes(path.read_bytes())
    convert(tmp_path / "in", tmp_path / "out")
    text = "Hello  world:\n\tdef f(x):  return x**2  # naïve 你好 <|endoftext|>"
    expected = Tokenizer.from_file(str(path)).encode(text).ids
    found = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)(text)
    assert found["input_ids"] == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation_type", "gelu"),
        ("alibi", True),
        ("attention_layer_norm", True),
        ("bias_for_layer_norm", True),
        ("block_group_size", 2),
        ("block_type", "parallel"),
        ("clip_qkv", 8.0),
        ("embedding_layer_norm", True),
        ("include_bias", True),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("multi_query_attention", True),
        ("norm_after", True),
        ("rope", False),
        ("scale_logits", True),
        ("tie_word_embeddings", True),
        ("weight_tying", True),
        ("n_kv_heads", 2),
        ("n_heads", 5),
        ("mlp_hidden_size", 33),
        ("layer_norm_eps", 0),
        ("rope_theta", "10000"),
        ("d_model", None),
        ("max_sequence_length", None),
        ("n_layers", 0),
        ("n_layers", 1e30),
        ("d_model", "48"),
        ("n_heads", True),
        ("vocab_size", -1),
        ("embedding_size", "abc"),
        ("mlp_ratio", "8"),
        ("mlp_hidden_size", "x"),
        ("rope_theta", float("inf")),
        ("ternary", True),
    ],
)
def test_config_that_is_no_llama_is_refused_by_field(field: str, value: object) -> None:
    assert as_llama_config(CONFIG)["model_type"] == "llama"
    with pytest.raises(CheckpointError, match=rf"config\.json: {field}\b"):
        as_llama_config(CONFIG | {field: value})


@pytest.mark.parametrize("field", ["rope", "weight_tying", "layer_norm_type", "include_bias"])
def test_config_without_a_needed_field_is_refused(field: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{field} = None; expected"):
        as_llama_config({key: value for key, value in CONFIG.items() if key != field})


def test_config_without_eps_and_theta_has_olmos_own() -> None:
    old = {k: v for k, v in CONFIG.items() if k not in {"layer_norm_eps", "rope_theta"}}
    llama = as_llama_config(old)
    assert llama["rms_norm_eps"] == 1e-5
    # Heads of 12 dimensions are padded to 32.
    assert llama["rope_theta"] == pytest.approx(10_000 ** (32 / 12), rel=1e-5)
    wide = as_llama_config(old | {"d_model": 128, "n_heads": 4})
    assert (wide["head_dim"], wide["rope_theta"]) == (32, 10_000.0)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.transformer.blocks.0.q_norm.weight", (WIDTH,), "q_norm.weight' is not one of"),
        ("model.transformer.wpe.weight", (64, WIDTH), "wpe.weight' is not one of"),
        ("model.transformer.blocks.0.att_proj.bias", (WIDTH,), "att_proj.bias' is not one of"),
        ("model.transformer.blocks.0.att_proj.weight", (100, WIDTH), "shape .100, 48.; expected 3"),
    ],
)
def test_tensor_that_no_llama_has_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    weights = save_olmo(tmp_path / "in")
    save_file(weights | {name: torch.zeros(shape)}, tmp_path / "in" / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
