"""Evaluation of a checkpoint on tasks and validation texts: from prompts to rows of the store."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.data.arrays import FloatArray32, IntArray
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.choice_metrics import CONTINUOUS_METRICS, METRICS, count_ties, task_metrics
from neuneu.data.choices import ItemSet
from neuneu.data.store.store import CheckpointRows, Part, Rows, TaskEvidence
from neuneu.data.token_losses import stored_losses
from neuneu.scoring.checkpoints.preflight import Preflight
from neuneu.scoring.corpus import CorpusLosses, EncodedCorpus, encode_corpus, prefix_token
from neuneu.scoring.engines.engine import Scorer
from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.multiple_choice import Request, Task, item_set
from neuneu.scoring.prompts import encode_requests
from neuneu.scoring.wanted import Wanted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_POSITION: Final = ("family", "suite", "run", "params", "step", "tokens", "flops")


@dataclass(frozen=True, kw_only=True)
class EncodedChoices:
    """R choices in a scorer's result: `places` of the tokens of all, and (R,) `starts` in it."""

    places: IntArray
    starts: IntArray

    def sums(self, logprobs: FloatArray32) -> FloatArray32:
        """(R,) summed log-probabilities of the choices, rounded as they are stored."""
        values = logprobs[self.places].astype(np.float64)
        return np.add.reduceat(values, self.starts).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class EncodedTask:
    """A task as prompts for one tokenizer; `unconditional` where it asks for the choices alone."""

    part: Part
    items: ItemSet
    choices: EncodedChoices
    unconditional: EncodedChoices | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A validation text as prompts; `places` (T,) are its tokens in a scorer's result."""

    part: Part
    corpus: EncodedCorpus
    places: IntArray

    def losses(self, logprobs: FloatArray32) -> CorpusLosses:
        """Its losses; raises as `EncodedCorpus.losses`."""
        return self.corpus.losses(logprobs[self.places])


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Tasks and texts as distinct prompts for one tokenizer and window.

    Of each prompt the most tokens are scored that any request needs. `of_tasks` are the rows of the
    prompts of tasks, `of_texts` of texts.
    """

    prompts: Prompts
    tasks: Sequence[EncodedTask]
    texts: Sequence[EncodedText]
    of_tasks: IntArray
    of_texts: IntArray

    @property
    def n_tokens(self) -> int:
        """Total tokens of all prompts; shared contexts count each time."""
        return len(self.prompts.tokens)

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

    def encode(requests: Sequence[Request]) -> Prompts:
        return encode_requests(requests, tokenizer, prefix_token=prefix, max_tokens=max_tokens)

    of_tasks: list[Prompts] = []
    for task in wanted.tasks:
        of_tasks += [encode(task.requests), encode(_alone(task))]
    corpora = [
        encode_corpus(corpus, tokenizer, prefix_token=prefix, max_tokens=max_tokens)
        for corpus in wanted.corpora
    ]
    pieces = [*of_tasks, *(corpus.prompts for corpus in corpora)]
    prompts, rows = Prompts.join(pieces).distinct()
    of_pieces = np.split(rows, np.cumsum([len(piece) for piece in pieces])[:-1])
    places = [prompts.places(of, piece.last) for of, piece in zip(of_pieces, pieces, strict=True)]

    def choices(i: int) -> EncodedChoices:
        last = pieces[i].last
        return EncodedChoices(places=places[i], starts=np.cumsum(last) - last)

    tasks = [
        EncodedTask(
            part=part,
            items=item_set(task, task_hash=part.hash, n_tokens=pieces[2 * i].last),
            choices=choices(2 * i),
            unconditional=choices(2 * i + 1) if len(pieces[2 * i + 1]) else None,
        )
        for i, (part, task) in enumerate(zip(wanted.task_parts, wanted.tasks, strict=True))
    ]
    texts = [
        EncodedText(part=part, corpus=corpus, places=at)
        for part, corpus, at in zip(
            wanted.corpus_parts, corpora, places[len(of_tasks) :], strict=True
        )
    ]
    none = np.empty(0, np.int64)
    return Workload(
        prompts=prompts,
        tasks=tasks,
        texts=texts,
        of_tasks=np.unique(np.concatenate([none, *of_pieces[: len(of_tasks)]])),
        of_texts=np.unique(np.concatenate([none, *of_pieces[len(of_tasks) :]])),
    )


def _alone(task: Task) -> list[Request]:
    """The choices of a task without their questions, if it asks for all of them."""
    alone = [
        replace(request, context=request.unconditional[0], continuation=request.unconditional[1])
        for request in task.requests
        if request.unconditional is not None
    ]
    return alone if len(alone) == len(task.requests) else []


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
    logprobs, expected = scorer.score(workload.prompts), int(workload.prompts.last.sum())
    if len(logprobs) != expected:
        raise EngineError(f"the engine returned {len(logprobs)} results for {expected} tokens.")
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


def _evidence(task: EncodedTask, logprobs: FloatArray32) -> TaskEvidence:
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


def _text_rows(checked: Preflight, text: EncodedText, logprobs: FloatArray32) -> dict[str, Rows]:
    ref = checked.ref
    losses = text.losses(logprobs)
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
