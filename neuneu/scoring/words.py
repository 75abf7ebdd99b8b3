"""Words of a text, and which word each token of it belongs to, in linear time.

Word losses make models with different tokenizers comparable: a word's loss is the sum of the
losses of its tokens, and every token belongs to exactly one word, so that the word losses of a
text add up to its total loss.
"""

import re
from typing import Final

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

# On `str` patterns `\s` is `str.isspace`, so these are the words that `str.split()` gives.
_WORD: Final = re.compile(r"\S+")


def word_spans(text: str, *, max_words: int | None = None) -> Int64Array:
    """Where the whitespace words of a text lie.

    Args:
        text: any text.
        max_words: stop after that many words; None takes all.

    Returns:
        (W, 2) start and end of each word, in characters, as `text[start:end]`.
    """
    spans: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        if max_words is not None and len(spans) >= max_words:
            break
        spans.append(match.span())
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def token_words(spans_W2: Int64Array, offsets_T2: npt.ArrayLike) -> Int64Array:
    """The word each token belongs to.

    A token belongs to the word that holds its last non-space character, so that a token which
    spans two words belongs to the second. A token without such a character (pure whitespace,
    or an empty span as tokenizers that trim offsets give) belongs to the next word, and after
    the last word to the last.

    Args:
        spans_W2: what `word_spans` gives; W >= 1.
        offsets_T2: (T, 2) start and end of each token, in characters of the same text.

    Returns:
        (T,) index of a word for each token.

    Raises:
        ValueError: there is no word to attribute a token to.
    """
    offsets = np.asarray(offsets_T2, dtype=np.int64).reshape(-1, 2)
    n_words = len(spans_W2)
    if n_words == 0:
        raise ValueError(
            f"expected a text with at least one word, found 0 for {len(offsets)} tokens."
        )
    # The last word that starts before the token ends; it may have ended before the token starts.
    last = np.searchsorted(spans_W2[:, 0], offsets[:, 1], side="left") - 1
    inside = (last >= 0) & (spans_W2[np.maximum(last, 0), 1] > offsets[:, 0])
    return np.where(inside, last, np.minimum(last + 1, n_words - 1))


def word_sums(
    values_T: npt.ArrayLike, words_T: Int64Array, *, n_words: int
) -> npt.NDArray[np.float64]:
    """Sums token values by word: (n_words,) in double precision, 0 for a word without a token."""
    values = np.asarray(values_T, dtype=np.float64)
    return np.bincount(words_T, weights=values, minlength=n_words).astype(np.float64)
