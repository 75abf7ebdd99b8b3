"""The validation corpus: reading, windows, losses."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import CheckpointError, DataError, UserError
from neuneu.scoring.corpus import (
    Corpus,
    encode_corpus,
    load_corpus,
    prefix_token,
    read_documents,
    windows,
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizers.byte_level()


def scored(prompts):
    """The tokens that are scored, one after another."""
    return [t for i in range(len(prompts)) for t in prompts[i][-prompts.last[i] :].tolist()]


def parquet(path, texts):
    table = {"source": ["s"] * len(texts), "doc_id": list(map(str, range(len(texts))))}
    pq.write_table(pa.table({**table, "text": pa.array(texts, pa.large_string())}), path)
    return path


def test_load_corpus_takes_the_first_words_of_documents_in_order(tmp_path):
    path = parquet(tmp_path / "held_out.parquet", ["one two\n", " \n", "three  four five", "six"])
    corpus = load_corpus(path, max_words=4)
    assert corpus.documents == ("one two\n", "three  four")
    assert (corpus.name, corpus.n_words) == ("held_out", 4)
    assert load_corpus(path, max_words=99).documents == ("one two\n", "three  four five", "six")


def test_corpus_hash_depends_on_text_and_division_alone():
    def corpus(*documents, name="a"):
        return Corpus(name=name, documents=documents, n_words=2)

    assert corpus("ab", "c").hash == corpus("ab", "c", name="b").hash
    assert len({corpus("ab", "c").hash, corpus("a", "bc").hash, corpus("ab").hash}) == 3


def test_read_documents_of_a_folder_in_order_of_paths(tmp_path):
    (tmp_path / "b.txt").write_text("naïve\n", encoding="utf-8")
    parquet(tmp_path / "a.parquet", ["x", "y"])
    (tmp_path / "notes.md").write_text("no")
    assert list(read_documents(tmp_path)) == ["x", "y", "naïve\n"]


def test_load_corpus_tells_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_corpus(tmp_path / "none.parquet", max_words=9)
    with pytest.raises(DataError, match=r"expected \.parquet or \.txt files, found none"):
        load_corpus(tmp_path, max_words=9)
    with pytest.raises(DataError, match="found no word"):
        load_corpus(parquet(tmp_path / "empty.parquet", ["", " "]), max_words=9)
    with pytest.raises(DataError, match="row 1: expected text, found None"):
        load_corpus(parquet(tmp_path / "null.parquet", ["a", None]), max_words=9)
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"expected a column 'text', found \['body'\]"):
        load_corpus(tmp_path / "other.parquet", max_words=9)
    (tmp_path / "bad.parquet").write_bytes(b"text")
    with pytest.raises(DataError, match="expected parquet"):
        load_corpus(tmp_path / "bad.parquet", max_words=9)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="expected UTF-8"):
        load_corpus(tmp_path / "bad.txt", max_words=9)
    (tmp_path / "x.csv").touch()
    with pytest.raises(DataError, match=r"found '\.csv'"):
        load_corpus(tmp_path / "x.csv", max_words=9)
    with pytest.raises(UserError, match="max_words: expected at least 1"):
        load_corpus(tmp_path / "bad.txt", max_words=0)


def test_prefix_token_is_bos_else_eos():
    tokenizer = tiny_tokenizers.byte_level()
    assert prefix_token(tokenizer) == tokenizer.bos_token_id == 0
    tokenizer.bos_token = None
    assert prefix_token(tokenizer) == tokenizer.eos_token_id == 1
    tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="expected a bos or eos token"):
        prefix_token(tokenizer)


def test_windows_hand_worked():
    def cut(*ids):
        found = windows(np.array(ids, np.int32), prefix_token=0, max_tokens=4)
        return [(prompt.tolist(), count) for prompt, count in found]

    assert cut(10, 11, 12, 13, 14, 15) == [
        ([0, 10, 11, 12], 3),
        ([11, 12, 13, 14], 2),
        ([13, 14, 15], 1),
    ]
    assert cut(10, 11) == [([0, 10, 11], 2)]


@given(n=st.integers(1, 300), max_tokens=st.integers(2, 70))
def test_windows_score_each_token_once_with_context(n, max_tokens):
    ids = list(range(1, n + 1))
    cut = list(windows(np.array(ids, np.int32), prefix_token=0, max_tokens=max_tokens))
    assert [token for prompt, count in cut for token in prompt[-count:]] == ids
    assert cut[0][0][0] == 0
    for number, (prompt, count) in enumerate(cut):
        assert len(prompt) <= max_tokens
        context = len(prompt) - count
        assert context == (1 if number == 0 else max_tokens // 2)
        # A window repeats the text before the tokens it scores, without a gap.
        assert list(prompt[1:]) == list(range(prompt[0] + 1, prompt[-1] + 1))


@pytest.mark.parametrize("max_tokens", [2, 7, 1000])
def test_losses_of_words_do_not_depend_on_windows(tokenizer, max_tokens):
    corpus = Corpus(name="c", documents=tuple(tiny_tokenizers.TEXT[:3]), n_words=0)
    encoded = encode_corpus(corpus, tokenizer, prefix_token=0, max_tokens=max_tokens)
    # A made-up model whose loss of a token is its id / 64, whatever stands before.
    losses = encoded.losses(np.array(scored(encoded.prompts), np.float32) / -64)
    expected = []
    total = 0.0
    for text in corpus.documents:
        by_word = dict.fromkeys(range(len(text.split())), 0.0)
        enc = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (_, end) in zip(enc["input_ids"], enc["offset_mapping"], strict=True):
            word = max(len((text[:end] + "|").split()) - 1, 0)
            if end and not text[end - 1].isspace():
                word = len(text[:end].split()) - 1
            by_word[min(word, len(by_word) - 1)] += token / 64
            total += token / 64
        expected += by_word.values()
    assert losses.word_losses.dtype == np.float32
    np.testing.assert_allclose(losses.word_losses, expected, rtol=1e-6)
    assert losses.n_tokens == sum(len(tokenizer.encode(t)) for t in corpus.documents)
    assert losses.nats_per_token == pytest.approx(total / losses.n_tokens)
    assert losses.nats_per_word == pytest.approx(total / len(expected))
    n_bytes = sum(len(text.encode()) for text in corpus.documents)
    assert losses.bits_per_byte == pytest.approx(total / math.log(2) / n_bytes)


def test_losses_of_a_uniform_model_are_known(tokenizer):
    corpus = Corpus(name="c", documents=("the cat", "the"), n_words=3)
    encoded = encode_corpus(corpus, tokenizer, prefix_token=0, max_tokens=8)
    assert encoded.n_bytes == 10
    assert encoded.token_words.tolist() == [0, 1, 2]
    uniform = np.full(int(encoded.prompts.last.sum()), -math.log(2), dtype=np.float32)
    losses = encoded.losses(uniform)
    assert losses.bits_per_byte == pytest.approx(3 / 10)
    assert losses.nats_per_word == pytest.approx(math.log(2))


def test_losses_refuse_what_does_not_fit(tokenizer):
    corpus = Corpus(name="c", documents=("the cat",), n_words=2)
    encoded = encode_corpus(corpus, tokenizer, prefix_token=0, max_tokens=8)
    with pytest.raises(CheckpointError, match="corpus token 1: the loss is nan"):
        encoded.losses(np.array([-1.0, np.nan]))
    with pytest.raises(ValueError, match="expected 2 log-probabilities, found 1"):
        encoded.losses(np.array([-1.0]))
    with pytest.raises(UserError, match="at least 2 tokens, found 1"):
        encode_corpus(corpus, tokenizer, prefix_token=0, max_tokens=1)


@pytest.mark.shared
def test_encode_corpus_of_real_text(shared):
    from transformers import PreTrainedTokenizerFast

    path = sorted((shared / "tokenizers").glob("*.json"))[0]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    corpus = load_corpus(shared / "corpus" / "english.parquet", max_words=20_000)
    encoded = encode_corpus(corpus, tokenizer, prefix_token=0, max_tokens=512)
    assert corpus.n_words == encoded.n_words == sum(len(d.split()) for d in corpus.documents)
    assert encoded.prompts.last.sum() == len(encoded.token_words)
    assert tokenizer.decode(scored(encoded.prompts)) == "".join(corpus.documents)
    assert set(encoded.token_words.tolist()) == set(range(corpus.n_words))
