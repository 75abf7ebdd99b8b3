"""Preflight: whether a staged checkpoint may go into an engine, decided from its files.

An engine that swaps weights reports success on checkpoints with missing tensors and ignores a
changed `config.json`. So a checkpoint is compared with what its own config implies; that its
config is that of its run is checked by `neuneu.scoring.checkpoints.grouping`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import one_line
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.configs import canonical_config, config_hash, read_config
from neuneu.scoring.checkpoints.tokenizer_files import (
    check_vocabulary,
    hash_tokenizer,
    read_tokenizer_files,
)
from neuneu.scoring.checkpoints.weights import TensorHeader, is_constant, read_headers, weights_hash

if TYPE_CHECKING:
    import torch

_BUILDING: Final = Lock()


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A checkpoint that may be scored, with the hashes of everything its numbers depend on.

    Checkpoints of equal `config_hash` are one architecture: an engine may swap the weights of one
    for those of another. `max_positions` is the longest window of the model in tokens, None if the
    architecture has no limit.
    """

    ref: CheckpointRef
    config_hash: str
    tokenizer_hash: str
    weights_hash: str
    architecture: str
    max_positions: int | None
    vocab_size: int


def inspect(ref: CheckpointRef, folder: Path | None = None) -> Preflight:
    """Check one checkpoint by itself.

    Args:
        ref: the checkpoint.
        folder: where its files are on this machine; None means `ref.uri`.

    Raises:
        CheckpointError: unreadable or unsupported config, weights that do not match it, or a
            tokenizer that is missing or larger than the vocabulary; one line, without the
            checkpoint's name.
    """
    folder = folder or Path(ref.uri)
    config = read_config(folder)
    tensors = read_headers(folder)
    with _BUILDING:  # transformers' lazy imports and the meta device are not thread-safe
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


def check_tokenizer(checked: Preflight, expected: str | None) -> None:
    """Refuse a checkpoint whose tokenizer is not that of its run.

    Args:
        checked: the checkpoint.
        expected: `Pending.tokenizer_hash`; None accepts any.

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
    """Build the model without memory (on the meta device) and return its tensors."""
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
    except Exception as error:  # the error for a wrong value depends on the architecture
        raise CheckpointError(
            f"config.json: no causal language model can be built from it ({one_line(error)})."
        ) from error
    architecture = type(model).__name__
    if config.architectures and architecture not in config.architectures:
        raise CheckpointError(
            f"config.json: architectures is {config.architectures}; expected "
            f"{architecture}, the causal language model of {model_type}."
        )
    first_names: dict[int, str] = {}
    optional = {
        name for name, tensor in saved.items() if first_names.setdefault(id(tensor), name) != name
    }
    return _Model(
        architecture=architecture,
        shapes={name: tuple(t.shape) for name, t in saved.items() if not is_constant(name)},
        optional=frozenset(optional),
        max_positions=getattr(config, "max_position_embeddings", None),
        vocab_size=vocab_size,
    )


def _as_saved(model: Any) -> "dict[str, torch.Tensor]":
    """Return the model's tensors by their names in checkpoints, tied ones under each name."""
    state = dict(model.state_dict(keep_vars=True))
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 names in memory and in checkpoints were the same
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
