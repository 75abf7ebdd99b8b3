"""Evaluation of a checkpoint on tasks and validation texts: from prompts to rows of the store."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.arrays import FloatArray32
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.choice_metrics import CONTINUOUS_METRICS, METRICS, count_ties, task_metrics
from neuneu.data.choices import ItemSet
from neuneu.data.store.store import CheckpointRows, Part, Rows, TaskEvidence
from neuneu.data.token_losses import stored_losses
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.corpus import EncodedCorpus, encode_corpus, prefix_token
from neuneu.scoring.engines.engine import Scorer, TokenIds
from neuneu.scoring.multiple_choice import Request, Task, item_set
from neuneu.scoring.prompts import EncodedRequest, continuation_logprobs, encode_requests
from neuneu.scoring.wanted import Wanted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POSITION: Final = ("family", "suite", "run", "params", "step", "tokens", "flops")
Rows64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EncodedChoices:
    """Requests as prompts: `rows` (R,) are indices into the prompts of the workload."""

    requests: list[EncodedRequest]
    rows: Rows64

    def sums(self, logprobs: Sequence[npt.NDArray[np.float32]]) -> FloatArray32:
        """(R,) summed log-probabilities of the choices, rounded as they are stored."""
        of_requests = [logprobs[row] for row in self.rows]
        return continuation_logprobs(self.requests, of_requests).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class EncodedTask:
    """A task as prompts for one tokenizer; `unconditional` where it asks for the choices alone."""

    part: Part
    items: ItemSet
    choices: EncodedChoices
    unconditional: EncodedChoices | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A validation text as prompts; `rows` (P,) are indices into the prompts of the workload."""

    part: Part
    corpus: EncodedCorpus
    rows: Rows64


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tasks and texts as distinct prompts for one tokenizer and window.

    The last `last[i]` tokens of `prompts[i]` are scored, the most that any request needs.
    """

    prompts: list[TokenIds]
    last: list[int]
    tasks: Sequence[EncodedTask]
    texts: Sequence[EncodedText]

    @property
    def n_tokens(self) -> int:
        """Total tokens of all prompts; shared contexts count each time."""
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def parts(self) -> list[Part]:
        """The parts of the store that it yields."""
        return [*(task.part for task in self.tasks), *(text.part for text in self.texts)]


def make_workload(
    wanted: Wanted, tokenizer: "PreTrainedTokenizerBase", *, max_tokens: int
) -> Workload:
    """Tokenise tasks and texts into prompts of at most `max_tokens` tokens.

    Raises:
        UserError, DataError, CheckpointError: As `encode_requests` and `encode_corpus`.
    """
    prefix = prefix_token(tokenizer)
    prompts = _Prompts()

    def encode(requests: Sequence[Request]) -> EncodedChoices:
        encoded = encode_requests(requests, tokenizer, prefix_token=prefix, max_tokens=max_tokens)
        rows = [prompts.row(r.tokens, r.n_continuation) for r in encoded]
        return EncodedChoices(requests=encoded, rows=np.array(rows, np.int64))

    tasks = []
    for part, task in zip(wanted.task_parts, wanted.tasks, strict=True):
        choices, alone = encode(task.requests), _alone(task)
        n_tokens = [request.n_continuation for request in choices.requests]
        tasks.append(
            EncodedTask(
                part=part,
                items=item_set(task, task_hash=part.hash, n_tokens=n_tokens),
                choices=choices,
                unconditional=encode(alone) if alone else None,
            )
        )
    texts = []
    for part, corpus in zip(wanted.corpus_parts, wanted.corpora, strict=True):
        encoded = encode_corpus(corpus, tokenizer, prefix_token=prefix, max_tokens=max_tokens)
        scored = zip(encoded.prompts, encoded.n_scored.tolist(), strict=True)
        rows = np.array([prompts.row(tokens, last) for tokens, last in scored], np.int64)
        texts.append(EncodedText(part=part, corpus=encoded, rows=rows))
    return Workload(prompts=prompts.tokens, last=prompts.last, tasks=tasks, texts=texts)


def _alone(task: Task) -> list[Request]:
    """The choices of a task without their questions, if it asks for all of them."""
    alone = [
        replace(request, context=request.unconditional[0], continuation=request.unconditional[1])
        for request in task.requests
        if request.unconditional is not None
    ]
    return alone if len(alone) == len(task.requests) else []


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

    Metrics are computed from the log-probabilities as they are stored, in float32, so that
    `neuneu store metrics` finds the same.

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
    evidence = {task.part: _evidence(task, logprobs) for task in workload.tasks}
    accuracies: Rows = []
    losses: Rows = []
    token_losses: Rows = []
    for task in workload.tasks:
        scores = _task_rows(ref, task, evidence[task.part])
        accuracies += scores["accuracies"]
        losses += scores["losses"]
    for text in workload.texts:
        rows = _text_rows(checked, text, logprobs)
        losses += rows["losses"]
        token_losses += rows["token_losses"]
    row = checkpoint_row(ref, status="done", error=None, attempts=attempts, checked=checked)
    row["proof"] = scorer.proof
    row["ties"] = sum(found.ties for found in evidence.values())
    return CheckpointRows(
        checkpoint=row,
        accuracies=accuracies,
        losses=losses,
        token_losses=token_losses,
        parts=workload.parts,
        evidence=evidence,
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


def _evidence(task: EncodedTask, logprobs: Sequence[npt.NDArray[np.float32]]) -> TaskEvidence:
    """The summed log-probabilities of a task's choices.

    Raises:
        CheckpointError: One is not finite.
    """
    sums = task.choices.sums(logprobs)
    alone = None if task.unconditional is None else task.unconditional.sums(logprobs)
    for values in (sums,) if alone is None else (sums, alone):
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise CheckpointError(
                f"task {task.items.task}, document {task.items.docs[at]}, choice "
                f"{task.items.choices[at]}: the log-probability is {values[at]}; expected a finite "
                "number. The checkpoint's weights are probably not finite."
            )
    ties = int(count_ties(task.items, sums[None])[0])
    return TaskEvidence(logprobs=sums, unconditional=alone, ties=ties)


def _task_rows(ref: CheckpointRef, task: EncodedTask, evidence: TaskEvidence) -> dict[str, Rows]:
    """Accuracies, and continuous metrics as losses of the task's name."""
    alone = evidence.unconditional
    scores = task_metrics(
        task.items, evidence.logprobs[None], None if alone is None else alone[None]
    )
    position = _position(ref, num_fewshot=task.items.num_fewshot)
    name = task.items.task
    stderrs = {metric: float(found.stderrs[0]) for metric, found in scores.items()}
    return {
        "accuracies": [
            position
            | {
                "task": name,
                "metric": metric,
                "value": float(scores[metric].values[0]),
                "stderr": stderrs[metric] if np.isfinite(stderrs[metric]) else None,
                "planned_tokens": ref.planned_tokens,
            }
            for metric in METRICS
            if metric in scores
        ],
        "losses": [
            position | {"name": name, "metric": metric, "value": float(scores[metric].values[0])}
            for metric in CONTINUOUS_METRICS
            if metric in scores
        ],
    }


def _text_rows(
    checked: Preflight, text: EncodedText, logprobs: Sequence[npt.NDArray[np.float32]]
) -> dict[str, Rows]:
    ref = checked.ref
    losses = text.corpus.losses([logprobs[row] for row in text.rows])
    means = {
        "cross_entropy_loss": losses.nats_per_token,
        "nll_per_word": losses.nats_per_word,
        "bpb": losses.bits_per_byte,
    }
    words = stored_losses(losses.word_losses)
    return {
        "losses": [
            _position(ref, num_fewshot=0)
            | {"name": text.part.name, "metric": metric, "value": value}
            for metric, value in means.items()
        ],
        "token_losses": [
            {
                "suite": ref.suite,
                "run": ref.run,
                "step": ref.step,
                "corpus_hash": text.part.hash,
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
