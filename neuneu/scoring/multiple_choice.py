"""Multiple-choice tasks: requests, and their log-probabilities as accuracies.

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

    `label` is the index of the right choice, the same on all requests of a document. An empty
    context is scored after the tokenizer's prefix token. `choice_text` is what `acc_norm` and
    `acc_bytes` measure; None stands for the continuation without the one space that may lead it.
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
        """What identifies the request in a message."""
        return f"task {self.task}, document {self.doc}, choice {self.choice}"

    @property
    def measured(self) -> str:
        """The text whose characters or bytes a normalised log-probability is divided by."""
        if self.choice_text is not None:
            return self.choice_text
        return self.continuation.removeprefix(" ")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task and its requests, sorted by (doc, choice); every document has at least 2 choices.

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
        """The number of documents."""
        return len({request.doc for request in self.requests})


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """A metric of a task; `stderr` is NaN when there is only one document."""

    metric: str
    value: float
    stderr: float
    n_items: int


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
            f"{task.requests[at].name}: the log-probability is {sums[at]}; expected a finite "
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
