"""Multiple-choice requests as prompts: token ids, with shared beginnings tokenised once.

The token ids are those of each whole text, by the rule of `TemplateLM._encode_pair` in
lm-evaluation-harness. A text is split only at a space between two lower-case letters, and only for
tokenizers that always split text there before they merge and that read the second part as they read
it after the first.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError, UserError
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.multiple_choice import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IdArray = npt.NDArray[np.int32]

_MIN_SHARED: Final = 256
_CUT: Final = re.compile("(?<=[a-z]) (?=[a-z])")
_PROBE: Final = "the cat sat on a mat with one black hat"
_BATCH: Final = 1024
_EMPTY: Final[IdArray] = np.empty(0, np.int32)


def encode_requests(
    requests: Sequence[Request],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prefix_token: int,
    max_tokens: int,
) -> Prompts:
    """Tokenise requests by the rule of lm-evaluation-harness.

    White space at the end of a context moves to the continuation. The tokens of the continuation
    are those of the whole text after as many as the context alone has, which keeps a merge across
    the boundary out of the context. A context that is now empty becomes the prefix token; any other
    one is preceded by the bos token if the tokenizer adds one to texts. Prompts are cut from the
    left to `max_tokens`, but keep the last token of the context, on which the first token of the
    continuation is conditioned.

    Args:
        requests: R requests.
        tokenizer: Tokenizer of the model that will score them.
        prefix_token: Token id for an empty context.
        max_tokens: Maximum prompt length, as `Scorer.max_prompt_tokens`.

    Returns:
        One prompt per request, in the same order; the tokens to score are the continuation.

    Raises:
        UserError: A continuation leaves no room for a token of context.
        DataError: A continuation has no token of its own.
    """
    pairs = [_move_spaces(request.context, request.continuation) for request in requests]
    prefix = np.array([prefix_token], np.int32)
    leading = _leading_tokens(tokenizer)
    encoded: list[IdArray] = []
    last: list[int] = []
    for request, (context, whole) in zip(requests, encode_pairs(pairs, tokenizer), strict=True):
        tail = whole[len(context) :]
        if not len(tail):
            raise DataError(
                f"{request.name}: the continuation {request.continuation!r} has no token of its "
                "own after its context; expected at least one; drop the document."
            )
        if len(tail) >= max_tokens:
            raise UserError(
                f"{request.name}: the continuation has {len(tail)} tokens and the engine takes "
                f"prompts of {max_tokens} with at least one of context; drop this task or score "
                "models with a longer window."
            )
        parts = [leading, context, tail] if len(context) else [prefix, tail]
        encoded.append(np.concatenate(parts)[-max_tokens:])
        last.append(len(tail))
    return Prompts.of(encoded, last)


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[IdArray, IdArray]]:
    """Tokenise contexts, and each context with its continuation, without special tokens.

    Args:
        pairs: (context, continuation).
        tokenizer: Tokenizer of the model that will score them.

    Returns:
        For each pair the ids of the context and of context + continuation, exactly as the tokenizer
        returns them for either text.
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
    """Tokenise like `_encode`, with the common beginning of all texts tokenised once."""
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
    """Tokenise each distinct text once, in batches, because encodings take much memory."""
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
    """Whether each word, with the space before it, is tokenised on its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return False
    if any(map(_CUT.search, tokenizer.get_added_vocab())):
        return False
    starts = {start for _, (start, _) in backend.pre_tokenizer.pre_tokenize_str(_PROBE)}
    # Pre-tokenizers that drop the space start a piece after it.
    return all(match.start() in starts or match.end() in starts for match in _CUT.finditer(_PROBE))


def _last_cut(text: str) -> int:
    """Position at which to split a text that others continue; 0 if it cannot be split."""
    if len(text) < _MIN_SHARED:
        return 0
    start = len(text) - _MIN_SHARED
    return max((match.start() for match in _CUT.finditer(text, start)), default=0)


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differing, len(first))]


def _ends_with(ids: IdArray, end: IdArray) -> bool:
    return 0 < len(end) < len(ids) and bool((ids[-len(end) :] == end).all())


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _leading_tokens(tokenizer: "PreTrainedTokenizerBase") -> IdArray:
    """The bos token if the tokenizer adds it to every text, else nothing."""
    bos = tokenizer.bos_token_id
    leads = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return np.array([bos] if leads else [], np.int32)
