"""Phrases and word counts of a text: the raw material of the generated tasks.

A phrase is a run of whitespace words within a line, joined by single spaces, so that prose and
program code serve alike.
"""

import hashlib
import random
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

MAX_WORDS: Final = 400_000
_PLAIN_MIN_LETTERS: Final = 2


@dataclass(frozen=True)
class Line:
    """The words of a line and the index of its document."""

    document: int
    words: tuple[str, ...]


class Phrases:
    """A sample of a text's lines, at most about `MAX_WORDS` words of it."""

    def __init__(self, lines: Iterable[Line]):
        self.lines = [line for line in lines if len(line.words) > 1]
        self.counts = Counter(word for line in self.lines for word in line.words)

    @classmethod
    def from_documents(cls, documents: Iterable[str], *, seed: int) -> "Phrases":
        """Takes whole documents in the order of a hash of (seed, text), until there is enough.

        The order makes the sample cover all sources of a text that lists them one by one.
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

    def sample(self, rng: random.Random, n_words: int, *, max_characters: int) -> Line | None:
        """A phrase of `n_words` from a random line, or None where this draw holds none.

        At least two thirds of its words have a letter, and it is at most `max_characters` long,
        which bounds what scoring it costs.
        """
        if not self.lines:
            return None
        line = rng.choice(self.lines)
        if len(line.words) < n_words:
            return None
        start = rng.randrange(len(line.words) - n_words + 1)
        return self.cut(line, start, start + n_words, max_characters=max_characters)

    def cut(self, line: Line, start: int, end: int, *, max_characters: int) -> Line | None:
        """The phrase `words[start:end]` of a line, or None where it breaks `sample`'s rule."""
        words = line.words[max(start, 0) : end]
        lettered = sum(any(character.isalpha() for character in word) for word in words)
        if 3 * lettered < 2 * len(words) or sum(map(len, words)) + len(words) > max_characters:
            return None
        return Line(line.document, words)

    def occurrence(self, rng: random.Random, word: str) -> tuple[Line, int] | None:
        """A random place (line, position) where `word` stands, or None if it stands nowhere."""
        places = self._places.get(word)
        if not places:
            return None
        line, position = rng.choice(places)
        return self.lines[line], position

    def alike(
        self, rng: random.Random, word: str, n: int, *, besides: set[str]
    ) -> list[str] | None:
        """`n` plain words about as frequent as `word`, none of them `word` or in `besides`.

        None where there are not enough on both sides: a word at the top of the list would be
        more frequent than all others, and known by that.
        """
        at = bisect_left(self._ranked, _rank_key(word, self.counts[word]))
        reach = 5 * n
        if at < reach or at + reach >= len(self._ranked):
            return None
        nearby = self._ranked[at - reach : at + reach + 1]
        others = [other for _, _, other in nearby if other != word and other not in besides]
        return rng.sample(others, n) if len(others) >= n else None

    @cached_property
    def _ranked(self) -> list[tuple[int, int, str]]:
        return sorted(
            _rank_key(word, count) for word, count in self.counts.items() if is_plain(word)
        )

    @cached_property
    def _places(self) -> dict[str, list[tuple[int, int]]]:
        places: dict[str, list[tuple[int, int]]] = {}
        for index, line in enumerate(self.lines):
            for position, word in enumerate(line.words):
                places.setdefault(word, []).append((index, position))
        return places


def is_plain(word: str) -> bool:
    """Whether a word is two or more lower-case letters and nothing else."""
    return len(word) >= _PLAIN_MIN_LETTERS and word.isalpha() and word.islower()


def _rank_key(word: str, count: int) -> tuple[int, int, str]:
    # Equally frequent words stand in no order that a reader could see, such as the alphabet's.
    return (-count, zlib.crc32(word.encode()), word)
