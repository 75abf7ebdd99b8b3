"""Tasks made from text."""

import contextlib
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuneu.core.errors import DataError
from neuneu.scoring.tasks import generated, load_tasks
from neuneu.scoring.tasks.generated import GENERATED_TASKS, MIN_DOCUMENTS
from neuneu.scoring.tasks.phrases import Line, Phrases, UnfitDrawError

NOUNS = ["model", "token", "loss", "paper", "river", "engine", "answer", "island", "owl", "error"]
NOUNS += [first + last for first in ("ba", "de", "fi", "lu") for last in ("ran", "met", "tor")]
VERBS = ["reads", "finds", "writes", "keeps", "moves"]
ADJECTIVES = ["old", "large", "open", "early", "quiet", "empty"]


def sentence(rng):
    """Words enough for every task: articles, plurals, agreement, function words, capitals."""
    adjective = rng.choice(ADJECTIVES)
    article = "an" if adjective[0] in "aeiou" else "a"
    noun = rng.choice(NOUNS)
    subject = rng.choice(
        [
            f"{article} {adjective} {noun} {rng.choice(['is', 'was'])}",
            f"these {adjective} {noun}s {rng.choice(['are', 'were', 'have'])}",
            f"this {noun} {rng.choice(VERBS)}",
            f"Every {noun} {rng.choice(VERBS)}",
        ]
    )
    rest = rng.choices(
        [
            "of",
            "to",
            "in",
            "for",
            "and",
            "by",
            "on",
            "as",
            *ADJECTIVES,
            *NOUNS,
            *[noun + "s" for noun in NOUNS],
        ],
        k=8,
    )
    start = rng.choice(["So", "And", "While", "Since"])
    return f"{start} {subject} {' '.join(rest)} Then {rng.choice(NOUNS)} {rng.choice(VERBS)} it."


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    documents = ["\n".join(sentence(rng) for _ in range(40)) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "tasks.parquet"
    pq.write_table(pa.table({"source": ["s"] * 30, "doc_id": ["d"] * 30, "text": documents}), path)
    return path


@pytest.fixture(scope="module")
def tasks(text):
    return load_tasks(["generated"], limit=None, seed=0, text=text)


def test_every_task_is_made_and_well_formed(tasks):
    assert [task.name for task in tasks] == list(GENERATED_TASKS)
    assert len(tasks) == 14
    for task in tasks:
        assert task.n_items >= MIN_DOCUMENTS
        by_doc: dict[int, list] = {}
        for request in task.requests:
            by_doc.setdefault(request.doc, []).append(request)
        contents = set()
        for requests in by_doc.values():
            assert [r.choice for r in requests] == list(range(len(requests)))
            assert len({(r.context, r.label) for r in requests}) == 1
            assert len({r.continuation for r in requests}) == len(requests)
            assert 0 <= requests[0].label < len(requests)
            contents.add((requests[0].context, *(r.continuation for r in requests)))
        assert len(contents) == len(by_doc)
        assert {len(requests) for requests in by_doc.values()} == {round(1 / task.chance)}
        assert (task.format == "minimal_pair") == (task.requests[0].context == "")


def test_labels_are_at_every_place_except_in_minimal_pairs(tasks):
    for task in tasks:
        places = Counter(r.label for r in task.requests if r.choice == r.label)
        if task.format == "minimal_pair":
            assert set(places) == {0}
        else:
            assert min(places.values()) > 0.6 * task.n_items * task.chance
            assert len(places) == round(1 / task.chance)


def test_the_same_seed_gives_the_same_documents_whatever_else_is_made(text, tasks):
    alone = load_tasks(["generated/generated_recall"], limit=None, seed=0, text=text)
    assert alone == [task for task in tasks if task.name == "generated_recall"]
    other = load_tasks(["generated/generated_recall"], limit=None, seed=1, text=text)
    assert other[0].requests != alone[0].requests


def test_mirror_images_are_as_frequent(tasks):
    (article,) = [task for task in tasks if task.name == "generated_article"]
    good = [r.continuation.split() for r in article.requests if r.choice == 0]
    bad = [r.continuation.split() for r in article.requests if r.choice == 1]
    right = Counter(
        next(g for g, b in zip(*pair, strict=True) if g != b)
        for pair in zip(good, bad, strict=True)
    )
    assert set(right) == {"a", "an"}
    assert right["a"] == right["an"]


def test_text_that_is_too_small_names_the_task(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("a few words only\n" * 3)
    with pytest.raises(DataError, match=r"generated_word_order: expected at least 50 .* found 0"):
        load_tasks(["generated"], limit=None, seed=0, text=path)
    (addition,) = load_tasks(["generated/*addition"], limit=60, seed=0, text=path)
    assert addition.n_items == 60


def draw(make, *lines):
    phrases = Phrases(Line(i, tuple(line.split())) for i, line in enumerate(lines))
    rng = random.Random(0)
    drawn = set()
    for _ in range(400):
        with contextlib.suppress(UnfitDrawError):
            drawn.add(make(phrases, rng))
    return drawn


def test_word_swap_swaps_inner_neighbours():
    assert {item.choices[1] for item in draw(generated.word_swap, "ab cd ef gh ij kl")} == {
        "ab ef cd gh ij kl",
        "ab cd gh ef ij kl",
        "ab cd ef ij gh kl",
    }


def test_plural_takes_and_gives_an_s_where_both_words_are_known():
    drawn = draw(
        generated.plural, "we read the cats book", "we saw the owls run", "some cat ran off"
    )
    assert drawn == {
        generated.Item("", ("we read the cats book", "we read the cat book"), ("s", "no s"))
    }


def test_agreement_flips_the_verb_with_context_on_both_sides():
    drawn = draw(generated.agreement, "he said that the cat is on the mat", "is it", "why are")
    assert drawn == {
        generated.Item("", ("that the cat is on the", "that the cat are on the"), ("is", "are"))
    }


def test_bracket_closes_what_is_open():
    pairs = {"(": ")", "[": "]", "{": "}"}
    drawn = draw(generated.bracket, "some plain words here")
    assert len(drawn) == 9
    for item in drawn:
        (opening,) = [character for character in item.context if character in pairs]
        assert item.choices[0] == pairs[opening]
        assert set(item.choices) == {")", "]", "}"}


@pytest.mark.parametrize("make", [generated.counting, generated.addition, generated.comparison])
def test_number_items_are_true(make):
    for item in draw(make):
        if make is generated.counting:
            numbers = [int(word) for word in item.context.split()]
            assert int(item.choices[0]) == numbers[-1] + 1
            assert numbers == list(range(numbers[0], numbers[0] + 4))
        elif make is generated.addition:
            first, plus, second, equals = item.context.split()
            assert (plus, equals) == ("+", "=")
            assert [int(first) + int(second) == int(choice) for choice in item.choices] == [
                True,
                False,
                False,
                False,
            ]
        else:
            for choice, truth in zip(item.choices, (True, False), strict=True):
                left, sign, right = choice.split()
                assert (int(left) < int(right) if sign == "<" else int(left) > int(right)) is truth


def test_alike_words_are_near_in_frequency_on_both_sides():
    words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(40)]
    lines = [" ".join([word] * (41 - i)) + " end" for i, word in enumerate(words)]
    phrases = Phrases(Line(0, tuple(line.split())) for line in lines)
    rng = random.Random(0)
    # Rank 0 is "end" (40 times, as often as rank 1), so `words[i]` has about rank i + 1.
    for word in (words[3], words[-3]):
        with pytest.raises(UnfitDrawError):
            phrases.alike(rng, word, 3, besides=set())
    near = set(words[4:36]) - {words[20], words[21]}
    for _ in range(50):
        drawn = phrases.alike(rng, words[20], 3, besides={words[21]})
        assert set(drawn) <= near


def test_phrases_do_not_depend_on_the_order_of_documents():
    documents = [f"document {i} has some words" for i in range(9)]
    first = Phrases.from_documents(documents, seed=3)
    assert first.lines == Phrases.from_documents(documents[::-1], seed=3).lines


@pytest.mark.shared
def test_real_text_gives_every_task(shared):
    path = shared / "corpus" / "english.parquet"
    assert len(load_tasks(["generated"], limit=60, seed=0, text=path)) == 14
