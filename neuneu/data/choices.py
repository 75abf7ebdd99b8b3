"""Evidence of a multiple-choice task: the log-probability of every choice of every item.

Accuracies and continuous metrics follow from it without an engine. Shapes: R requests (one per
item and choice, sorted by item, then choice), D items, n checkpoints.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
FloatArray32 = npt.NDArray[np.float32]


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

    def __len__(self) -> int:
        """The number of checkpoints n."""
        return len(self.steps)

    def between(self, first: int, last: int) -> "Choices":
        """Keep the checkpoints of steps `first` to `last`, as views: nothing is read or copied."""
        start = int(np.searchsorted(self.steps, first))
        stop = int(np.searchsorted(self.steps, last, side="right"))
        alone = self.unconditional
        return replace(
            self,
            steps=self.steps[start:stop],
            tokens=self.tokens[start:stop],
            logprobs=self.logprobs[start:stop],
            unconditional=None if alone is None else alone[start:stop],
        )
