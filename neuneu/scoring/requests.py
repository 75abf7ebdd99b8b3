"""Requests: what every multiple-choice task is reduced to before a model sees it."""

from dataclasses import dataclass
from typing import Literal

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
