"""Texts that begin alike: the same token ids as one by one, for less work."""

import pytest
import tiny_tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from neuneu.scoring import prompts
from neuneu.scoring.prompts import encode_pairs
from neuneu.scoring.tasks import load_tasks


def prepending():
    """Puts a character before every text."""
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    return tokenizer


def by_lines():
    """Divides text, but not at spaces."""
    tokenizer = tiny_tokenizers.across_words()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    return tokenizer


def with_a_phrase():
    """Has a token of its own for three words."""
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.add_tokens(["the cat sat"])
    return tokenizer


MAKERS = {
    "byte level": tiny_tokenizers.byte_level,
    "byte level, whole offsets": lambda: tiny_tokenizers.byte_level(trim_offsets=False),
    "metaspace": tiny_tokenizers.metaspace,
    "merges across words": tiny_tokenizers.across_words,
    "divides at lines": by_lines,
    "prepends": prepending,
    "added phrase": with_a_phrase,
}
WORDS = [
    "the",
    " cat",
    " sat",
    " on",
    "  the",
    " mat",
    ".",
    "\n\n",
    "é",
    "It's",
    " 3.5",
    "🙂",
    " a",
]
PIECES = st.lists(st.sampled_from(WORDS), max_size=30).map("".join)
# Long enough to be cut, most of them.
BEGINNINGS = st.lists(st.sampled_from(WORDS), min_size=60, max_size=160).map("".join)


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, **settings):
        self.characters += sum(map(len, texts))
        return self._tokenizer(texts, **settings)


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request):
    return MAKERS[request.param]()


def one_by_one(tokenizer, pairs):
    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False) if text else []

    return [(encode(context), encode(context + rest)) for context, rest in pairs]


def shared(pairs, tokenizer):
    return [(context.tolist(), whole.tolist()) for context, whole in encode_pairs(pairs, tokenizer)]


@given(
    beginning=BEGINNINGS,
    ends=st.lists(
        st.tuples(PIECES, st.lists(PIECES, min_size=1, max_size=3)), min_size=1, max_size=4
    ),
)
def test_pairs_that_begin_alike_are_tokenised_as_if_alone(tokenizer, beginning, ends):
    pairs = [(beginning + end, rest) for end, rests in ends for rest in rests]
    assert shared(pairs, tokenizer) == one_by_one(tokenizer, pairs)


def questions(n):
    examples = "".join(
        f"Question: where did the cat number {i} sat on the mat and the dog\nAnswer: a mat\n\n"
        for i in range(20)
    )
    contexts = [
        examples
        + f"Question: which of the {i} cats sat on the mat of the lazy dog and " * 3
        + "\nAnswer:"
        for i in range(n)
    ]
    return [(context, f" {choice}") for context in contexts for choice in ("mat", "dog", "a cat")]


def test_a_token_may_reach_from_the_context_into_the_choice():
    pairs = [(context + "the cat", " sat") for context, _ in questions(2)]
    assert shared(pairs, with_a_phrase()) == one_by_one(with_a_phrase(), pairs)


@pytest.mark.parametrize("name", ["byte level", "byte level, whole offsets", "metaspace"])
def test_what_texts_begin_with_is_read_once(name):
    tokenizer = Counting(MAKERS[name]())
    pairs = questions(30)
    assert shared(pairs, tokenizer) == one_by_one(tokenizer, pairs)
    assert tokenizer.characters < 0.2 * sum(len(context + rest) for context, rest in pairs)


@pytest.mark.parametrize("name", ["merges across words", "divides at lines", "added phrase"])
def test_other_tokenizers_read_texts_whole(name):
    tokenizer = Counting(MAKERS[name]())
    pairs = questions(3)
    assert shared(pairs, tokenizer) == one_by_one(tokenizer, pairs)
    texts = {text for context, rest in pairs for text in (context, context + rest)}
    assert tokenizer.characters == sum(map(len, texts))


def test_texts_are_tokenised_in_batches(monkeypatch):
    monkeypatch.setattr(prompts, "_BATCH", 4)
    tokenizer = tiny_tokenizers.byte_level()
    pairs = questions(5)
    assert shared(pairs, tokenizer) == one_by_one(tokenizer, pairs)


@pytest.mark.shared
def test_a_real_tokenizer_and_real_prompts_give_the_same_ids(shared):
    from transformers import PreTrainedTokenizerFast

    path = shared / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    tasks = load_tasks(
        [
            f"mmlu/abstract_algebra:{shared / 'tasks' / 'mmlu.parquet'}",
            f"mmlu@mc_5shot/high_school_us_history:{shared / 'tasks' / 'mmlu.parquet'}",
            f"olmes/hellaswag_rc_5shot:{shared / 'tasks' / 'olmes'}",
        ],
        limit=15,
        seed=0,
        text=None,
    )
    for task in tasks:
        pairs = [(request.context, request.continuation) for request in task.requests]
        found = encode_pairs(pairs, tokenizer)
        expected = one_by_one(tokenizer, pairs)
        assert [(c.tolist(), w.tolist()) for c, w in found] == expected
