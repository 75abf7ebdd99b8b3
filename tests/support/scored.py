"""Scored choices made by hand, and trajectories that carry them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neuneu.data.choices import Choices, ItemSet
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.margins import item_margins


def scored_choices(
    logprobs: npt.ArrayLike,
    labels: Sequence[int],
    *,
    tokens: Sequence[float],
    n_choices: int = 2,
    task: str = "t",
    run: str = "r",
    params: float = 1e6,
    form: str = "rc",
    n_chars: Sequence[int] | None = None,
) -> Choices:
    """Choices (n, D x n_choices) at some numbers of tokens; a step is a thousand tokens."""
    values = np.asarray(logprobs, np.float32)
    items, count = len(labels), len(labels) * n_choices
    lengths = np.ones(count, np.int64) if n_chars is None else np.array(n_chars, np.int64)
    return Choices(
        family="f", suite="s", run=run, params=params,
        items=ItemSet(
            task=task, task_hash=f"hash-{task}", format=form, num_fewshot=0,
            docs=np.repeat(np.arange(items), n_choices),
            choices=np.tile(np.arange(n_choices), items),
            labels=np.array(labels, np.int64),
            n_tokens=np.ones(count, np.int64), n_chars=lengths, n_bytes=lengths,
        ),
        steps=np.array([round(t / 1000) for t in tokens]), tokens=np.array(tokens, np.float64),
        logprobs=values,
    )  # fmt: skip


def pair_choices(margins: npt.ArrayLike, **kwargs: object) -> Choices:
    """Two choices an item, the first right, with the margins (n, D) given."""
    wanted = np.asarray(margins, np.float32)
    logprobs = np.stack([wanted - 5, np.full_like(wanted, -5)], axis=2).reshape(len(wanted), -1)
    return scored_choices(logprobs, [0] * wanted.shape[1], **kwargs)  # type: ignore[arg-type]


def scored_trajectory(choices: Choices, metric: str = "acc") -> Trajectory:
    """The trajectory whose accuracies follow from the choices."""
    values = (item_margins(choices, metric) > 0).mean(axis=1, dtype=np.float64)
    unknown = np.full(len(values), np.nan)
    return Trajectory(
        family=choices.family, suite=choices.suite, run=choices.run, params=choices.params,
        num_fewshot=0, task=choices.items.task, metric=metric, steps=choices.steps,
        tokens=choices.tokens, flops=6 * choices.params * choices.tokens, values=values,
        stderrs=unknown, planned_tokens=None, chance=0.5, choices=choices,
    )  # fmt: skip
