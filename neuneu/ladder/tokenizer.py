"""The tokenizer of a suite (byte-level BPE) and the token stream of each recipe."""

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, UserError
from neuneu.core.files import atomic_path
from neuneu.ladder.folders import atomic_folder
from neuneu.ladder.text import TextFolder

END_OF_TEXT: Final = "<|endoftext|>"
# Every document starts with the end-of-text token, so that models learn it as a prefix.
END_OF_TEXT_ID: Final = 0
MIN_VOCAB_SIZE: Final = 257
_SAMPLE_BYTES: Final = 4_000_000


def train_tokenizer(text: TextFolder, vocab_size: int, out: Path, *, context_length: int) -> Path:
    """Train byte-level BPE on a sample of all recipes, unless `out` exists.

    Args:
        text: Prepared text, of which only the training files are read.
        vocab_size: Number of tokens, including the 256 bytes and `<|endoftext|>`.
        out: Hugging Face tokenizer folder to write.
        context_length: Maximum input length in tokens, recorded in the tokenizer.

    Raises:
        UserError: `out` has another vocabulary size, or the text is too short for `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if out.exists():
        found = len(load_tokenizer(out))
        if found != vocab_size:
            raise UserError(
                f"{out}: expected a tokenizer of {vocab_size} tokens, found one of {found}; "
                "use another output folder."
            )
        return out
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(text), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise UserError(
            f"vocab_size: the text yields {tokenizer.get_vocab_size()} tokens, not {vocab_size}; "
            "lower vocab_size or provide more text."
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
    with atomic_folder(out) as temporary:
        fast.save_pretrained(str(temporary))
        # transformers 5 writes a class name that earlier versions do not know.
        config_path = temporary / "tokenizer_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer of a folder."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)


def tokenize_recipe(train_text: Path, tokenizer: Path, out: Path) -> Path:
    """Write the documents of a recipe as one stream of token ids, unless `out` exists.

    Args:
        train_text: Parquet file with a column `text`.
        tokenizer: Tokenizer folder.
        out: .npy file to write, (tokens,) uint16, or uint32 for a vocabulary above 65,536; an
            end-of-text token precedes each document.
    """
    if out.exists():
        return out
    backend = load_tokenizer(tokenizer).backend_tokenizer
    dtype = np.uint16 if backend.get_vocab_size() <= 2**16 else np.uint32
    texts = pq.read_table(train_text, columns=["text"])["text"].to_pylist()
    parts: list[npt.NDArray[Any]] = []
    for start in range(0, len(texts), 256):
        some = texts[start : start + 256]
        for encoding in backend.encode_batch(some, add_special_tokens=False):
            parts.append(np.array([END_OF_TEXT_ID, *encoding.ids], dtype=dtype))
    if not parts:
        raise DataError(f"{train_text}: expected documents to train on, found none.")
    # np.save appends .npy to other names, so pass an open file.
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(parts))
    return out


def _sample(text: TextFolder) -> Iterator[str]:
    """Yield documents of all recipes alternately until the sample is large enough."""
    tables = [pq.read_table(text.train(recipe), columns=["text"]) for recipe in text.recipes]
    total = 0
    for row in zip_longest(*(table["text"].to_pylist() for table in tables)):
        for document in row:
            if document is not None and total < _SAMPLE_BYTES:
                total += len(document.encode())
                yield document
