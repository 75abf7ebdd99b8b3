"""Preflight: whether a staged checkpoint may go into an engine, decided from its files.

An engine that swaps weights reports success on checkpoints with missing tensors and ignores a
changed `config.json`. So a checkpoint is compared here with what its own config implies; that
its config is the one of its run, `neuneu.scoring.checkpoints.grouping` has seen to.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import (
    one_line,
    parse_mapping,
    read_regular,
)
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.sizes import check_sizes
from neuneu.scoring.checkpoints.tokenizer_files import (
    check_vocabulary,
    hash_tokenizer,
    read_tokenizer_files,
)
from neuneu.scoring.checkpoints.weights import TensorHeader, is_constant, read_headers, weights_hash

if TYPE_CHECKING:
    import torch

# Keys of config.json that do not change the function: where it came from, and the type that
# weights were saved in (an engine computes in the type that it is told).
_PROVENANCE: Final = {"_name_or_path", "_commit_hash", "transformers_version", "use_cache"}
_SAVED_TYPE: Final = {"dtype", "torch_dtype"}
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BUILDING: Final = Lock()


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A checkpoint that may be scored, and the hashes of what its numbers depend on.

    Checkpoints of equal `config_hash` are one architecture: an engine may swap one's weights
    for another's. `max_positions` is the longest window of the model in
    tokens, None where the architecture has no limit.
    """

    ref: CheckpointRef
    config_hash: str
    tokenizer_hash: str
    weights_hash: str
    architecture: str
    max_positions: int | None
    vocab_size: int


def inspect(ref: CheckpointRef, folder: Path | None = None) -> Preflight:
    """Checks one checkpoint by itself.

    Args:
        ref: the checkpoint.
        folder: where its files lie on this machine; None takes `ref.uri`.

    Raises:
        CheckpointError: unreadable or unsupported config, weights that do not match it, or a
            tokenizer that is missing or larger than the vocabulary; one line, without the
            checkpoint's name.
    """
    folder = folder or Path(ref.uri)
    config = read_config(folder)
    tensors = read_headers(folder)
    with _BUILDING:  # transformers' lazy imports and the meta device are not for several threads
        model = _model_of(canonical_config(config))
    _compare(tensors, model)
    tokenizer = read_tokenizer_files(folder)
    check_vocabulary(tokenizer, vocab_size=model.vocab_size)
    return Preflight(
        ref=ref,
        config_hash=config_hash(config),
        tokenizer_hash=hash_tokenizer(tokenizer),
        weights_hash=weights_hash(folder),
        architecture=model.architecture,
        max_positions=model.max_positions,
        vocab_size=model.vocab_size,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's `config.json`, refused unless it is a dense, unquantised, known decoder.

    Raises:
        CheckpointError: what is wrong with it.
    """
    return checked_config(decode_config(read_regular(folder / "config.json")))


def decode_config(content: bytes) -> dict[str, Any]:
    """The content of a `config.json`.

    Raises:
        CheckpointError: not JSON, or without the name of a model type.
    """
    config = parse_mapping(content, "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(
            "config.json: expected a mapping with model_type, found "
            f"{'none' if model_type is None else repr(model_type)[:80]}."
        )
    return config


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same config, refused as by `read_config`.

    Raises:
        CheckpointError: what is wrong with it.
    """
    if config.get("auto_map"):
        raise CheckpointError(
            "config.json: auto_map asks for code from the checkpoint, which is never run; "
            "convert it to an architecture of transformers."
        )
    if config.get("quantization_config"):
        raise CheckpointError(
            "config.json: quantization_config: quantised weights cannot be swapped; "
            "save the checkpoint unquantised."
        )
    experts = [key for key in _EXPERTS if config.get(key)]
    if experts:
        raise CheckpointError(
            f"config.json: {experts[0]} = {config[experts[0]]}: expected a dense model; "
            "mixtures of experts cannot be swapped safely."
        )
    if config.get("is_encoder_decoder"):
        raise CheckpointError("config.json: expected a decoder, found an encoder-decoder.")
    check_sizes(config)
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(map(_is_text, names))):
        raise CheckpointError(
            f"config.json: architectures = {str(names)[:80]}; expected a list of names."
        )
    for key in _SAVED_TYPE:
        if config.get(key) is not None and not _is_text(config[key]):
            raise CheckpointError(
                f"config.json: {key} = {str(config[key])[:80]}; expected a name such as bfloat16."
            )
    return config


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hex digits that name an architecture."""
    return hashlib.sha256(canonical_config(config).encode()).hexdigest()[:16]


def canonical_config(config: Mapping[str, Any]) -> str:
    """JSON of the config without the keys that leave the function unchanged."""
    kept = {k: v for k, v in config.items() if k not in _PROVENANCE | _SAVED_TYPE}
    return json.dumps(kept, sort_keys=True)


def check_tokenizer(checked: Preflight, expected: str | None) -> None:
    """Refuses a checkpoint whose tokenizer is not that of its run.

    Args:
        checked: the checkpoint.
        expected: `Pending.tokenizer_hash`; None takes any.

    Raises:
        CheckpointError: it is another one.
    """
    if expected is not None and checked.tokenizer_hash != expected:
        raise CheckpointError(
            "its tokenizer differs from that of the run's other checkpoints (hash "
            f"{checked.tokenizer_hash}, expected {expected}): losses and accuracies are not "
            "comparable; put the right tokenizer there, name it another run, or allow it with "
            f"mixed_tokenizers=[{checked.ref.run}]."
        )


@dataclass(frozen=True)
class _Model:
    """What a config implies; `optional` are second names of tied tensors."""

    architecture: str
    shapes: dict[str, tuple[int, ...]]
    optional: frozenset[str]
    max_positions: int | None
    vocab_size: int


@lru_cache(maxsize=64)
def _model_of(canonical: str) -> _Model:
    """Builds the model without memory (on the meta device) to learn its tensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    raw = json.loads(canonical)
    model_type = raw.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"config.json: model_type {model_type!r} is not an architecture of the installed "
            "transformers; convert the checkpoint, or install a release that knows it."
        )
    try:
        config = AutoConfig.for_model(model_type, **raw)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        saved, vocab_size = _as_saved(model), int(config.vocab_size)
    except Exception as error:  # what a wrong value ends in depends on the architecture
        raise CheckpointError(
            f"config.json: no causal language model can be built from it ({one_line(error)})."
        ) from error
    if config.architectures and type(model).__name__ not in config.architectures:
        raise CheckpointError(
            f"config.json: architectures is {config.architectures}; expected "
            f"{type(model).__name__}, the causal language model of {model_type}."
        )
    first_names: dict[int, str] = {}
    optional = {
        name for name, tensor in saved.items() if first_names.setdefault(id(tensor), name) != name
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items() if not is_constant(name)}
    return _Model(
        architecture=type(model).__name__,
        shapes=shapes,
        optional=frozenset(optional),
        max_positions=getattr(config, "max_position_embeddings", None),
        vocab_size=vocab_size,
    )


def _as_saved(model: Any) -> "dict[str, torch.Tensor]":
    """The model's tensors by the names that checkpoints have, tied ones under each name."""
    state = dict(model.state_dict(keep_vars=True))
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 the names in memory were those of checkpoints
        return state
    return dict(revert_weight_conversion(model, state))


def _compare(tensors: Mapping[str, TensorHeader], model: _Model) -> None:
    missing = sorted(model.shapes.keys() - tensors.keys() - model.optional)
    if missing:
        raise CheckpointError(
            f"tensor {missing[0]!r} is missing ({len(missing)} of {len(model.shapes)} are): "
            f"{model.architecture} of config.json needs it; save the checkpoint again."
        )
    extra = sorted(tensors.keys() - model.shapes.keys())
    if extra:
        raise CheckpointError(
            f"tensor {extra[0]!r} is unknown ({len(extra)} are): {model.architecture} of "
            "config.json has no such tensor; save the checkpoint with the config it was "
            "trained with."
        )
    for name, header in sorted(tensors.items()):
        if header.shape != model.shapes[name]:
            raise CheckpointError(
                f"tensor {name!r} has shape {list(header.shape)}; expected "
                f"{list(model.shapes[name])} by config.json; put the right config.json there."
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str)
