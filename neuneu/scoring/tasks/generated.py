"""Tasks made from held-out text, for models too small for published benchmarks.

Fourteen tasks with 2, 3 or 4 choices and prompts of about 5 to 20 tokens. Models learn some within
a million training tokens (word order, casing), some later (agreement, recall), and some should stay
at chance (addition, comparison). The documents of a task depend only on the text, the seed and the
task.

Each task is one function that makes one item per call, or raises `UnfitDrawError`. Where word
frequencies alone could give away a choice, correct answers are drawn evenly from all answers, or
the wrong ones are matched in frequency, so that a model that ignores the context stays near chance.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuneu.core.errors import DataError
from neuneu.scoring.corpus import read_documents
from neuneu.scoring.multiple_choice import Request, Task, TaskFormat
from neuneu.scoring.tasks.phrases import Phrases, UnfitDrawError, is_plain, require

N_DOCUMENTS: Final = 400
MIN_DOCUMENTS: Final = 50
_MAX_DRAWS: Final = 40_000
_OPPOSITES: Final = (("is", "are"), ("was", "were"), ("has", "have"), ("this", "these"))
_AGREEMENT: Final = dict(_OPPOSITES) | {second: first for first, second in _OPPOSITES}
_ARTICLES: Final = {"a": "an", "an": "a"}
_FUNCTION_WORDS: Final = ("of", "to", "in", "for", "and", "by", "on", "as")
_BRACKETS: Final = ("()", "[]", "{}")


@dataclass(frozen=True, slots=True)
class Item:
    """A context, possibly empty, and its continuations, the correct one first.

    `kinds` is set for items that have mirror images, such as one where `a` is correct and one where
    `an` is: what is correct here, then what is correct there. A task has equally many of each.
    """

    context: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...] | None = None


Make = Callable[[Phrases, random.Random], Item]
_TASKS: dict[str, tuple[Make, TaskFormat, str]] = {}


def _task(form: TaskFormat, group: str) -> Callable[[Make], Make]:
    """Register a function as the maker of the task `generated_<function>`."""

    def register(make: Make) -> Make:
        _TASKS[f"generated_{make.__name__}"] = (make, form, group)
        return make

    return register


def load_generated(text: str | Path, *, seed: int, wanted: Callable[[str], bool]) -> list[Task]:
    """Make tasks of at most `N_DOCUMENTS` documents each from a text.

    Args:
        text: Anything that `corpus.read_documents` reads, held out from the models' training.
        seed: Random seed; each task has its own generator.
        wanted: Whether to make the task of a name.

    Raises:
        DataError: The text cannot be read, or is too small for a task.
    """
    names = [name for name in _TASKS if wanted(name)]
    if not names:
        return []
    phrases = Phrases.from_documents(read_documents(text), seed=seed)
    return [_make_task(name, phrases, seed=seed, text=text) for name in names]


def _make_task(name: str, phrases: Phrases, *, seed: int, text: str | Path) -> Task:
    make, form, group = _TASKS[name]
    rng = random.Random(hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    kept = _mirrored(_draw(make, phrases, rng))
    if len(kept) < MIN_DOCUMENTS:
        raise DataError(
            f"task {name}: expected at least {MIN_DOCUMENTS} documents from {text}, found "
            f"{len(kept)}; provide more text or leave the task out."
        )
    requests = []
    for doc, item in enumerate(kept):
        order = list(range(len(item.choices)))
        if form != "minimal_pair":
            rng.shuffle(order)
        requests += [
            Request(
                task=name,
                doc=doc,
                choice=choice,
                context=item.context,
                continuation=item.choices[original],
                label=order.index(0),
            )
            for choice, original in enumerate(order)
        ]
    return Task(
        name=name,
        base_task=name,
        format=form,
        split="",
        group=group,
        num_fewshot=0,
        chance=sum(1 / len(item.choices) for item in kept) / len(kept),
        requests=tuple(requests),
    )


def _draw(make: Make, phrases: Phrases, rng: random.Random) -> list[Item]:
    """Distinct items in the order drawn, no kind more often than its share of a full task."""
    drawn: dict[Item, None] = {}
    counts: Counter[str] = Counter()
    for _ in range(_MAX_DRAWS):
        if len(drawn) == N_DOCUMENTS:
            break
        try:
            item = make(phrases, rng)
        except UnfitDrawError:
            continue
        if item in drawn:
            continue
        if item.kinds:
            if counts[item.kinds[0]] >= N_DOCUMENTS // len(item.kinds):
                continue
            counts[item.kinds[0]] += 1
        drawn[item] = None
    return list(drawn)


def _mirrored(drawn: list[Item]) -> list[Item]:
    """The items, cut so that each kind is as frequent as its mirror image."""
    counts = Counter(item.kinds[0] for item in drawn if item.kinds)
    taken: Counter[str] = Counter()
    kept = []
    for item in drawn:
        if item.kinds:
            if taken[item.kinds[0]] == min(counts[kind] for kind in item.kinds):
                continue
            taken[item.kinds[0]] += 1
        kept.append(item)
    return kept


@_task("minimal_pair", "order")
def word_order(phrases: Phrases, rng: random.Random) -> Item:
    """A phrase, or the same words shuffled?"""
    words = phrases.sample(rng, 6, max_characters=42).words
    shuffled = list(words)
    rng.shuffle(shuffled)
    return _pair(words, shuffled)


@_task("minimal_pair", "order")
def word_swap(phrases: Phrases, rng: random.Random) -> Item:
    """A phrase, or the same with two neighbours swapped?"""
    words = phrases.sample(rng, 6, max_characters=42).words
    at = rng.randrange(1, len(words) - 2)
    return _pair(words, [*words[:at], words[at + 1], words[at], *words[at + 2 :]])


@_task("minimal_pair", "grammar")
def plural(phrases: Phrases, rng: random.Random) -> Item:
    """A phrase, or the same with an s removed from or added to one of its words?"""
    words = phrases.sample(rng, 5, max_characters=36).words
    at = rng.randrange(1, 5)
    word = words[at]
    with_s = rng.random() < 0.5
    require(is_plain(word) and len(word) >= 4 and word.endswith("s") == with_s)
    other = word[:-1] if with_s else word + "s"
    require(other in phrases.counts)
    kinds = ("s", "no s") if with_s else ("no s", "s")
    return _pair(words, _replaced(words, at, other), kinds=kinds)


@_task("minimal_pair", "form")
def casing(phrases: Phrases, rng: random.Random) -> Item:
    """A phrase with a capitalised word in it, or with that word in lower case?"""
    words = phrases.sample(rng, 5, max_characters=38).words
    capitalised = [i for i in range(1, 5) if words[i].istitle() and words[i].isalpha()]
    require(capitalised)
    at = rng.choice(capitalised)
    return _pair(words, _replaced(words, at, words[at].lower()))


@_task("minimal_pair", "grammar")
def article(phrases: Phrases, rng: random.Random) -> Item:
    """`a` or `an` before this word?"""
    return _flipped(phrases, rng, _ARTICLES)


@_task("minimal_pair", "grammar")
def agreement(phrases: Phrases, rng: random.Random) -> Item:
    """`is` or `are`, `was` or `were`, `has` or `have`, `this` or `these` in this phrase?"""
    return _flipped(phrases, rng, _AGREEMENT)


@_task("cloze", "grammar")
def function_word(phrases: Phrases, rng: random.Random) -> Item:
    """Which of four function words follows the context?"""
    word = rng.choice(_FUNCTION_WORDS)
    line, position = phrases.occurrence(rng, word)
    require(position >= 4)
    context = phrases.cut(line, position - 5, position, max_characters=36)
    others = rng.sample([other for other in _FUNCTION_WORDS if other != word], 3)
    return _after(context.words, (word, *others))


@_task("cloze", "prediction")
def next_word(phrases: Phrases, rng: random.Random) -> Item:
    """Which of four equally frequent words comes next?"""
    *context, word = phrases.sample(rng, 6, max_characters=40).words
    require(is_plain(word))
    return _after(context, (word, *phrases.alike(rng, word, 3, besides=set(context))))


@_task("rc", "prediction")
def continuation(phrases: Phrases, rng: random.Random) -> Item:
    """Which of four endings, three of them from other documents, does a phrase have?"""
    phrase = phrases.sample(rng, 8, max_characters=48)
    ends = [" ".join(phrase.words[5:])]
    documents = {phrase.document}
    for _ in range(30):
        try:
            other = phrases.sample(rng, 3, max_characters=24)
        except UnfitDrawError:
            continue
        if other.document not in documents:
            ends.append(" ".join(other.words))
            documents.add(other.document)
        if len(ends) == 4:
            return _after(phrase.words[:5], ends)
    raise UnfitDrawError


@_task("cloze", "copying")
def recall(phrases: Phrases, rng: random.Random) -> Item:
    """Which of four equally frequent words completes the repetition of a list of words?"""
    (word,) = phrases.sample(rng, 1, max_characters=12).words
    require(is_plain(word))
    alike = phrases.alike(rng, word, 5, besides=set())
    require(sum(map(len, alike)) <= 36)
    listed, others = alike[:2], alike[2:]
    return _after([*listed, word, *listed], (word, *others))


@_task("cloze", "copying")
def bracket(phrases: Phrases, rng: random.Random) -> Item:
    """Which of three brackets closes the open one?"""
    words = phrases.sample(rng, 4, max_characters=28).words
    require(all(map(is_plain, words)))
    opening, closing = rng.choice(_BRACKETS)
    at = rng.randrange(1, 4)
    closings = (closing, *(pair[1] for pair in _BRACKETS if pair[1] != closing))
    return Item(" ".join(_replaced(words, at, opening + words[at])), closings, kinds=closings)


@_task("cloze", "numbers")
def counting(_phrases: Phrases, rng: random.Random) -> Item:
    """Which of four numbers continues the count?"""
    last = rng.randrange(4, 100)
    counted = [str(number) for number in range(last - 3, last + 1)]
    wrong = rng.sample([last - 4, last - 1, last, last + 2, last + 3, last + 10], 3)
    return _after(counted, [str(number) for number in (last + 1, *wrong)])


@_task("rc", "numbers")
def addition(_phrases: Phrases, rng: random.Random) -> Item:
    """Which of four numbers is the sum of two two-digit numbers?"""
    first, second = rng.randrange(10, 90), rng.randrange(10, 90)
    wrong = rng.sample((-11, -10, -9, -2, -1, 1, 2, 9, 10, 11), 3)
    sums = [str(first + second + delta) for delta in (0, *wrong)]
    return _after([str(first), "+", str(second), "="], sums)


@_task("minimal_pair", "numbers")
def comparison(_phrases: Phrases, rng: random.Random) -> Item:
    """Two two-digit numbers and `<` or `>`: which way round?"""
    small, large = sorted(rng.sample(range(10, 100), 2))
    sign = rng.choice("<>")
    right = (str(small), sign, str(large)) if sign == "<" else (str(large), sign, str(small))
    return _pair(right, right[::-1])


def _flipped(phrases: Phrases, rng: random.Random, flips: dict[str, str]) -> Item:
    word = rng.choice(sorted(flips))
    line, position = phrases.occurrence(rng, word)
    start = max(position - 3, 0)
    words = phrases.cut(line, start, position + 3, max_characters=42).words
    at = position - start
    require(at >= 1 and len(words) - at >= 2)
    return _pair(words, _replaced(words, at, flips[word]), kinds=(word, flips[word]))


def _pair(good: Sequence[str], bad: Sequence[str], *, kinds: tuple[str, str] | None = None) -> Item:
    require(list(good) != list(bad))
    return Item("", (" ".join(good), " ".join(bad)), kinds)


def _after(context: Sequence[str], choices: Sequence[str]) -> Item:
    require(len(set(choices)) == len(choices))
    return Item(" ".join(context), tuple(f" {choice}" for choice in choices))


def _replaced(words: Sequence[str], at: int, word: str) -> list[str]:
    return [*words[:at], word, *words[at + 1 :]]


GENERATED_TASKS: Final = tuple(_TASKS)
