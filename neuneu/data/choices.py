"""Evidence of a multiple-choice task: the log-probability of every choice of every item.

Accuracies and continuous metrics follow from it without an engine. Shapes: R requests (one per
item and choice, sorted by item, then choice), D items, n checkpoints.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuneu.data.trajectories import FloatArray, IntArray

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
