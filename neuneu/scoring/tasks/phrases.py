"""Phrases and word counts of a text: the raw material of generated tasks.

A phrase is a sequence of whitespace-separated words within a line, joined by single spaces, so that
prose and program code can both be used.
"""

import hashlib
import random
import zlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

MAX_WORDS: Final = 400_000


class UnfitDrawError(Exception):
    """A random draw from which no item can be made; draw again."""


def require(condition: object) -> None:
    """Give up a draw unless a condition holds."""
    if not condition:
        raise UnfitDrawError


@dataclass(frozen=True)
class Line:
    """The words of a line and the index of its document."""

    document: int
    words: tuple[str, ...]


class Phrases:
    """A sample of the lines of a text, about `MAX_WORDS` words at most."""

    def __init__(self, lines: Iterable[Line]):
        self.lines = [line for line in lines if len(line.words) > 1]
        self.counts = Counter(word for line in self.lines for word in line.words)

    @classmethod
    def from_documents(cls, documents: Iterable[str], *, seed: int) -> "Phrases":
        """Take whole documents in the order of a hash of (seed, text) until there are enough words.

        This order makes the sample cover all sources of a text that lists them one after another.
        """
        keyed = sorted(
            (hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest(), text)
            for text in documents
        )
        lines: list[Line] = []
        n_words = 0
        for index, (_, text) in enumerate(keyed):
            if n_words >= MAX_WORDS:
                break
            for line in text.splitlines():
                words = tuple(line.split()[: MAX_WORDS - n_words])
                lines.append(Line(index, words))
                n_words += len(words)
        return cls(lines)

    def sample(self, rng: random.Random, n_words: int, *, max_characters: int) -> Line:
        """A phrase of `n_words` words from a random line.

        At least two thirds of its words have a letter, and it is at most `max_characters` long,
        which bounds the cost of scoring.

        Raises:
            UnfitDrawError: The line drawn has no such phrase, as in the other methods.
        """
        require(self.lines)
        line = rng.choice(self.lines)
        require(len(line.words) >= n_words)
        start = rng.randrange(len(line.words) - n_words + 1)
        return self.cut(line, start, start + n_words, max_characters=max_characters)

    def cut(self, line: Line, start: int, end: int, *, max_characters: int) -> Line:
        """The phrase `words[start:end]` of a line, under the conditions of `sample`."""
        words = line.words[max(start, 0) : end]
        lettered = sum(any(character.isalpha() for character in word) for word in words)
        require(3 * lettered >= 2 * len(words))
        require(sum(map(len, words)) + len(words) <= max_characters)
        return Line(line.document, words)

    def occurrence(self, rng: random.Random, word: str) -> tuple[Line, int]:
        """A random (line, position) where a word occurs."""
        occurrences = self._occurrences.get(word, [])
        require(occurrences)
        line, position = rng.choice(occurrences)
        return self.lines[line], position

    def alike(self, rng: random.Random, word: str, n: int, *, besides: set[str]) -> list[str]:
        """`n` plain words about as frequent as `word`, none of them `word` or in `besides`.

        There must be enough on both sides: a word at the top of the list would stand out as more
        frequent than all others.
        """
        at = bisect_left(self._ranked, _rank_key(word, self.counts[word]))
        reach = 5 * n
        require(reach <= at < len(self._ranked) - reach)
        nearby = self._ranked[at - reach : at + reach + 1]
        others = [other for _, _, other in nearby if other != word and other not in besides]
        require(len(others) >= n)
        return rng.sample(others, n)

    @cached_property
    def _ranked(self) -> list[tuple[int, int, str]]:
        return sorted(
            _rank_key(word, count) for word, count in self.counts.items() if is_plain(word)
        )

    @cached_property
    def _occurrences(self) -> dict[str, list[tuple[int, int]]]:
        occurrences: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, line in enumerate(self.lines):
            for position, word in enumerate(line.words):
                occurrences[word].append((index, position))
        return occurrences


def is_plain(word: str) -> bool:
    """Whether a word consists of two or more lower-case letters."""
    return len(word) >= 2 and word.isalpha() and word.islower()


def _rank_key(word: str, count: int) -> tuple[int, int, str]:
    # Break ties by a hash: alphabetical order would be a pattern that a model could see.
    return (-count, zlib.crc32(word.encode()), word)
