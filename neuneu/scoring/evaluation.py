"""Evaluation of a checkpoint on tasks and corpus: from prompts to rows of the store."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import EngineError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.choice_metrics import count_ties
from neuneu.data.store.store import CheckpointRows, Rows
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.corpus import Corpus, EncodedCorpus, encode_corpus, prefix_token
from neuneu.scoring.engines.engine import Scorer, TokenIds
from neuneu.scoring.multiple_choice import Task, accuracies, item_set
from neuneu.scoring.prompts import EncodedRequest, continuation_logprobs, encode_requests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POSITION: Final = ("family", "suite", "run", "params", "step", "tokens", "flops")
_MAX_FLOAT16: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tasks and corpus as distinct prompts for one tokenizer and window.

    The last `last[i]` tokens of `prompts[i]` are scored, the most that any request needs.
    `request_rows[t]` (R_t,) and `corpus_rows` (P,) are indices into `prompts`.
    """

    prompts: list[TokenIds]
    last: list[int]
    tasks: Sequence[Task]
    requests: list[list[EncodedRequest]]
    request_rows: list[npt.NDArray[np.int64]]
    corpus_name: str
    corpus_hash: str
    corpus: EncodedCorpus
    corpus_rows: npt.NDArray[np.int64]

    @property
    def n_tokens(self) -> int:
        """Total tokens of all prompts; shared contexts count each time."""
        return sum(len(prompt) for prompt in self.prompts)


def make_workload(
    tasks: Sequence[Task],
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_tokens: int,
) -> Workload:
    """Tokenise tasks and corpus into prompts of at most `max_tokens` tokens.

    Raises:
        UserError, DataError, CheckpointError: As `encode_requests` and `encode_corpus`.
    """
    prefix = prefix_token(tokenizer)
    prompts = _Prompts()
    requests = [
        encode_requests(task.requests, tokenizer, prefix_token=prefix, max_tokens=max_tokens)
        for task in tasks
    ]
    encoded_corpus = encode_corpus(corpus, tokenizer, prefix_token=prefix, max_tokens=max_tokens)
    request_rows = [
        np.array([prompts.row(r.tokens, r.n_continuation) for r in encoded], np.int64)
        for encoded in requests
    ]
    scored = zip(encoded_corpus.prompts, encoded_corpus.n_scored.tolist(), strict=True)
    corpus_rows = np.array([prompts.row(tokens, last) for tokens, last in scored], np.int64)
    return Workload(
        prompts=prompts.tokens,
        last=prompts.last,
        tasks=tasks,
        requests=requests,
        request_rows=request_rows,
        corpus_name=corpus.name,
        corpus_hash=corpus.hash,
        corpus=encoded_corpus,
        corpus_rows=corpus_rows,
    )


class _Prompts:
    """Distinct prompts in order of first appearance."""

    def __init__(self) -> None:
        self.tokens: list[TokenIds] = []
        self.last: list[int] = []
        self._rows: dict[bytes, int] = {}

    def row(self, tokens: TokenIds, last: int) -> int:
        """Return the row of a prompt whose last `last` tokens are scored."""
        array = np.asarray(tokens, np.int32)
        row = self._rows.setdefault(array.tobytes(), len(self.tokens))
        if row == len(self.tokens):
            self.tokens.append(array)
            self.last.append(last)
        self.last[row] = max(self.last[row], last)
        return row


def evaluate(
    scorer: Scorer, workload: Workload, checked: Preflight, *, attempts: int
) -> CheckpointRows:
    """Score the weights that `scorer` holds and return the checkpoint's rows.

    Raises:
        CheckpointError: A log-probability is not finite.
        EngineError: The scorer failed, or did not return one result per prompt.
    """
    logprobs = scorer.score(workload.prompts, workload.last)
    if len(logprobs) != len(workload.prompts):
        raise EngineError(
            f"the engine returned {len(logprobs)} results for {len(workload.prompts)} prompts."
        )
    ref = checked.ref
    sums = [
        continuation_logprobs(encoded, [logprobs[index] for index in indices])
        for encoded, indices in zip(workload.requests, workload.request_rows, strict=True)
    ]
    row = checkpoint_row(ref, status="done", error=None, attempts=attempts, checked=checked)
    row["proof"] = scorer.proof
    row["ties"] = sum(
        int(count_ties(item_set(task), sums_R[None])[0])
        for task, sums_R in zip(workload.tasks, sums, strict=True)
    )
    return CheckpointRows(
        checkpoint=row,
        accuracies=_accuracy_rows(ref, workload, sums),
        **_loss_rows(checked, workload, logprobs),
    )


def quarantined(
    ref: CheckpointRef, error: str, *, attempts: int, checked: Preflight | None = None
) -> CheckpointRows:
    """Return the rows of a checkpoint that could not be scored: only the reason."""
    row = checkpoint_row(ref, status="quarantined", error=error, attempts=attempts, checked=checked)
    return CheckpointRows(checkpoint=row, accuracies=[], losses=[], token_losses=[])


def checkpoint_row(
    ref: CheckpointRef,
    *,
    status: str,
    error: str | None,
    attempts: int,
    checked: Preflight | None,
) -> dict[str, Any]:
    """Return a row of `schemas.CHECKPOINTS`; hashes are null if preflight did not pass."""
    return asdict(ref) | {
        "config_hash": checked.config_hash if checked else None,
        "tokenizer_hash": checked.tokenizer_hash if checked else None,
        "weights_hash": checked.weights_hash if checked else None,
        "status": status,
        "error": error,
        "attempts": attempts,
        "proof": None,
        "ties": None,
    }


def _accuracy_rows(
    ref: CheckpointRef, workload: Workload, sums: Sequence[npt.NDArray[np.float64]]
) -> Rows:
    rows = []
    for task, sums_R in zip(workload.tasks, sums, strict=True):
        rows += [
            _position(ref, num_fewshot=task.num_fewshot)
            | {
                "task": task.name,
                "metric": score.metric,
                "value": score.value,
                "stderr": score.stderr if np.isfinite(score.stderr) else None,
                "planned_tokens": ref.planned_tokens,
            }
            for score in accuracies(task, sums_R)
        ]
    return rows


def _loss_rows(
    checked: Preflight, workload: Workload, logprobs: Sequence[npt.NDArray[np.float32]]
) -> dict[str, Rows]:
    ref = checked.ref
    losses = workload.corpus.losses([logprobs[index] for index in workload.corpus_rows])
    means = {
        "cross_entropy_loss": losses.nats_per_token,
        "nll_per_word": losses.nats_per_word,
        "bpb": losses.bits_per_byte,
    }
    words = losses.word_losses.clip(0, _MAX_FLOAT16).astype(np.float16)
    return {
        "losses": [
            _position(ref, num_fewshot=0)
            | {"name": workload.corpus_name, "metric": metric, "value": value}
            for metric, value in means.items()
        ],
        "token_losses": [
            {
                "suite": ref.suite,
                "run": ref.run,
                "step": ref.step,
                "corpus_hash": workload.corpus_hash,
                "tokenizer_hash": checked.tokenizer_hash,
                "unit": "word",
                "start": 0,
                "count": len(words),
                "losses": words,
            }
        ],
    }


def _position(ref: CheckpointRef, *, num_fewshot: int) -> dict[str, Any]:
    return {name: getattr(ref, name) for name in _POSITION} | {"num_fewshot": num_fewshot}
