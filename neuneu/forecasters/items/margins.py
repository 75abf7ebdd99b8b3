"""Margins of items: by how much the right choice beats the best other one.

Shapes: n checkpoints, D items, R requests.
"""

from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray32
from neuneu.data.choice_metrics import item_starts
from neuneu.data.choices import Choices

METRICS: Final = {
    "acc": "",
    "acc_norm": "n_chars",
    "acc_bytes": "n_bytes",
    "acc_per_token": "n_tokens",
}
"""Accuracies that margins exist for, and the length that each divides log-probabilities by."""

_MINIMAL_PAIR: Final = "minimal_pair"
_LARGEST: Final = np.float32(1e6)
_TIE_WON: Final = np.finfo(np.float32).tiny


def has_margins(choices: Choices | None, metric: str) -> bool:
    """Whether choices exist and have the lengths that a metric needs."""
    if choices is None or metric not in METRICS or not len(choices.items.labels):
        return False
    if len(choices.items.docs) == len(choices.items.labels):
        return False  # one choice an item: only the right one was scored
    return not METRICS[metric] or bool(getattr(choices.items, METRICS[metric]).any())


def item_margins(choices: Choices, metric: str) -> FloatArray32:
    """Return margins (n, D): log-probability of the right choice minus that of the best other one.

    In nats, or nats per character, byte or token. An item is right where its margin is positive,
    which reproduces the accuracies of `neuneu.scoring.multiple_choice` also where choices tie: the
    first of equal choices wins, and in a minimal pair the right one must be strictly better. A
    choice without length loses.

    Raises:
        ValueError: A metric without margins, or unknown lengths.
    """
    if not has_margins(choices, metric):
        raise ValueError(f"{choices.items.task}: no margins of {metric!r}; known: {list(METRICS)}.")
    items = choices.items
    starts = item_starts(items.docs)
    values = _densities(choices, metric)
    right = starts + items.labels
    gold = values[:, right]
    others = values.copy()
    others[:, right] = -_LARGEST
    best = np.maximum.reduceat(others, starts, axis=1)
    margins = gold - best
    if items.format != _MINIMAL_PAIR:
        for row, item in np.argwhere(margins == 0.0):
            if (values[row, starts[item] : right[item]] < gold[row, item]).all():
                margins[row, item] = _TIE_WON
    return margins


def gold_logprobs(choices: Choices) -> FloatArray32:
    """Return log-probabilities (n, D) of the right choices in nats, per token where it is known."""
    items = choices.items
    right = item_starts(items.docs) + items.labels
    lengths = np.maximum(items.n_tokens[right], 1).astype(np.float32)
    return np.asarray(choices.logprobs[:, right], np.float32) / lengths


def _densities(choices: Choices, metric: str) -> FloatArray32:
    """Log-probabilities (n, R), divided by the length that the metric asks for."""
    values = np.asarray(choices.logprobs, np.float32)
    if not METRICS[metric]:
        return values
    lengths = getattr(choices.items, METRICS[metric])
    divided = values / np.maximum(lengths, 1).astype(np.float32)
    return np.where(lengths > 0, divided, -_LARGEST)
