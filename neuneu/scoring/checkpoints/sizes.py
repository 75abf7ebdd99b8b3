"""The sizes in a model's config: whole numbers, within what a model can have.

A number of layers of a million would keep a machine busy until its time is up, and a text in place
of a number ends in an error of whatever reads it first.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from neuneu.core.errors import CheckpointError

_WIDTHS: Final = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS: Final = (
    "num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "n_kv_heads", "num_heads",
)  # fmt: skip
_INNER: Final = ("intermediate_size", "n_inner", "ffn_dim", "mlp_hidden_size")
_POSITIONS: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_LARGEST: Final[dict[str, int]] = {
    "vocab_size": 2**24,
    "embedding_size": 2**24,
    "head_dim": 2**12,
    **dict.fromkeys(_WIDTHS, 2**17),
    **dict.fromkeys(_LAYERS, 1000),
    **dict.fromkeys(_HEADS, 2**12),
    **dict.fromkeys(_INNER, 2**20),
    **dict.fromkeys(_POSITIONS, 2**30),
}
# Some architectures give these a layer.
_MAY_BE_LISTS: Final = frozenset((*_HEADS, *_INNER))


def check_sizes(config: Mapping[str, Any]) -> None:
    """Checks the sizes in a config and in the configs inside it; absent and null ones are fine.

    Raises:
        CheckpointError: the first that is no positive whole number, or is too large.
    """
    for key, value in _sizes(config):
        values = value if key in _MAY_BE_LISTS and isinstance(value, list) else [value]
        for found in values:
            whole = isinstance(found, int) and not isinstance(found, bool)
            if not whole or not 1 <= found <= _LARGEST[key]:
                raise CheckpointError(
                    f"config.json: {key} = {_shown(found)}; expected a whole number from 1 to "
                    f"{_LARGEST[key]:,}."
                )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in _LARGEST and value is not None:
            yield key, value
        elif key.endswith("_config") and isinstance(value, Mapping):
            yield from _sizes(value)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 40 else f"{text[:40]}..."
