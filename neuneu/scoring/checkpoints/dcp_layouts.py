"""Names of tensors in distributed checkpoints of known trainers, and those of transformers.

The layout of a checkpoint follows from the name of its embedding, and what precedes that name is a
prefix of all tensors of the model, such as `model.` or `app.model.`. What tensors there must be,
and their shapes, follow from `config.json`: `neuneu.scoring.checkpoints.preflight` compares.

Sources: pytorch/torchtitan (`state_dict_adapter.py` of llama3 and qwen3), allenai/OLMo-core
(`nn/hf/convert.py`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_MLP: Final = {
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
_NORMS_OF_HEADS: Final = {
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
}
_TITAN: Final = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.qkv_linear.wq": "self_attn.q_proj",
    "attention.qkv_linear.wk": "self_attn.k_proj",
    "attention.qkv_linear.wv": "self_attn.v_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **_MLP,
}
_OLMO: Final = {
    "attention.w_q": "self_attn.q_proj",
    "attention.w_k": "self_attn.k_proj",
    "attention.w_v": "self_attn.v_proj",
    "attention.w_out": "self_attn.o_proj",
    **_MLP,
}
_BEFORE: Final = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
_AFTER: Final = {
    "attention_norm": "post_attention_layernorm",
    "feed_forward_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a trainer names tensors: outside of blocks, and inside by the `model_type` of a config.

    `interleaved` are the model types whose rotary pairs are neighbouring rows of queries and keys,
    where transformers has them half a head apart.
    """

    name: str
    embedding: str
    block: str = ""
    top: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    interleaved: frozenset[str] = frozenset()


_LAYOUTS: Final = (
    Layout(
        name="torchtitan",
        embedding="tok_embeddings",
        block="layers",
        top={
            "tok_embeddings": "model.embed_tokens",
            "norm": "model.norm",
            "output": "lm_head",
            "lm_head": "lm_head",
        },
        blocks={"llama": _TITAN, "qwen3": _TITAN | _NORMS_OF_HEADS},
        interleaved=frozenset({"llama"}),
    ),
    Layout(
        name="OLMo-core",
        embedding="embeddings",
        block="blocks",
        top={
            "embeddings": "model.embed_tokens",
            "lm_head.norm": "model.norm",
            "lm_head.w_out": "lm_head",
        },
        blocks={
            "llama": _OLMO | _BEFORE,
            "qwen3": _OLMO | _BEFORE | _NORMS_OF_HEADS,
            **dict.fromkeys(("olmo2", "olmo3"), _OLMO | _AFTER | _NORMS_OF_HEADS),
        },
    ),
    Layout(name="transformers", embedding="model.embed_tokens"),
    Layout(name="transformers", embedding="gpt_neox.embed_in"),
    Layout(name="transformers", embedding="transformer.wte"),
)
# Names of everything but the model, whose tensors may be beside it.
_BESIDE: Final = re.compile(
    r"(optim\w*|opt|lr_scheduler\w*|scheduler|train_state|trainer|dataloader|data_loader|rng\w*)\."
)
# What wrappers insert in names.
_WRAPPERS: Final = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Buffers that models compute themselves.
_COMPUTED: Final = re.compile(r"(.*\.)?(freqs_cis|rope_cache|inv_freq)")


@dataclass(frozen=True, kw_only=True)
class Names:
    """The tensors of the model: `originals` are their names in the checkpoint, by ours."""

    layout: Layout
    originals: dict[str, str]


def find_names(names: Iterable[str], model_type: str) -> Names:
    """Return which of a checkpoint's tensors are the model's, by their names in transformers.

    Args:
        names: names of all tensors.
        model_type: that of `config.json`.

    Raises:
        CheckpointError: an unknown layout or tensor, several models, or a layout that is not known
            for this type of model.
    """
    plain: dict[str, str] = {}
    for name in names:
        if _COMPUTED.fullmatch(name) is None:
            _add(plain, _WRAPPERS.sub("", name), name)
    layout, prefix = _detect(plain)
    if layout.blocks and model_type not in layout.blocks:
        raise CheckpointError(
            f"config.json: model_type = {model_type!r}; expected one of {sorted(layout.blocks)}, "
            f"whose names in {layout.name} are known; convert the checkpoint to safetensors with "
            "the trainer's own script."
        )
    originals: dict[str, str] = {}
    for name, original in plain.items():
        # A prefix separates the model from the rest; without it, only names do.
        if not name.startswith(prefix) or (not prefix and _BESIDE.match(name)):
            continue
        ours = _translate(name.removeprefix(prefix), layout, model_type)
        if ours is None:
            raise CheckpointError(
                f"tensor {original!r} is unknown; expected the tensors of a {model_type} as "
                f"{layout.name} names them; convert the checkpoint to safetensors with the "
                "trainer's own script."
            )
        _add(originals, ours, original)
    return Names(layout=layout, originals=originals)


def to_half_split(name: str, tensor: "torch.Tensor", config: Mapping[str, Any]) -> "torch.Tensor":
    """Return queries or keys, (heads * size, ...), with rotary pairs half a head apart.

    Row 2 i + j of a head becomes row j * size / 2 + i.

    Raises:
        CheckpointError: another shape than that of the config.
    """
    heads = config.get("num_attention_heads")
    size = config.get("head_dim") or (config.get("hidden_size") or 0) // (heads or 1)
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        heads = config.get("num_key_value_heads") or heads
    if not heads or not size or size % 2 or tensor.shape[:1] != (heads * size,):
        raise CheckpointError(
            f"tensor {name!r} has shape {list(tensor.shape)}; expected {heads} heads of {size} "
            "(even) rows by config.json; put the right config.json there."
        )
    pairs = tensor.reshape(heads, size // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def is_rotary(name: str) -> bool:
    """Return whether a tensor of transformers gives queries or keys."""
    return re.search(r"\.self_attn\.[qk]_proj\.(weight|bias)$", name) is not None


def _detect(plain: Mapping[str, str]) -> tuple[Layout, str]:
    found = []
    for layout in _LAYOUTS:
        end = f"{layout.embedding}.weight"
        found += [
            (layout, name.removesuffix(end))
            for name in plain
            if (name == end or name.endswith(f".{end}")) and not _BESIDE.match(name)
        ]
    if not found:
        known = sorted({f"{layout.embedding}.weight" for layout in _LAYOUTS})
        raise CheckpointError(
            f"no known embedding among its {len(plain)} tensors: expected one of {known}, found "
            f"{sorted(plain)[:3]}; convert the checkpoint to safetensors with the trainer's own "
            "script."
        )
    if len(found) > 1:
        models = sorted(prefix or "no prefix" for _, prefix in found)
        raise CheckpointError(
            f"expected one model, found {len(found)} ({', '.join(models[:3])}); save the one to "
            "score by itself."
        )
    return found[0]


def _translate(name: str, layout: Layout, model_type: str) -> str | None:
    if not layout.blocks:
        return name
    module, _, kind = name.rpartition(".")
    if kind not in {"weight", "bias"}:
        return None
    if module in layout.top:
        return f"{layout.top[module]}.{kind}"
    match = re.fullmatch(rf"{layout.block}\.(\d+)\.(.+)", module)
    inner = layout.blocks[model_type].get(match[2]) if match else None
    return f"model.layers.{match[1]}.{inner}.{kind}" if match and inner else None


def _add(table: dict[str, str], name: str, original: str) -> None:
    if name in table:
        raise CheckpointError(
            f"tensors {table[name]!r} and {original!r} are both {name!r}; expected it once; save "
            "one model by itself."
        )
    table[name] = original
