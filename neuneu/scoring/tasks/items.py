"""The items of the generated tasks: one function a task, one item (or None) a call.

The right choice comes first; `generated.py` shuffles. Where a choice could be had from how
frequent words are, the makers draw the right answer evenly from all answers or match the
frequencies of the wrong ones, so that a model that ignores the context stays near chance.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from neuneu.scoring.tasks.phrases import Phrases, is_plain

_AGREEMENT: Final = {
    "is": "are",
    "are": "is",
    "was": "were",
    "were": "was",
    "has": "have",
    "have": "has",
    "this": "these",
    "these": "this",
}
_ARTICLES: Final = {"a": "an", "an": "a"}
_FUNCTION_WORDS: Final = ("of", "to", "in", "for", "and", "by", "on", "as")
_BRACKETS: Final = ("()", "[]", "{}")


@dataclass(frozen=True, slots=True)
class Item:
    """A context (maybe empty) and its continuations, the right one first.

    `kinds` is set where an item has mirror images, as one in which `a` is right has one in
    which `an` is: what is right here, then what is right there. A task holds as many of each.
    """

    context: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...] | None = None


def word_order(phrases: Phrases, rng: random.Random) -> Item | None:
    """A phrase, or the same words shuffled?"""
    phrase = phrases.sample(rng, 6, max_characters=42)
    if phrase is None:
        return None
    shuffled = list(phrase.words)
    rng.shuffle(shuffled)
    return _pair(phrase.words, shuffled)


def word_swap(phrases: Phrases, rng: random.Random) -> Item | None:
    """A phrase, or the same with two neighbours swapped?"""
    phrase = phrases.sample(rng, 6, max_characters=42)
    if phrase is None:
        return None
    swapped = list(phrase.words)
    at = rng.randrange(1, len(swapped) - 2)
    swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
    return _pair(phrase.words, swapped)


def plural(phrases: Phrases, rng: random.Random) -> Item | None:
    """A phrase, or the same with an s taken from or put to one of its words?"""
    phrase = phrases.sample(rng, 5, max_characters=36)
    if phrase is None:
        return None
    at = rng.randrange(1, 5)
    word = phrase.words[at]
    with_s = rng.random() < 0.5
    if not is_plain(word) or len(word) < 4 or word.endswith("s") != with_s:
        return None
    other = word[:-1] if with_s else word + "s"
    if other not in phrases.counts:
        return None
    kinds = ("s", "no s") if with_s else ("no s", "s")
    return _pair(phrase.words, _replaced(phrase.words, at, other), kinds=kinds)


def casing(phrases: Phrases, rng: random.Random) -> Item | None:
    """A phrase with a capitalised word in it, or with that word in lower case?"""
    phrase = phrases.sample(rng, 5, max_characters=38)
    if phrase is None:
        return None
    capitalised = [
        i for i in range(1, 5) if phrase.words[i].istitle() and phrase.words[i].isalpha()
    ]
    if not capitalised:
        return None
    at = rng.choice(capitalised)
    return _pair(phrase.words, _replaced(phrase.words, at, phrase.words[at].lower()))


def article(phrases: Phrases, rng: random.Random) -> Item | None:
    """`a` or `an` before this word?"""
    return _flipped(phrases, rng, _ARTICLES)


def agreement(phrases: Phrases, rng: random.Random) -> Item | None:
    """`is` or `are`, `was` or `were`, `has` or `have`, `this` or `these` in this phrase?"""
    return _flipped(phrases, rng, _AGREEMENT)


def function_word(phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four function words comes after the context?"""
    word = rng.choice(_FUNCTION_WORDS)
    place = phrases.occurrence(rng, word)
    if place is None or place[1] < 4:
        return None
    line, position = place
    context = phrases.cut(line, position - 5, position, max_characters=36)
    if context is None:
        return None
    others = rng.sample([other for other in _FUNCTION_WORDS if other != word], 3)
    return _after(context.words, (word, *others))


def next_word(phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four words, equally frequent, comes next?"""
    phrase = phrases.sample(rng, 6, max_characters=40)
    if phrase is None or not is_plain(phrase.words[-1]):
        return None
    *context, word = phrase.words
    others = phrases.alike(rng, word, 3, besides=set(context))
    return None if others is None else _after(context, (word, *others))


def continuation(phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four ends, three of them from other documents, does a phrase have?"""
    phrase = phrases.sample(rng, 8, max_characters=48)
    if phrase is None:
        return None
    ends = [" ".join(phrase.words[5:])]
    documents = {phrase.document}
    for _ in range(30):
        other = phrases.sample(rng, 3, max_characters=24)
        if other is not None and other.document not in documents:
            ends.append(" ".join(other.words))
            documents.add(other.document)
        if len(ends) == 4:
            return _after(phrase.words[:5], ends)
    return None


def recall(phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four words, equally frequent, ends the repetition of a list of words?"""
    place = phrases.sample(rng, 1, max_characters=12)
    if place is None or not is_plain(place.words[0]):
        return None
    word = place.words[0]
    alike = phrases.alike(rng, word, 5, besides=set())
    if alike is None or sum(map(len, alike)) > 36:
        return None
    listed, others = alike[:2], alike[2:]
    return _after([*listed, word, *listed], (word, *others))


def bracket(phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of three brackets closes the open one?"""
    phrase = phrases.sample(rng, 4, max_characters=28)
    if phrase is None or not all(map(is_plain, phrase.words)):
        return None
    opening, closing = rng.choice(_BRACKETS)
    at = rng.randrange(1, 4)
    context = " ".join(_replaced(phrase.words, at, opening + phrase.words[at]))
    others = [pair[1] for pair in _BRACKETS if pair[1] != closing]
    return Item(context, (closing, *others), kinds=(closing, *others))


def counting(_phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four numbers goes on counting by one?"""
    last = rng.randrange(4, 100)
    counted = [str(number) for number in range(last - 3, last + 1)]
    wrong = rng.sample([last - 4, last - 1, last, last + 2, last + 3, last + 10], 3)
    return _after(counted, [str(number) for number in (last + 1, *wrong)])


def addition(_phrases: Phrases, rng: random.Random) -> Item | None:
    """Which of four numbers is the sum of two numbers of two digits?"""
    first, second = rng.randrange(10, 90), rng.randrange(10, 90)
    wrong = rng.sample((-11, -10, -9, -2, -1, 1, 2, 9, 10, 11), 3)
    sums = [first + second, *(first + second + delta for delta in wrong)]
    return _after([str(first), "+", str(second), "="], [str(number) for number in sums])


def comparison(_phrases: Phrases, rng: random.Random) -> Item | None:
    """Two numbers of two digits and `<` or `>`: which way round?"""
    small, large = sorted(rng.sample(range(10, 100), 2))
    sign = rng.choice("<>")
    ordered = (small, large) if sign == "<" else (large, small)
    right = (str(ordered[0]), sign, str(ordered[1]))
    return _pair(right, right[::-1])


def _flipped(phrases: Phrases, rng: random.Random, flips: dict[str, str]) -> Item | None:
    word = rng.choice(sorted(flips))
    place = phrases.occurrence(rng, word)
    if place is None:
        return None
    line, position = place
    start = max(position - 3, 0)
    phrase = phrases.cut(line, start, position + 3, max_characters=42)
    if phrase is None or position - start < 1 or len(phrase.words) - (position - start) < 2:
        return None
    flipped = _replaced(phrase.words, position - start, flips[word])
    return _pair(phrase.words, flipped, kinds=(word, flips[word]))


def _pair(
    good: Sequence[str], bad: Sequence[str], *, kinds: tuple[str, str] | None = None
) -> Item | None:
    return Item("", (" ".join(good), " ".join(bad)), kinds) if list(good) != list(bad) else None


def _after(context: Sequence[str], choices: Sequence[str]) -> Item | None:
    if len(set(choices)) < len(choices):
        return None
    return Item(" ".join(context), tuple(f" {choice}" for choice in choices))


def _replaced(words: Sequence[str], at: int, word: str) -> list[str]:
    return [*words[:at], word, *words[at + 1 :]]
