"""Checkpoints of the old `hf_olmo` format as Llama checkpoints, which every engine knows.

OLMo 1 and DataDecide models were saved with a config of their own (`OLMoForCausalLM`) that needs
code from outside. With affine RMSNorm, SwiGLU, rotary positions, no biases and no norms of
queries and keys, as DataDecide has them, the function is that of a Llama with other names; any
other setting is refused by its name.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuneu.errors import CheckpointError
from neuneu.extraction.weights import INDEX_FILE, weight_files
from neuneu.files import write_text_atomic

if TYPE_CHECKING:
    import torch

MODEL_TYPE: Final = "hf_olmo"

# Fields that must have one of these values, or be absent where None is among them.
_REQUIRED: Final[dict[str, tuple[Any, ...]]] = {
    "activation_type": ("swiglu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1, None),
    "block_type": ("sequential",),
    "clip_qkv": (None,),
    "embedding_layer_norm": (False, None),
    "include_bias": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (False, None),
    "norm_after": (False, None),
    "rope": (True,),
    "scale_logits": (False,),
    "tie_word_embeddings": (False, None),
    "weight_tying": (False,),
}
# Sizes and constants that are carried over.
_SIZES: Final = ("d_model", "n_heads", "n_layers", "max_sequence_length", "vocab_size")
_CARRIED: Final = {
    *_SIZES,
    "embedding_size",
    "eos_token_id",
    "layer_norm_eps",
    "mlp_hidden_size",
    "mlp_ratio",
    "n_kv_heads",
    "pad_token_id",
    "rope_theta",
}
# How it was trained, computed or saved: nothing of it changes the function at scoring.
_IRRELEVANT: Final = {
    "_commit_hash",
    "_name_or_path",
    "alibi_bias_max",
    "architectures",
    "attention_dropout",
    "attention_layer_norm_with_affine",
    "auto_map",
    "bos_token_id",
    "dtype",
    "embedding_dropout",
    "emb_init_std",
    "flash_attention",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "model_type",
    "precision",
    "residual_dropout",
    "rope_full_precision",
    "scale_emb_init",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_TOKENIZER_FILES: Final = ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_BLOCK: Final = re.compile(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.weight")
_TOP: Final = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
# A tensor of a block, cut into equal parts by rows.
_PARTS: Final = {
    "att_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "ff_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "ff_out": ("mlp.down_proj",),
    "attn_norm": ("input_layernorm",),
    "ff_norm": ("post_attention_layernorm",),
}


def as_llama_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of the Llama that an `hf_olmo` config describes.

    Raises:
        CheckpointError: a field with a value that Llama has not, or an unknown field.
    """
    unknown = sorted(config.keys() - _REQUIRED.keys() - _CARRIED - _IRRELEVANT)
    if unknown:
        raise CheckpointError(
            f"config.json: {unknown[0]} = {config[unknown[0]]!r} is not a known field of "
            f"{MODEL_TYPE}; whether a Llama computes the same is not known."
        )
    for name, allowed in _REQUIRED.items():
        if config.get(name) not in allowed:
            raise CheckpointError(
                f"config.json: {name} = {config.get(name)!r}; expected {allowed[0]!r}: only such "
                f"{MODEL_TYPE} checkpoints are Llamas."
            )
    missing = [name for name in _SIZES if not isinstance(config.get(name), int)]
    if missing:
        raise CheckpointError(f"config.json: {missing[0]}: expected a number, found none.")
    width, heads = config["d_model"], config["n_heads"]
    if config.get("n_kv_heads") not in (None, heads):
        raise CheckpointError(
            f"config.json: n_kv_heads = {config['n_kv_heads']}; expected n_heads ({heads})."
        )
    if width % (2 * heads):
        raise CheckpointError(f"config.json: n_heads = {heads} does not cut {width} evenly.")
    hidden = config.get("mlp_hidden_size") or config.get("mlp_ratio", 0) * width
    if not hidden or hidden % 2:
        raise CheckpointError(
            "config.json: mlp_hidden_size and mlp_ratio give no even size of the MLP."
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": None,
        "dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "eos_token_id": config.get("eos_token_id"),
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": hidden // 2,
        "max_position_embeddings": config["max_sequence_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": config["n_layers"],
        "num_key_value_heads": heads,
        "pad_token_id": config.get("pad_token_id"),
        "rms_norm_eps": _positive(config, "layer_norm_eps", 1e-5),
        "rope_theta": _positive(config, "rope_theta", 10_000.0),
        "tie_word_embeddings": False,
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
    }


def convert(folder_in: Path, folder_out: Path) -> None:
    """Writes a Llama checkpoint that computes what an `hf_olmo` checkpoint does.

    Weights keep their type and their division into files; the tokenizer's vocabulary is copied
    as it is. `folder_out` must not exist; it holds a whole checkpoint when this returns.

    Raises:
        CheckpointError: as `as_llama_config`, or weights that are not of that config.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    config = as_llama_config(_read_json(folder_in / "config.json"))
    folder_out.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for path in weight_files(folder_in):
        tensors: dict[str, torch.Tensor] = {}
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    tensors |= _rename(name, file.get_tensor(name))
        except SafetensorError as error:
            raise CheckpointError(f"{path.name}: cannot be read ({error}).") from error
        save_file(tensors, folder_out / path.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if (folder_in / INDEX_FILE).exists():
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        write_text_atomic(folder_out / INDEX_FILE, json.dumps(index, indent=1) + "\n")
    _copy_tokenizer(folder_in, folder_out)
    write_text_atomic(folder_out / "config.json", json.dumps(config, indent=1) + "\n")


def _rename(name: str, tensor: "torch.Tensor") -> "dict[str, torch.Tensor]":
    if name in _TOP:
        return {_TOP[name]: tensor}
    match = _BLOCK.fullmatch(name)
    parts = _PARTS.get(match[2]) if match else None
    if match is None or parts is None:
        raise CheckpointError(f"tensor {name!r} is not one of an {MODEL_TYPE} checkpoint.")
    if tensor.shape[0] % len(parts):
        raise CheckpointError(
            f"tensor {name!r} has {tensor.shape[0]} rows; expected {len(parts)} equal parts."
        )
    return {
        f"model.layers.{match[1]}.{part}.weight": rows.clone()
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True)
    }


def _copy_tokenizer(folder_in: Path, folder_out: Path) -> None:
    """Copies the tokenizer, to be loaded as the plain one that it is, without other code."""
    for name in _TOKENIZER_FILES:
        if (folder_in / name).exists():
            shutil.copyfile(folder_in / name, folder_out / name)
    path = folder_in / "tokenizer_config.json"
    settings = _read_json(path) if path.exists() else {}
    settings = {key: value for key, value in settings.items() if key != "auto_map"}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_text_atomic(folder_out / path.name, json.dumps(settings, indent=1) + "\n")


def _positive(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or value <= 0:
        raise CheckpointError(f"config.json: {name} = {value!r}; expected a positive number.")
    return float(value)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: expected a mapping, found {type(content).__name__}.")
    return content
