"""Contexts and continuations as tokens, what many texts begin with tokenised once.

The token ids are those of each whole text. A text is cut in two only at a space between two
lower-case letters, and only for tokenizers that always divide text there before they merge and
that read the second part as they read it behind the first.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IdArray = npt.NDArray[np.int32]

_MIN_SHARED: Final = 256
_CUT: Final = re.compile("(?<=[a-z]) (?=[a-z])")
_PROBE: Final = "the cat sat on a mat with one black hat"
_BATCH: Final = 1024
_EMPTY: Final[IdArray] = np.empty(0, np.int32)


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[IdArray, IdArray]]:
    """Tokenises contexts, and each context with its continuation, without special tokens.

    Args:
        pairs: (context, continuation).
        tokenizer: of the model that will read them.

    Returns:
        For each pair the ids of the context and those of context + continuation, exactly as the
        tokenizer gives them for either text.
    """
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    may_cut = _divides_at_spaces(tokenizer)
    ids = (_encode_shared if may_cut else _encode)(contexts, tokenizer)
    cuts = {context: _last_cut(context) if may_cut else 0 for context in contexts}
    ends = _encode((context[cut:] for context, cut in cuts.items() if cut), tokenizer)
    for context, cut in cuts.items():
        if cut and not _ends_with(ids[context], ends[context[cut:]]):
            cuts[context] = 0
    tails = _encode((context[cuts[context] :] + rest for context, rest in pairs), tokenizer)

    def whole(context: str, rest: str) -> IdArray:
        cut = cuts[context]
        tail = tails[context[cut:] + rest]
        if not cut:
            return tail
        return np.concatenate([ids[context][: -len(ends[context[cut:]])], tail])

    return [(ids[context], whole(context, rest)) for context, rest in pairs]


def _encode_shared(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, IdArray]:
    """As `_encode`; what all texts begin with is tokenised once."""
    shared = _common_beginning(texts) if len(texts) > 1 else ""
    cut = _last_cut(shared)
    if not cut:
        return _encode(texts, tokenizer)
    heads = _encode([shared, shared[cut:]], tokenizer)
    if not _ends_with(heads[shared], heads[shared[cut:]]):
        return _encode(texts, tokenizer)
    head = heads[shared][: -len(heads[shared[cut:]])]
    tails = _encode((text[cut:] for text in texts), tokenizer)
    return {text: np.concatenate([head, tails[text[cut:]]]) for text in texts}


def _encode(texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase") -> dict[str, IdArray]:
    """Tokenises every distinct text once, in batches: a batch's encodings take much memory."""
    distinct = [text for text in dict.fromkeys(texts) if text]
    ids = {"": _EMPTY}
    for start in range(0, len(distinct), _BATCH):
        batch = distinct[start : start + _BATCH]
        rows = tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        ids |= {text: np.array(row, np.int32) for text, row in zip(batch, rows, strict=True)}
    return ids


def _divides_at_spaces(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether each word, with the space before it, is tokenised for itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return False
    if any(map(_CUT.search, tokenizer.get_added_vocab())):
        return False
    starts = {start for _, (start, _) in backend.pre_tokenizer.pre_tokenize_str(_PROBE)}
    # Pre-tokenizers that drop the space begin a piece after it.
    return all(match.start() in starts or match.end() in starts for match in _CUT.finditer(_PROBE))


def _last_cut(text: str) -> int:
    """Where to cut a text that others continue; 0 for not at all."""
    if len(text) < _MIN_SHARED:
        return 0
    start = len(text) - _MIN_SHARED
    places = [match.start() for match in _CUT.finditer(text, start)]
    return places[-1] if places else 0


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    for i, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return first[:i]
    return first


def _ends_with(ids: IdArray, end: IdArray) -> bool:
    return 0 < len(end) < len(ids) and bool((ids[-len(end) :] == end).all())
