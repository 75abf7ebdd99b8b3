"""Words and the tokens that belong to them."""

import numpy as np
import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st

from neuneu.scoring.corpus import token_words, word_spans, word_sums

TEXTS = st.text(
    st.one_of(
        st.sampled_from(" \n\t\r\x0b\x1c\x85\xa0\u2003\u3000\u200b"),
        st.sampled_from("aThe,.🙂é你ß\u0301"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=30)


@given(TEXTS)
def test_word_spans_are_the_words_of_str_split(text):
    spans = word_spans(text)
    assert [text[start:end] for start, end in spans] == text.split()
    assert spans.shape == (len(text.split()), 2)


@pytest.mark.parametrize(("max_words", "words"), [(0, []), (2, ["a", "bc"]), (9, ["a", "bc", "d"])])
def test_word_spans_stop_at_max_words(max_words, words):
    text = " a bc\nd "
    assert [text[s:e] for s, e in word_spans(text, max_words=max_words)] == words


def test_token_words_hand_worked():
    #       0123456789
    text = " ab  cd e "
    tokens = [
        (0, 1),  # space before the first word: to the next, 0
        (1, 2),
        (2, 3),
        (3, 5),  # pure white space: to the next, 1
        (4, 7),  # space and word
        (6, 9),  # spans "d e": last non-space character is e
        (9, 10),  # white space after the last word: to the last
        (5, 5),  # empty, at the start of a word: to it
        (3, 3),  # empty, at the end of a word: to the next
        (10, 10),
    ]
    assert token_words(word_spans(text), tokens).tolist() == [0, 0, 0, 1, 1, 2, 2, 1, 1, 2]


def test_token_words_of_text_without_words_raises():
    with pytest.raises(ValueError, match="at least one word, found 0"):
        token_words(word_spans("  "), [(0, 1)])


def _quadratic(text, offsets):
    """The rule, a token and a character at a time."""
    spans = [tuple(span) for span in word_spans(text)]
    result = []
    for start, end in offsets:
        solid = [i for i in range(start, end) if not text[i].isspace()]
        if solid:
            result.append(next(w for w, (s, e) in enumerate(spans) if s <= solid[-1] < e))
        else:
            later = [w for w, (s, _) in enumerate(spans) if s >= end]
            result.append(later[0] if later else len(spans) - 1)
    return result


@given(TEXTS.filter(lambda text: text.strip() != ""), SPANS)
def test_token_words_equal_the_quadratic_rule(text, pieces):
    offsets = [(s, min(s + n, len(text))) for s, n in pieces if s <= len(text)]
    # An empty token inside a word belongs to that word, which the plain rule does not see.
    offsets = [(s, e) for s, e in offsets if e > s or s == len(text) or text[s].isspace()]
    assert token_words(word_spans(text), offsets).tolist() == _quadratic(text, offsets)


@pytest.fixture(
    scope="module",
    params=[
        "byte_level",
        "byte_level_untrimmed",
        "metaspace",
        "across_words",
        pytest.param("shared", marks=pytest.mark.shared),
    ],
)
def tokenizer(request):
    if request.param == "shared":
        from transformers import PreTrainedTokenizerFast

        folder = request.getfixturevalue("shared") / "tokenizers"
        return PreTrainedTokenizerFast(tokenizer_file=str(sorted(folder.glob("*.json"))[0]))
    if request.param == "byte_level_untrimmed":
        return tiny_tokenizers.byte_level(trim_offsets=False)
    return getattr(tiny_tokenizers, request.param)()


@given(
    text=st.one_of(TEXTS, st.sampled_from(tiny_tokenizers.TEXT)).filter(
        lambda text: text.strip() != ""
    )
)
def test_word_losses_sum_to_the_total_for_any_fast_tokenizer(tokenizer, text):
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoding["offset_mapping"]
    losses = np.random.default_rng(0).exponential(3.0, len(offsets))
    words = token_words(word_spans(text), offsets)
    sums = word_sums(losses, words, n_words=len(text.split()))
    assert sums.shape == (len(text.split()),)
    np.testing.assert_allclose(sums.sum(), losses.sum(), rtol=1e-12)
    solid = [i for i, (s, e) in enumerate(offsets) if text[s:e].strip()]
    assert [int(words[i]) for i in solid] == _quadratic(text, [offsets[i] for i in solid])
    assert (np.diff(words) >= 0).all()


def test_word_sums_gives_zero_to_a_word_without_a_token():
    assert word_sums([1.0, 2.0, 4.0], np.array([0, 0, 2]), n_words=4).tolist() == [3, 0, 4, 0]
