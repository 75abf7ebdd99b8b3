"""Multiple-choice tasks: their requests, and accuracies from log-probabilities.

Scores follow `ConfigurableTask.process_results` of lm-evaluation-harness, so that they can be
compared with published ones.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import CheckpointError

METRICS: Final = ("acc", "acc_norm", "acc_bytes")
TaskFormat = Literal["rc", "mc", "minimal_pair", "cloze"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One (document, choice) of a task: score `continuation` after `context`.

    `label` is the index of the correct choice, the same in all requests of a document. An empty
    context is scored after the tokenizer's prefix token. `choice_text` is the text whose length
    `acc_norm` and `acc_bytes` use; None is the continuation without one leading space.
    """

    task: str
    doc: int
    choice: int
    context: str
    continuation: str
    label: int
    choice_text: str | None = None

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


def accuracies(task: Task, sums: npt.NDArray[np.float64]) -> list[TaskScore]:
    """Score a task: `acc` by summed log-probability, `acc_norm` and `acc_bytes` by its density.

    The density is the sum per character, or per byte of UTF-8, of `Request.measured`: the choice
    without the space that joins it to its context, as in the harness; an empty choice loses. Among
    equal choices the first one wins, as in `np.argmax`. Only in minimal pairs, whose good choice is
    always the first, it must be strictly better, because otherwise a model that finds everything
    equally likely would score 1. The harness counts such a tie as correct; nothing else differs.

    Args:
        task: Task with R requests.
        sums: (R,) log-probabilities in nats, in the order of `task.requests`.

    Returns:
        The scores in the order of `METRICS`; `stderr` is sample sd / sqrt(documents), as
        `mean_stderr` in the harness.

    Raises:
        CheckpointError: A log-probability is not finite.
        ValueError: The number of sums is not that of requests.
    """
    if len(sums) != len(task.requests):
        raise ValueError(
            f"{task.name}: expected {len(task.requests)} sums, one a request, found {len(sums)}."
        )
    if not np.isfinite(sums).all():
        at = int(np.argmin(np.isfinite(sums)))
        raise CheckpointError(
            f"{task.requests[at].name}: the log-probability is {sums[at]}; expected a finite "
            "number. The checkpoint's weights are probably not finite."
        )
    texts = [request.measured for request in task.requests]
    characters = np.array([len(text) for text in texts], np.float64)
    n_bytes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    with np.errstate(divide="ignore"):
        densities = (sums, sums / characters, sums / np.array(n_bytes, np.float64))
    scores = []
    for metric, values in zip(METRICS, densities, strict=True):
        correct = _correct(task, values)
        n = len(correct)
        stderr = float(correct.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        value = float(correct.mean())
        scores.append(TaskScore(metric=metric, value=value, stderr=stderr, n_items=n))
    return scores


def count_ties(task: Task, sums: npt.NDArray[np.float64]) -> int:
    """Count documents whose largest summed log-probability several choices share to the last bit.

    The order of choices decides them, not the model; low-precision dtypes have many.

    Args:
        task: Task with R requests.
        sums: (R,) log-probabilities in nats, in the order of `task.requests`.
    """
    choices_of = np.split(sums, _starts(task)[1:])
    return sum(int((choices == choices.max()).sum() > 1) for choices in choices_of)


def _starts(task: Task) -> npt.NDArray[np.int64]:
    """Index of the first request of each document."""
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
