"""Multiple-choice tasks: their requests, items and accuracies.

Scores follow `ConfigurableTask.process_results` of lm-evaluation-harness, so that they can be
compared with published ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import CheckpointError
from neuneu.data.arrays import IntArray
from neuneu.data.choice_metrics import METRICS, item_starts, task_metrics
from neuneu.data.choices import ItemSet

TaskFormat = Literal["rc", "mc", "minimal_pair", "cloze"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One (document, choice) of a task: score `continuation` after `context`.

    `label` is the index of the correct choice, the same in all requests of a document. An empty
    context is scored after the tokenizer's prefix token. `choice_text` is the text whose length
    `acc_norm` and `acc_bytes` use; None is the continuation without one leading space.
    `unconditional` is a (context, continuation) that scores the choice without its question, where
    the task asks for it.
    """

    task: str
    doc: int
    choice: int
    context: str
    continuation: str
    label: int
    choice_text: str | None = None
    unconditional: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """Name of the request in messages."""
        return f"task {self.task}, document {self.doc}, choice {self.choice}"

    @property
    def measured(self) -> str:
        """The text by whose characters or bytes a log-probability is normalised."""
        if self.choice_text is not None:
            return self.choice_text
        return self.continuation.removeprefix(" ")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task and its requests, sorted by (doc, choice); every document has at least two choices.

    `chance` is the expected accuracy of a uniform guess, the mean over documents of 1 / choices.
    """

    name: str
    base_task: str
    format: TaskFormat
    split: str
    group: str
    num_fewshot: int
    chance: float
    requests: tuple[Request, ...]

    @property
    def n_items(self) -> int:
        """Number of documents."""
        return len({request.doc for request in self.requests})


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """A metric of a task; `stderr` is NaN if there is only one document."""

    metric: str
    value: float
    stderr: float
    n_items: int


def item_set(
    task: Task, *, task_hash: str = "", n_tokens: Sequence[int] | IntArray | None = None
) -> ItemSet:
    """The facts of a task's requests that scores depend on.

    Args:
        task: Task with R requests.
        task_hash: Identifies the task's content (`neuneu.scoring.tasks.task_hash`).
        n_tokens: (R,) tokens of each continuation as scored; None is unknown.
    """
    texts = [request.measured for request in task.requests]
    docs = np.array([request.doc for request in task.requests], np.int64)
    labels = np.array([request.label for request in task.requests], np.int64)
    return ItemSet(
        task=task.name,
        task_hash=task_hash,
        format=task.format,
        num_fewshot=task.num_fewshot,
        docs=docs,
        choices=np.array([request.choice for request in task.requests], np.int64),
        labels=labels[item_starts(docs)],
        n_tokens=np.array(n_tokens if n_tokens is not None else [0] * len(texts), np.int64),
        n_chars=np.array([len(text) for text in texts], np.int64),
        n_bytes=np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64),
    )


def accuracies(task: Task, sums: npt.NDArray[np.floating]) -> list[TaskScore]:
    """Score a task: `acc` by summed log-probability, `acc_norm` and `acc_bytes` by its density.

    The density is the sum per character, or per byte of UTF-8, of `Request.measured`: the choice
    without the space that joins it to its context, as in the harness; an empty choice loses. Ties
    are decided as in `data.choice_metrics`: only in minimal pairs, whose good choice is always the
    first, it must be strictly better. The harness counts such a tie as correct; nothing else
    differs.

    Args:
        task: Task with R requests.
        sums: (R,) log-probabilities in nats, in the order of `task.requests`.

    Returns:
        The scores in the order of `METRICS`.

    Raises:
        CheckpointError: A log-probability is not finite.
        ValueError: The number of sums is not that of requests.
    """
    if len(sums) != len(task.requests):
        raise ValueError(
            f"{task.name}: expected {len(task.requests)} sums, one a request, found {len(sums)}."
        )
    check_finite(task, sums)
    found = task_metrics(item_set(task), sums[None], metrics=METRICS)
    return [
        TaskScore(
            metric=metric,
            value=float(series.values[0]),
            stderr=float(series.stderrs[0]),
            n_items=task.n_items,
        )
        for metric, series in found.items()
    ]


def check_finite(task: Task, sums: npt.NDArray[np.floating]) -> None:
    """Refuse (R,) log-probabilities that are not finite.

    Raises:
        CheckpointError: With the first such request.
    """
    if not np.isfinite(sums).all():
        at = int(np.argmin(np.isfinite(sums)))
        raise CheckpointError(
            f"{task.requests[at].name}: the log-probability is {sums[at]}; expected a finite "
            "number. The checkpoint's weights are probably not finite."
        )
