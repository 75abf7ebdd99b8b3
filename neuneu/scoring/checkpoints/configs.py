"""Configs of checkpoints (`config.json`): read, checked, and named by a hash.

Sizes must be ones that a model can have: a million layers would keep a machine busy until its time
limit, and a text in place of a number fails in whatever reads it first.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import parse_mapping, read_regular

# Keys of config.json that do not change the function: where it came from, and the type that
# weights were saved in (an engine computes in the specified type).
_PROVENANCE: Final = {"_name_or_path", "_commit_hash", "transformers_version", "use_cache"}
_SAVED_TYPE: Final = {"dtype", "torch_dtype"}
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Keys that must be absent or false, and why.
_REFUSED: Final = {
    "auto_map": "asks for code from the checkpoint, which is never run; convert it to an "
    "architecture of transformers",
    "quantization_config": "quantised weights cannot be swapped; save the checkpoint unquantised",
    "is_encoder_decoder": "expected a decoder, found an encoder-decoder",
}
# Heads and inner sizes, which some architectures give for each layer.
_MAX_PER_LAYER: Final[dict[str, int]] = {
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), 2**12),
    **dict.fromkeys(("n_kv_heads", "num_heads"), 2**12),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "mlp_hidden_size"), 2**20),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 2**20),
    **dict.fromkeys(_EXPERTS, 2**16),
}
_MAX_SIZES: Final[dict[str, int]] = {
    **_MAX_PER_LAYER,
    **dict.fromkeys(("vocab_size", "embedding_size"), 2**24),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 2**17),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1000),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 2**30),
    "max_sequence_length": 2**30,
    "head_dim": 2**12,
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `config.json`, which must be an unquantised, known decoder's.

    Raises:
        CheckpointError: what is wrong with it.
    """
    return check_config(parse_config(read_regular(folder / "config.json")))


def parse_config(content: bytes) -> dict[str, Any]:
    """Parse the content of a `config.json`.

    Raises:
        CheckpointError: not JSON, or without a model type.
    """
    config = parse_mapping(content, "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            "config.json: expected a mapping with model_type, found "
            f"{'none' if model_type is None else repr(model_type)[:80]}."
        )
    return config


def check_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the same config, or refuse it as `read_config` does.

    Raises:
        CheckpointError: what is wrong with it.
    """
    for key, problem in _REFUSED.items():
        if config.get(key):
            raise CheckpointError(f"config.json: {key} = {str(config[key])[:80]}: {problem}.")
    check_sizes(config)
    names = config.get("architectures")
    if not isinstance(names, list | None) or not all(isinstance(n, str) for n in names or ()):
        raise CheckpointError(
            f"config.json: architectures = {str(names)[:80]}; expected a list of names."
        )
    for key in _SAVED_TYPE:
        if not isinstance(config.get(key), str | None):
            raise CheckpointError(
                f"config.json: {key} = {str(config[key])[:80]}; expected a name such as bfloat16."
            )
    return config


def check_sizes(config: Mapping[str, Any]) -> None:
    """Check the sizes in a config and in nested configs; absent and null ones pass.

    Raises:
        CheckpointError: the first that is no positive whole number, or is too large.
    """
    for key, value in _sizes(config):
        values = value if key in _MAX_PER_LAYER and isinstance(value, list) else [value]
        for found in values:
            if type(found) is not int or not 1 <= found <= _MAX_SIZES[key]:
                huge = type(found) is int and abs(found) >= 10**30
                text = "a huge number" if huge else repr(found)
                shown = text if len(text) <= 40 else f"{text[:40]}..."
                raise CheckpointError(
                    f"config.json: {key} = {shown}; expected a whole number from 1 to "
                    f"{_MAX_SIZES[key]:,}."
                )


def check_dense(config: Mapping[str, Any]) -> None:
    """Refuse a mixture of experts, for an engine that cannot swap their weights safely.

    vLLM (0.32, on CPU) arranges the weights of experts for its kernels when it starts, but not
    after a swap, and then computes with them as if they were: log-probabilities are off by nats.

    Raises:
        CheckpointError: it has experts.
    """
    for key, value in _sizes(config):
        if key in _EXPERTS:
            raise CheckpointError(
                f"config.json: {key} = {str(value)[:80]}; expected a dense model: vLLM cannot swap "
                "the weights of experts safely; set engine.kind=packed, which needs the whole "
                "model on one GPU or in memory."
            )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in _EXPERTS and value == 0:  # how some say that a model is dense
            continue
        if key in _MAX_SIZES and value is not None:
            yield key, value
        elif key.endswith("_config") and isinstance(value, Mapping):
            yield from _sizes(value)


def config_hash(config: Mapping[str, Any]) -> str:
    """Return sixteen hex digits that identify an architecture."""
    return hashlib.sha256(canonical_config(config).encode()).hexdigest()[:16]


def canonical_config(config: Mapping[str, Any]) -> str:
    """Return the config as JSON without the keys that do not change the function."""
    kept = {k: v for k, v in config.items() if k not in _PROVENANCE | _SAVED_TYPE}
    return json.dumps(kept, sort_keys=True)
