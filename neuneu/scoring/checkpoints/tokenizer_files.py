"""The tokenizer of a checkpoint by its files: whether it can be used, and a hash that names it.

Files are given as contents by name, so that checkpoints on disk and elsewhere are handled alike.
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
"""The files that define a tokenizer."""

_HASHED_SETTINGS: Final = ("tokenizer_class", "bos_token", "eos_token", "add_prefix_space")
_SPECIAL: Final = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_TYPES: Final[dict[str, tuple[str, Callable[[object], bool]]]] = {
    "tokenizer_class": ("a name", lambda value: isinstance(value, str)),
    "model_max_length": ("a number", lambda value: type(value) in (int, float)),
    "add_prefix_space": ("true, false", lambda value: isinstance(value, bool)),
    "added_tokens_decoder": ("tokens by id", lambda value: isinstance(value, Mapping)),
    **dict.fromkeys(
        (f"{name}_token" for name in _SPECIAL),
        ("a token", lambda value: isinstance(_token_text(value), str)),
    ),
}


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder's tokenizer files by name.

    Raises:
        CheckpointError: a file that is not regular, or cannot be read.
    """
    present = [name for name in TOKENIZER_FILES if os.path.lexists(folder / name)]
    return {name: read_regular(folder / name) for name in present}


def check_vocabulary(files: Mapping[str, bytes], *, vocab_size: int) -> None:
    """Refuse a tokenizer that cannot be used, or that yields tokens unknown to the model.

    Args:
        files: contents of the tokenizer's files by name.
        vocab_size: vocabulary size of the model.

    Raises:
        CheckpointError: what is wrong with it.
    """
    if "tokenizer.json" not in files:
        raise CheckpointError(
            "expected tokenizer.json, found none; save the tokenizer beside the weights."
        )
    ids = _token_ids(files["tokenizer.json"])
    settings = _read_settings(files)
    names = [_token_text(settings.get(key)) for key in ("bos_token", "eos_token")]
    # Prompts begin with one of them; if the vocabulary lacks it, it is added at the end.
    added = {name for name in names if isinstance(name, str)} - ids.keys()
    largest = max(ids.values(), default=-1) + len(added)
    if largest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has token id {largest}, the model a vocabulary of {vocab_size}; "
            "expected the tokenizer that the model was trained with."
        )


def hash_tokenizer(files: Mapping[str, bytes]) -> str:
    """Return sixteen hex digits that identify a tokenizer by its vocabulary and special tokens.

    Args:
        files: contents by name; only `TOKENIZER_FILES` count.

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
    from tokenizers import Tokenizer

    parse_json(content, "tokenizer.json")
    try:
        return Tokenizer.from_buffer(content).get_vocab(with_added_tokens=True)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of native code is no Exception
        raise CheckpointError(f"tokenizer.json: cannot be loaded ({one_line(error)}).") from error


def _read_settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`, empty if there is none."""
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


def _token_text(token: object) -> object:
    """Return the text of a token, which may be a mapping that holds it."""
    return token.get("content") if isinstance(token, Mapping) else token
