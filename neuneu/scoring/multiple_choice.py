"""Multiple-choice requests as prompts, and their log-probabilities as accuracies.

Both follow lm-evaluation-harness, so that the numbers can stand beside published ones:
`TemplateLM._encode_pair` for the tokens and `ConfigurableTask.process_results` for the scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import CheckpointError, DataError, UserError
from neuneu.scoring.engines.scorer import TokenIds
from neuneu.scoring.requests import Request, Task
from neuneu.scoring.tokenising import IdArray, encode_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS: Final = ("acc", "acc_norm", "acc_bytes")


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRequest:
    """A prompt, of which the last `n_continuation` tokens are the continuation."""

    tokens: TokenIds
    n_continuation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """A metric of a task; `stderr` is NaN when there is only one document."""

    metric: str
    value: float
    stderr: float
    n_items: int


def encode_requests(
    requests: Sequence[Request],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prefix_token: int,
    max_tokens: int,
) -> list[EncodedRequest]:
    """Tokenises requests by the rule of lm-evaluation-harness.

    White space at the end of a context moves to the continuation. The continuation's tokens are
    those of the whole text after as many as the context alone has, which keeps a merge across
    the boundary out of the context. A context that is empty (then, or from the start) becomes
    the prefix token; before any other one stands the bos token if the tokenizer puts it before
    texts of itself. Prompts are cut from the left to `max_tokens`, at most to the last token
    of the context, on which the first token of the continuation is conditioned.

    Args:
        requests: R requests.
        tokenizer: of the model that will score them.
        prefix_token: id that stands for an empty context.
        max_tokens: the longest prompt, as `Scorer.max_prompt_tokens`.

    Returns:
        One prompt a request, in the same order, its tokens an int32 array.

    Raises:
        UserError: a continuation alone leaves no room for one token of context.
        DataError: a continuation has no token of its own.
    """
    pairs = [_move_spaces(request.context, request.continuation) for request in requests]
    prefix = np.array([prefix_token], np.int32)
    leading = _leading_tokens(tokenizer)
    encoded = []
    for request, (context, whole) in zip(requests, encode_pairs(pairs, tokenizer), strict=True):
        tail = whole[len(context) :]
        if not len(tail):
            raise DataError(
                f"{_name(request)}: the continuation {request.continuation!r} has no token of its "
                "own after its context; expected at least one. Drop the document."
            )
        if len(tail) >= max_tokens:
            raise UserError(
                f"{_name(request)}: the continuation has {len(tail)} tokens and the engine takes "
                f"prompts of {max_tokens} with at least one of context; drop this task or score "
                "models with a longer window."
            )
        parts = [leading, context, tail] if len(context) else [prefix, tail]
        encoded.append(EncodedRequest(np.concatenate(parts)[-max_tokens:], len(tail)))
    return encoded


def continuation_logprobs(
    encoded: Sequence[EncodedRequest], logprobs: Sequence[npt.NDArray[np.floating]]
) -> npt.NDArray[np.float64]:
    """Sums the log-probabilities of each continuation.

    Args:
        encoded: R prompts of n_i tokens.
        logprobs: R arrays in nats, as `Scorer.score` gives for those prompts: of all n_i - 1
            tokens, or of the last ones, the continuation at least.

    Returns:
        (R,) sums in nats.

    Raises:
        ValueError: the arrays do not belong to these prompts.
    """
    sums = np.empty(len(encoded), dtype=np.float64)
    for i, (request, values) in enumerate(zip(encoded, logprobs, strict=True)):
        if not request.n_continuation <= len(values) < len(request.tokens):
            raise ValueError(
                f"prompt {i}: expected {request.n_continuation} to {len(request.tokens) - 1} "
                f"log-probabilities for {len(request.tokens)} tokens, found {len(values)}."
            )
        sums[i] = values[-request.n_continuation :].sum(dtype=np.float64)
    return sums


def accuracies(task: Task, sums: npt.NDArray[np.float64]) -> list[TaskScore]:
    """Scores a task: `acc` by summed log-probability, `acc_norm` and `acc_bytes` by its density.

    That is the sum a character, or a byte of UTF-8, of `Request.measured`: the choice without
    the space that joins it to its context, as the harness measures it; an empty one loses. Among
    equal choices the first wins, as in `np.argmax`. Only in minimal pairs, whose good choice is
    always the first, must it be strictly better: else a model that finds everything equally
    likely would score 1. The harness lets a tie win there; nothing else differs.

    Args:
        task: with R requests.
        sums: (R,) log-probabilities in nats, in the order of `task.requests`.

    Returns:
        The scores of `METRICS` in their order; `stderr` is sample sd / sqrt(documents), as the
        harness' `mean_stderr`.

    Raises:
        CheckpointError: a log-probability is not finite.
        ValueError: another number of sums than of requests.
    """
    if len(sums) != len(task.requests):
        raise ValueError(
            f"{task.name}: expected {len(task.requests)} sums, one a request, found {len(sums)}."
        )
    if not np.isfinite(sums).all():
        at = int(np.argmin(np.isfinite(sums)))
        raise CheckpointError(
            f"{_name(task.requests[at])}: the log-probability is {sums[at]}; expected a finite "
            "number. The checkpoint's weights are probably not finite."
        )
    texts = [request.measured for request in task.requests]
    with np.errstate(divide="ignore"):
        densities = (
            sums,
            sums / np.array([len(text) for text in texts], np.float64),
            sums
            / np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.float64),
        )
    scores = []
    for metric, values in zip(METRICS, densities, strict=True):
        correct = _correct(task, values)
        stderr = (
            float(correct.std(ddof=1)) / math.sqrt(len(correct)) if len(correct) > 1 else math.nan
        )
        scores.append(
            TaskScore(
                metric=metric, value=float(correct.mean()), stderr=stderr, n_items=len(correct)
            )
        )
    return scores


def count_ties(task: Task, sums: npt.NDArray[np.float64]) -> int:
    """Documents whose largest summed log-probability several choices share to the last bit.

    The order of the choices decides them, not the model; coarse float types have many.

    Args:
        task: with R requests.
        sums: (R,) log-probabilities in nats, in the order of `task.requests`.
    """
    choices_of = np.split(sums, _starts(task)[1:])
    return sum(int((choices == choices.max()).sum() > 1) for choices in choices_of)


def _starts(task: Task) -> npt.NDArray[np.int64]:
    """The first request of every document."""
    docs = np.array([request.doc for request in task.requests])
    return np.flatnonzero(np.diff(docs, prepend=docs[0] - 1))


def _correct(task: Task, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    starts = _starts(task)
    correct = np.empty(len(starts), dtype=np.float64)
    for i, choices in enumerate(np.split(values, starts[1:])):
        label = task.requests[starts[i]].label
        if task.format == "minimal_pair":
            correct[i] = choices[label] > np.delete(choices, label).max()
        else:
            correct[i] = np.argmax(choices) == label
    return correct


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _leading_tokens(tokenizer: "PreTrainedTokenizerBase") -> IdArray:
    """The bos token if the tokenizer begins every text with it, else nothing."""
    bos = tokenizer.bos_token_id
    leads = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return np.array([bos] if leads else [], np.int32)


def _name(request: Request) -> str:
    return f"task {request.task}, document {request.doc}, choice {request.choice}"
