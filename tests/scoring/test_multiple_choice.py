"""Requests to prompts, and log-probabilities to accuracies, as lm-evaluation-harness has them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import processors

from neuneu.core.errors import CheckpointError, DataError, UserError
from neuneu.scoring.multiple_choice import Request, Task, accuracies
from neuneu.scoring.prompts import encode_requests

PREFIX = 1


def request(context, continuation, *, doc=0, choice=0, label=0):
    return Request(
        task="t", doc=doc, choice=choice, context=context, continuation=continuation, label=label
    )


def task(documents, *, form="rc"):
    """A task of documents (label, continuations)."""
    return Task(
        name="t",
        base_task="t",
        format=form,
        split="",
        group="",
        num_fewshot=0,
        chance=0.5,
        requests=tuple(
            request("c", text, doc=doc, choice=choice, label=label)
            for doc, (label, texts) in enumerate(documents)
            for choice, text in enumerate(texts)
        ),
    )


def plain(encoded):
    """Encoded requests as what can be compared: (token ids, how many are the continuation's)."""
    return [(encoded[i].tolist(), int(encoded.last[i])) for i in range(len(encoded))]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizers.byte_level()


def _one_by_one(tokenizer, context, continuation):
    """The harness' rule written plainly: (context ids, continuation ids)."""

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    if context == "":
        return [PREFIX], encode(continuation)
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces > 0:
        continuation = context[-n_spaces:] + continuation
        context = context[:-n_spaces]
    if context == "":
        return [PREFIX], encode(continuation)
    whole = encode(context + continuation)
    head = encode(context)
    return head, whole[len(head) :]


TEXTS = st.text(st.sampled_from("the catsn.'é \n"), max_size=25)


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_encode_requests_equal_the_harness_rule_one_by_one(tokenizer, pairs):
    expected = [_one_by_one(tokenizer, *pair) for pair in pairs]
    assume(all(tail for _, tail in expected))
    encoded = encode_requests(
        [request(*pair) for pair in pairs], tokenizer, prefix_token=PREFIX, max_tokens=1000
    )
    assert plain(encoded) == [([*head, *tail], len(tail)) for head, tail in expected]


def test_encode_requests_splits_at_the_context_not_at_a_merge(tokenizer):
    ids = tokenizer.convert_tokens_to_ids
    encoded = encode_requests(
        [request("the", " the")], tokenizer, prefix_token=PREFIX, max_tokens=9
    )
    assert plain(encoded) == [([ids("the"), ids("Ġthe")], 1)]
    # The space after the context belongs to the continuation's first token.
    moved = encode_requests([request("the ", "the")], tokenizer, prefix_token=PREFIX, max_tokens=9)
    assert plain(moved) == plain(encoded)


def test_encode_requests_puts_the_prefix_token_for_an_empty_context(tokenizer):
    encoded = encode_requests(
        [request("", "the cat"), request("  ", "cat")],
        tokenizer,
        prefix_token=PREFIX,
        max_tokens=99,
    )
    for i, text in enumerate(("the cat", "  cat")):
        expected = [PREFIX, *tokenizer.encode(text, add_special_tokens=False)]
        assert encoded[i].tolist() == expected
    assert (encoded.lengths - encoded.last).tolist() == [1, 1]


def test_encode_requests_cuts_from_the_left(tokenizer):
    pair = request("the dog sat on the mat and the", " cat sat")
    whole = encode_requests([pair], tokenizer, prefix_token=PREFIX, max_tokens=99)
    limit = int(whole.last[0]) + 1
    cut = encode_requests([pair], tokenizer, prefix_token=PREFIX, max_tokens=limit)
    assert plain(cut) == [(whole[0][-limit:].tolist(), limit - 1)]
    with pytest.raises(UserError, match="task t, document 0, choice 0: the continuation has"):
        encode_requests([pair], tokenizer, prefix_token=PREFIX, max_tokens=limit - 1)


def test_encode_requests_refuses_an_empty_continuation(tokenizer):
    with pytest.raises(DataError, match="document 3, choice 0: the continuation '' has no token"):
        encode_requests([request("the", "", doc=3)], tokenizer, prefix_token=0, max_tokens=9)


def test_encode_requests_of_nothing_is_empty(tokenizer):
    assert len(encode_requests([], tokenizer, prefix_token=0, max_tokens=9)) == 0


def test_encode_requests_puts_the_bos_token_where_the_tokenizer_does():
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    requests = [request("the", " cat"), request("", "the")]
    encoded = encode_requests(requests, tokenizer, prefix_token=PREFIX, max_tokens=99)
    ids = tokenizer.convert_tokens_to_ids
    bos, cat = tokenizer.bos_token_id, tokenizer.encode(" cat", add_special_tokens=False)
    assert plain(encoded) == [
        ([bos, ids("the"), *cat], len(cat)),
        ([PREFIX, ids("the")], 1),
    ]
    # It is the first to go when the prompt is too long, as in the harness.
    limit = len(cat) + 1
    cut = encode_requests(requests[:1], tokenizer, prefix_token=PREFIX, max_tokens=limit)
    assert plain(cut) == [([ids("the"), *cat], len(cat))]


def test_accuracies_hand_worked():
    # Characters a choice, without the space before it: 1, 4 | 2, 2 | 1, 2, 3.
    scored = task([(0, [" a", " abcd"]), (1, [" ab", "ab"]), (2, [" a", " ab", " abc"])])
    sums = np.array([-2.0, -4.0, -3.0, -3.0, -1.0, -2.0, -2.4])
    acc, acc_norm, acc_bytes = accuracies(scored, sums)
    # acc: right; a tie goes to the first, wrong; wrong.
    assert (acc.metric, acc.n_items) == ("acc", 3)
    assert acc.value == pytest.approx(1 / 3)
    assert acc.stderr == pytest.approx(math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2 / 3))
    # acc_norm: -2 against -1, wrong; tie, wrong; -1, -1, -0.8, right.
    assert (acc_norm.metric, acc_norm.value) == ("acc_norm", pytest.approx(1 / 3))
    assert (acc_bytes.metric, acc_bytes.value) == ("acc_bytes", pytest.approx(1 / 3))


def test_accuracies_a_byte_and_a_character_differ_where_text_is_not_ascii():
    # 2 characters of 4 bytes against 3 of 3: -1.8 / 2 beats -3 / 3, -1.8 / 4 too; then the
    # other way round: -2.4 / 2 loses to -3 / 3, -2.4 / 4 beats it.
    scored = task([(0, [" éé", " abc"]), (0, [" éé", " abc"])])
    acc, acc_norm, acc_bytes = accuracies(scored, np.array([-1.8, -3.0, -2.4, -3.0]))
    assert (acc.value, acc_norm.value, acc_bytes.value) == (1.0, 0.5, 1.0)


def test_accuracies_measure_the_choice_text_where_it_is_given():
    scored = task([(0, [" ab", " abcd"])])
    sums = np.array([-2.0, -3.0])
    assert [score.value for score in accuracies(scored, sums)] == [1.0, 0.0, 0.0]
    with_text = tuple(replace(r, choice_text="aé") for r in scored.requests)
    values = [s.value for s in accuracies(replace(scored, requests=with_text), sums)]
    assert values == [1.0, 1.0, 1.0]


def test_accuracies_an_empty_choice_never_wins_by_density():
    sums = np.array([-0.1, -9.0])
    values = [score.value for score in accuracies(task([(0, [" ", " abc"])]), sums)]
    assert values == [1.0, 0.0, 0.0]


def test_accuracies_drop_one_space_only():
    # 2 and 3 characters: -1.2 / 2 = -0.6 loses to -1.5 / 3 = -0.5; counting both spaces it wins.
    _, acc_norm, _ = accuracies(task([(1, ["  a", " abc"])]), np.array([-1.2, -1.5]))
    assert acc_norm.value == 1.0


def test_accuracies_a_tie_is_wrong_in_a_minimal_pair_only():
    sums = np.array([-2.0, -2.0, -1.0, -2.0])
    documents = [(0, ["ab", "ba"]), (0, ["ab", "ba"])]
    assert accuracies(task(documents), sums)[0].value == 1.0
    assert accuracies(task(documents, form="minimal_pair"), sums)[0].value == 0.5


def test_accuracies_of_one_document_have_no_stderr():
    assert math.isnan(accuracies(task([(0, ["a", "b"])]), np.array([-1.0, -2.0]))[0].stderr)


def test_accuracies_of_a_broken_checkpoint_raise():
    scored = task([(0, ["a", "b"])])
    with pytest.raises(CheckpointError, match="document 0, choice 1: the log-probability is nan"):
        accuracies(scored, np.array([-1.0, np.nan]))
    with pytest.raises(ValueError, match="expected 2 sums, one a request, found 1"):
        accuracies(scored, np.array([-1.0]))
