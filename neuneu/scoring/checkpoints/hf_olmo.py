"""Conversion of checkpoints in the old `hf_olmo` format to Llama, which every engine supports.

OLMo 1 and DataDecide models were saved with their own config (`OLMoForCausalLM`), which needs
external code. With affine RMSNorm, SwiGLU, rotary positions, no biases and no norms of queries and
keys, as in DataDecide, the function is that of a Llama under other names; any other setting is
refused by name. Heads of a size that no kernel supports are padded
(`neuneu.scoring.checkpoints.heads`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import parse_mapping, read_mapping, read_regular, write_text_atomic
from neuneu.scoring.checkpoints.configs import check_sizes
from neuneu.scoring.checkpoints.heads import Heads, kernel_heads
from neuneu.scoring.checkpoints.weights import file_tensors, read_headers, save_shards, weight_files

if TYPE_CHECKING:
    import torch

MODEL_TYPE: Final = "hf_olmo"

# Fields with the one value that they must have.
_FIXED: Final[dict[str, Any]] = {
    "activation_type": "swiglu",
    "block_type": "sequential",
    "clip_qkv": None,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rope": True,
    **dict.fromkeys(("alibi", "attention_layer_norm", "include_bias"), False),
    **dict.fromkeys(("scale_logits", "weight_tying"), False),
}
# The same, but they may be absent or null.
_FIXED_OR_NULL: Final[dict[str, Any]] = {
    "block_group_size": 1,
    **dict.fromkeys(("bias_for_layer_norm", "embedding_layer_norm"), False),
    **dict.fromkeys(("multi_query_attention", "norm_after", "tie_word_embeddings"), False),
}
# Sizes and constants that the Llama takes over.
_SIZES: Final = ("d_model", "n_heads", "n_layers", "max_sequence_length", "vocab_size")
_CARRIED: Final = {
    "embedding_size", "eos_token_id", "layer_norm_eps", "mlp_hidden_size", "mlp_ratio",
    "n_kv_heads", "pad_token_id", "rope_theta",
}  # fmt: skip
# How it was trained, computed or saved: no effect on the function at scoring.
_IRRELEVANT: Final = {
    "_commit_hash", "_name_or_path", "alibi_bias_max", "architectures", "attention_dropout",
    "attention_layer_norm_with_affine", "auto_map", "bos_token_id", "dtype", "embedding_dropout",
    "emb_init_std", "flash_attention", "init_cutoff_factor", "init_device", "init_fn", "init_std",
    "model_type", "precision", "residual_dropout", "rope_full_precision", "scale_emb_init",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_TOKENIZER_FILES: Final = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", _TOKENIZER_CONFIG,
)  # fmt: skip
# Upper limit of a base, a ratio or an epsilon.
_MAX_NUMBER: Final = 1e12
_BLOCK: Final = re.compile(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.weight")
_TOP: Final = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
# Tensors of a block, each cut into equal parts by rows.
_PARTS: Final = {
    "att_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "ff_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "ff_out": ("mlp.down_proj",),
    "attn_norm": ("input_layernorm",),
    "ff_norm": ("post_attention_layernorm",),
}


def as_llama_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of the Llama that an `hf_olmo` config describes, heads padded.

    Raises:
        CheckpointError: a field with a value that Llama does not have, an unknown field, or an
            impossible size.
    """
    fixed = _FIXED | _FIXED_OR_NULL
    unknown = sorted(config.keys() - fixed.keys() - _CARRIED - _IRRELEVANT - set(_SIZES))
    if unknown:
        raise CheckpointError(
            f"config.json: {unknown[0]} = {config[unknown[0]]!r} is not a known field of "
            f"{MODEL_TYPE}; a Llama might not compute the same."
        )
    for name, expected in fixed.items():
        found = config.get(name)
        if found != expected and not (found is None and name in _FIXED_OR_NULL):
            raise CheckpointError(
                f"config.json: {name} = {found!r}; expected {expected!r}: only such "
                f"{MODEL_TYPE} checkpoints are Llamas."
            )
    missing = [name for name in _SIZES if config.get(name) is None]
    if missing:
        raise CheckpointError(f"config.json: {missing[0]}: expected a number, found none.")
    check_sizes(config)
    width, heads = config["d_model"], _heads(config)
    hidden = config.get("mlp_hidden_size") or _positive(config, "mlp_ratio", 0) * width
    if not hidden or hidden % 2:
        raise CheckpointError(
            f"config.json: mlp_hidden_size or mlp_ratio gives an MLP of {hidden:g}; expected even."
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": None,
        "dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "eos_token_id": config.get("eos_token_id"),
        "head_dim": heads.padded,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": int(hidden) // 2,
        "max_position_embeddings": config["max_sequence_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads.count,
        "num_hidden_layers": config["n_layers"],
        "num_key_value_heads": heads.count,
        "pad_token_id": config.get("pad_token_id"),
        "rms_norm_eps": _positive(config, "layer_norm_eps", 1e-5),
        "rope_theta": heads.theta(_positive(config, "rope_theta", 10_000.0)),
        "tie_word_embeddings": False,
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
    }


def padding_bytes(config: Mapping[str, Any]) -> int:
    """Return an upper limit of the bytes that the conversion of an `hf_olmo` checkpoint adds.

    Raises:
        CheckpointError: as `as_llama_config`.
    """
    layers = int(as_llama_config(config)["num_hidden_layers"])
    return layers * _heads(config).added_bytes(config["d_model"])


def convert(folder_in: Path, folder_out: Path) -> None:
    """Write a Llama checkpoint that computes what an `hf_olmo` checkpoint does.

    Weights keep their files and their type, except for queries of padded heads; the tokenizer's
    vocabulary is copied. `folder_out` must not exist; it holds a whole checkpoint on return.

    Raises:
        CheckpointError: as `as_llama_config`, or weights that do not match that config.
    """
    raw = read_mapping(folder_in / "config.json")
    config, heads = as_llama_config(raw), _heads(raw)
    read_headers(folder_in)

    def shards() -> "Iterator[tuple[str, dict[str, torch.Tensor]]]":
        for path in weight_files(folder_in):
            tensors: dict[str, torch.Tensor] = {}
            for name, tensor in file_tensors(path):
                tensors |= _rename(name, tensor, heads)
            yield path.name, tensors

    folder_out.mkdir(parents=True)
    save_shards(folder_out, shards())
    present = [name for name in _TOKENIZER_FILES if (folder_in / name).exists()]
    files = {name: read_regular(folder_in / name) for name in present}
    for name, content in tokenizer_files(files).items():
        (folder_out / name).write_bytes(content)
    write_text_atomic(folder_out / "config.json", json.dumps(config, indent=1) + "\n")


def tokenizer_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the tokenizer's files as `convert` writes them, by name.

    They load as a plain tokenizer, without external code.

    Raises:
        CheckpointError: a `tokenizer_config.json` that is no mapping.
    """
    converted = {name: files[name] for name in _TOKENIZER_FILES if name in files}
    settings = parse_mapping(files.get(_TOKENIZER_CONFIG, b"{}"), _TOKENIZER_CONFIG)
    settings.pop("auto_map", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    converted[_TOKENIZER_CONFIG] = (json.dumps(settings, indent=1) + "\n").encode()
    return converted


def _heads(config: Mapping[str, Any]) -> Heads:
    width, count = config["d_model"], config["n_heads"]
    if config.get("n_kv_heads") not in (None, count):
        raise CheckpointError(
            f"config.json: n_kv_heads = {config['n_kv_heads']}; expected n_heads ({count})."
        )
    if width % (2 * count):
        raise CheckpointError(
            f"config.json: n_heads = {count}; expected twice as many to divide d_model ({width})."
        )
    return kernel_heads(count, width // count)


def _rename(name: str, tensor: "torch.Tensor", heads: Heads) -> "dict[str, torch.Tensor]":
    if name in _TOP:
        return {_TOP[name]: tensor}
    match = _BLOCK.fullmatch(name)
    parts = _PARTS.get(match[2]) if match else None
    if match is None or parts is None:
        raise CheckpointError(f"tensor {name!r} is not one of an {MODEL_TYPE} checkpoint.")
    if tensor.ndim == 0 or tensor.shape[0] % len(parts):
        raise CheckpointError(
            f"tensor {name!r} has shape {list(tensor.shape)}; expected {len(parts)} equal parts."
        )
    return {
        f"model.layers.{match[1]}.{part}.weight": _padded(name, part, rows, heads)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True)
    }


def _padded(name: str, part: str, rows: "torch.Tensor", heads: Heads) -> "torch.Tensor":
    if not heads.are_padded or not part.startswith("self_attn."):
        return rows.clone()
    width = heads.count * heads.size
    if rows.shape != (width, width):
        raise CheckpointError(
            f"tensor {name!r} has parts of shape {list(rows.shape)}; expected {[width, width]} by "
            "config.json."
        )
    if part.endswith("o_proj"):
        return heads.pad_columns(rows)
    return heads.pad_queries(rows) if part.endswith("q_proj") else heads.pad_rows(rows)


def _positive(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 < value <= _MAX_NUMBER:
        raise CheckpointError(f"config.json: {name} = {value!r}; expected a positive number.")
    return float(value)
