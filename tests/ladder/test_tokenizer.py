from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from neuneu.core.errors import UserError
from neuneu.ladder.text import TextConfig, TextFolder, prepare_text
from neuneu.ladder.tokenizer import tokenize_recipe, train_tokenizer


@pytest.fixture
def text(write_corpus: Callable[..., Path], tmp_path: Path) -> TextFolder:
    return prepare_text(TextConfig(path=write_corpus()), tmp_path / "text")


def test_any_text_survives_a_round_trip(text: TextFolder, tmp_path: Path) -> None:
    folder = train_tokenizer(text, 300, tmp_path / "tokenizer", context_length=64)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    for string in ["the cat", " two  spaces\n\ttab", "Grüße, 世界 🙂", "", "\x00\x7f"]:
        assert tokenizer.decode(tokenizer.encode(string)) == string
    assert len(tokenizer) == 300
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.model_max_length == 64


def test_training_twice_gives_the_same_file(text: TextFolder, tmp_path: Path) -> None:
    first = train_tokenizer(text, 310, tmp_path / "a", context_length=64)
    second = train_tokenizer(text, 310, tmp_path / "b", context_length=64)
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()


def test_another_vocabulary_size_in_the_folder_is_refused(text: TextFolder, tmp_path: Path) -> None:
    train_tokenizer(text, 300, tmp_path / "a", context_length=64)
    with pytest.raises(UserError, match="expected a tokenizer of 310 tokens, found one of 300"):
        train_tokenizer(text, 310, tmp_path / "a", context_length=64)


def test_vocabulary_that_the_text_cannot_fill_is_refused(text: TextFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"yields \d+ tokens, not 50000"):
        train_tokenizer(text, 50_000, tmp_path / "a", context_length=64)
    assert not (tmp_path / "a").exists()


def test_stream_holds_every_document_after_an_end_of_text(text: TextFolder, tmp_path: Path) -> None:
    folder = train_tokenizer(text, 300, tmp_path / "tokenizer", context_length=64)
    recipe = text.recipes[0]
    stream = np.load(tokenize_recipe(text.train(recipe), folder, tmp_path / "t.npy"))
    documents = pq.read_table(text.train(recipe))["text"].to_pylist()
    assert stream.dtype == np.uint16
    assert stream[0] == 0
    pieces = np.split(stream, np.flatnonzero(stream == 0))[1:]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert [tokenizer.decode(piece[1:].tolist()) for piece in pieces] == documents
