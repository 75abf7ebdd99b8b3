"""Evidence of a multiple-choice task: the log-probability of every choice of every item.

Accuracies and continuous metrics follow from it without an engine. Shapes: R requests (one per
item and choice, sorted by item, then choice), D items, n checkpoints.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuneu.data.arrays import FloatArray, FloatArray32, IntArray
from neuneu.data.defaults import FLOPS_PER_PARAMETER_TOKEN
from neuneu.data.schemas import CHOICES

LENGTHS: Final = ("n_tokens", "n_chars", "n_bytes")


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSet:
    """What does not change between checkpoints of one tokenizer.

    `docs` and `choices` (R,) name item and choice of each request; `labels` (D,) are the indices of
    the right choices; `n_tokens`, `n_chars` and `n_bytes` (R,) measure the choice's text (tokens
    as scored, characters and bytes as lm-evaluation-harness counts them), 0 where unknown.
    `task_hash` identifies prompts and choices by content. `format` is that of `schemas.TASKS`; in a
    minimal pair the right choice must be strictly better.
    """

    task: str
    task_hash: str
    format: str
    num_fewshot: int
    docs: IntArray
    choices: IntArray
    labels: IntArray
    n_tokens: IntArray
    n_chars: IntArray
    n_bytes: IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """The scored choices of one run: summed log-probabilities (n, R) in nats, by checkpoint.

    `unconditional` (n, R): of the choice without its question, None where it was not asked for.
    """

    family: str
    suite: str
    run: str
    params: float
    items: ItemSet
    steps: IntArray
    tokens: FloatArray
    logprobs: FloatArray32
    unconditional: FloatArray32 | None = None

    def table(self) -> pa.Table:
        """Return them as a tidy table (`schemas.CHOICES`), by checkpoint, item and choice.

        FLOPs follow from parameters and tokens; lengths that are unknown are null. It is some fifty
        times larger in memory than the arrays.
        """
        items, n = self.items, len(self.steps)
        n_requests = len(items.docs)
        _, per_item = np.unique(items.docs, return_counts=True)
        of_requests = {
            "doc": items.docs, "choice": items.choices, "label": np.repeat(items.labels, per_item),
        }  # fmt: skip
        lengths = {name: np.tile(getattr(items, name), n) for name in LENGTHS}
        same = {
            "family": self.family, "suite": self.suite, "run": self.run,
            "params": float(self.params), "num_fewshot": items.num_fewshot, "task": items.task,
            "task_hash": items.task_hash,
        }  # fmt: skip
        columns: dict[str, Any] = {name: np.tile(v, n) for name, v in of_requests.items()}
        columns |= {name: pa.array(v, mask=v == 0) for name, v in lengths.items()}
        columns |= {name: pa.repeat(value, n * n_requests) for name, value in same.items()}
        columns |= {
            "step": np.repeat(self.steps, n_requests),
            "tokens": np.repeat(self.tokens, n_requests),
            "flops": np.repeat(FLOPS_PER_PARAMETER_TOKEN * self.params * self.tokens, n_requests),
            "logprob": self.logprobs.reshape(-1),
            "unconditional_logprob": pa.nulls(n * n_requests)
            if self.unconditional is None
            else self.unconditional.reshape(-1),
        }
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in CHOICES]
        return pa.Table.from_arrays(arrays, schema=CHOICES)

    def __len__(self) -> int:
        """The number of checkpoints n."""
        return len(self.steps)

    def between(self, first: int, last: int) -> "Choices":
        """Keep the checkpoints of steps `first` to `last`, as views: nothing is read or copied."""
        start = int(np.searchsorted(self.steps, first))
        return self.at(slice(start, int(np.searchsorted(self.steps, last, side="right"))))

    def at(self, rows: slice | npt.NDArray[np.bool_]) -> "Choices":
        """Keep some checkpoints: views of a slice, copies of a mask (n,)."""
        alone = self.unconditional
        return replace(
            self,
            steps=self.steps[rows],
            tokens=self.tokens[rows],
            logprobs=self.logprobs[rows],
            unconditional=None if alone is None else alone[rows],
        )
