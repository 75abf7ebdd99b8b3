"""The tokenizer of a checkpoint by its files: whether it can be used, and a hash that names it.

Files are given as contents by name, so that the same can be asked of a folder, and of a checkpoint
that lies elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError
from neuneu.core.files import one_line, parse_json, parse_mapping, read_regular

_VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_SETTINGS: Final = "tokenizer_config.json"
TOKENIZER_FILES: Final[tuple[str, ...]] = (*_VOCABULARIES, _SETTINGS)
"""The files of a tokenizer that count here."""

_HASHED_SETTINGS: Final = ("tokenizer_class", "bos_token", "eos_token", "add_prefix_space")


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder's tokenizer that are there, contents by name.

    Raises:
        CheckpointError: one that is no regular file, or cannot be read.
    """
    present = [name for name in TOKENIZER_FILES if os.path.lexists(folder / name)]
    return {name: read_regular(folder / name) for name in present}


def check_vocabulary(files: Mapping[str, bytes], *, vocab_size: int) -> None:
    """Refuses a tokenizer that cannot be used, or gives tokens that a model does not have.

    Args:
        files: the tokenizer's files, contents by name.
        vocab_size: of the model.

    Raises:
        CheckpointError: what is wrong with it.
    """
    if "tokenizer.json" not in files:
        raise CheckpointError(
            "expected tokenizer.json, found none; save the tokenizer beside the weights."
        )
    ids = _token_ids(files["tokenizer.json"])
    settings = _read_settings(files)
    special = [settings.get(key) for key in ("bos_token", "eos_token")]
    names = [text.get("content") if isinstance(text, dict) else text for text in special]
    # Prompts begin with one of them, and one that the vocabulary lacks is added behind it.
    added = {name for name in names if isinstance(name, str)} - ids.keys()
    largest = max(ids.values(), default=-1) + len(added)
    if largest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has token id {largest}, the model a vocabulary of {vocab_size}; "
            "expected the tokenizer that the model was trained with."
        )


def hash_tokenizer(files: Mapping[str, bytes]) -> str:
    """Sixteen hex digits that name a tokenizer: its vocabulary files and special tokens.

    Args:
        files: contents by name; those that are not among `TOKENIZER_FILES` do not count.

    Raises:
        CheckpointError: settings that are no mapping, or ask for code from the checkpoint.
    """
    digest = hashlib.sha256()
    for name in _VOCABULARIES:
        if name in files:
            digest.update(f"{name}\0".encode() + hashlib.sha256(files[name]).digest())
    if _SETTINGS in files:
        settings = _read_settings(files)
        kept = {key: settings.get(key) for key in _HASHED_SETTINGS}
        digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def _token_ids(content: bytes) -> Mapping[str, int]:
    raw = parse_json(content, "tokenizer.json")
    try:
        vocab = raw["model"]["vocab"]
        if isinstance(vocab, list):
            vocab = {piece: i for i, (piece, _) in enumerate(vocab)}
        ids = vocab | {token["content"]: token["id"] for token in raw.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "tokenizer.json: expected a tokenizer with a vocabulary, found "
            f"{type(error).__name__}: {one_line(error)}."
        ) from error
    wrong = [name for name, value in ids.items() if type(value) is not int or value < 0]
    if wrong:
        raise CheckpointError(
            f"tokenizer.json: token {wrong[0]!r} has the id {str(ids[wrong[0]])[:40]}; expected a "
            "whole number of at least 0."
        )
    _check_loads(content)
    return ids


def _check_loads(content: bytes) -> None:
    """Builds the tokenizer as an engine would; native code tells its merges from nonsense."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of native code is no Exception
        raise CheckpointError(f"tokenizer.json: cannot be loaded ({one_line(error)}).") from error


def _read_settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of `tokenizer_config.json`; nothing where there is none."""
    settings = parse_mapping(files.get(_SETTINGS, b"{}"), _SETTINGS)
    if settings.get("auto_map"):
        raise CheckpointError(
            f"{_SETTINGS}: auto_map asks for code from the checkpoint, which is never run; "
            "save it with a tokenizer of transformers."
        )
    for key, (expected, fits) in _TYPES.items():
        value = settings.get(key)
        if value is not None and not fits(value):
            raise CheckpointError(
                f"{_SETTINGS}: {key} = {str(value)[:80]}; expected {expected} or null."
            )
    return settings


def _is_token(value: object) -> bool:
    """Whether this is a token's text, or a mapping with it."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_SPECIAL: Final = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_TYPES: Final[dict[str, tuple[str, Callable[[object], bool]]]] = {
    "tokenizer_class": ("a name", lambda value: isinstance(value, str)),
    "model_max_length": ("a number", _is_number),
    "add_prefix_space": ("true, false", lambda value: isinstance(value, bool)),
    "added_tokens_decoder": ("tokens by id", lambda value: isinstance(value, Mapping)),
    **{f"{name}_token": ("a token", _is_token) for name in _SPECIAL},
}
