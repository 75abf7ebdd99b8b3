"""Distributed checkpoints (DCP) of tiny models, with the names that trainers give to tensors."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from tiny_checkpoints import VOCAB_SIZE, WINDOW, save_model

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": WINDOW,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "olmo2": SHAPE,
    "olmo3": SHAPE,
    "qwen3": SHAPE | {"head_dim": 8},
}
Tensors = dict[str, torch.Tensor]


def save_safetensors(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> Tensors:
    """Save a random model as transformers does, with a tokenizer; return its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    save_model(folder, tied=False, seed=0)
    config = AutoConfig.for_model(kind, **(MODELS[kind] | changes))
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(float(parameter.ndim == 1), 0.3, generator=generator)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def as_titan(tensors: Mapping[str, torch.Tensor], *, heads: int = 4, kv_heads: int = 2) -> Tensors:
    """Names of torchtitan's Llama, and rows of queries and keys in its order (interleaved)."""
    changed = dict(tensors)
    for name, tensor in tensors.items():
        count = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        if count:
            rows = tensor.view(count, 2, -1, tensor.shape[1])
            changed[name] = rows.transpose(1, 2).reshape(tensor.shape)
    return as_titan_qwen3(changed)


def as_titan_qwen3(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Names of torchtitan's Qwen3."""
    return _renamed(tensors, {
        "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
        "model.layers": "layers", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn": "attention",
        "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo",
        "mlp": "feed_forward", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3",
    })  # fmt: skip


def as_olmo_core(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Names of OLMo-core's OLMo 2, whose norms follow attention and MLP."""
    return _renamed(tensors, {
        "model.embed_tokens": "embeddings", "model.norm": "lm_head.norm",
        "lm_head.weight": "lm_head.w_out.weight", "model.layers": "blocks",
        "post_attention_layernorm": "attention_norm",
        "post_feedforward_layernorm": "feed_forward_norm", "self_attn": "attention",
        "q_proj": "w_q", "k_proj": "w_k", "v_proj": "w_v", "o_proj": "w_out",
        "mlp": "feed_forward", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3",
    })  # fmt: skip


def as_newer_titan(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Names of torchtitan's later versions."""
    return _renamed(as_titan(tensors), {
        "wq": "qkv_linear.wq", "wk": "qkv_linear.wk", "wv": "qkv_linear.wv", "output": "lm_head",
    })  # fmt: skip


def as_olmo_core_llama(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Names of OLMo-core's Llama and Qwen3, whose norms precede attention and MLP."""
    names = {"post_attention_layernorm": "feed_forward_norm", "input_layernorm": "attention_norm"}
    return as_olmo_core(_renamed(tensors, names))


LAYOUTS: dict[str, tuple[str, Callable[[Mapping[str, torch.Tensor]], Tensors], tuple[str, ...]]] = {
    "torchtitan llama": ("llama", as_titan, ()),
    "torchtitan llama in a state": ("llama", as_titan, ("model",)),
    "torchtitan qwen3": ("qwen3", as_titan_qwen3, ()),
    "newer torchtitan llama": ("llama", as_newer_titan, ()),
    "OLMo-core": ("olmo2", as_olmo_core, ("model",)),
    "OLMo-core olmo3": ("olmo3", as_olmo_core, ("model",)),
    "OLMo-core llama": ("llama", as_olmo_core_llama, ("model",)),
    "OLMo-core qwen3": ("qwen3", as_olmo_core_llama, ("model",)),
    "transformers": ("qwen3", dict, ("app", "model")),
    "transformers alone": ("llama", dict, ()),
}


def training_state(model: Tensors, at: tuple[str, ...]) -> dict[str, Any]:
    """The model under some keys, beside an optimizer and a counter, as trainers save them."""
    nested: dict[str, Any] = dict(model)
    for key in reversed(at):
        nested = {key: nested}
    moments = {name: {"exp_avg": torch.full_like(model[name], 7.0)} for name in model}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3}]}
    return nested | {"optimizer": optimizer, "train_state": {"step": 3}}


def save_dcp(folder: Path, state: dict[str, Any]) -> None:
    """Save a state into a folder from one process, and drop its safetensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    (folder / "model.safetensors").unlink(missing_ok=True)


def save_layout(folder: Path, layout: str, **changes: Any) -> Path:
    """Save a model as a trainer does into `folder`, and as transformers does beside it."""
    kind, rename, at = LAYOUTS[layout]
    plain = folder.with_name(f"{folder.name}-plain")
    tensors = save_safetensors(plain, kind, **changes)
    folder.mkdir()
    for path in plain.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    save_dcp(folder, training_state(rename(tensors), at))
    return plain


def save_from_rank(rank: int, ranks: int, port: int, folder: str, plain: str) -> None:
    """Save a Llama as one of several ranks, each with its rows of every tensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    mesh = init_device_mesh("cpu", (ranks,))
    tensors = as_titan(load_file(Path(plain) / "model.safetensors"))
    state = {
        name: distribute_tensor(tensor, mesh, [Shard(tensor.ndim - 1)])
        for name, tensor in tensors.items()
    }
    dcp.save(training_state(state, ()), checkpoint_id=folder)
    dist.destroy_process_group()


def set_config(folder: Path, **changes: object) -> None:
    """Set keys of `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _renamed(tensors: Mapping[str, torch.Tensor], parts: Mapping[str, str]) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        new = name
        for part, other in parts.items():
            new = f".{new}.".replace(f".{part}.", f".{other}.").strip(".")
        found[new] = tensor.clone()
    return found
