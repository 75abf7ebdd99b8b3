"""Metrics of multiple-choice tasks from the log-probabilities of their choices.

Pure functions of evidence (`data.choices`): extraction and `neuneu store metrics` get the same
numbers from the same float32 values. Shapes: n checkpoints, R requests, D items, K choices.

| metric | of an item | elsewhere |
|---|---|---|
| `acc` | largest summed log-probability is the right choice's | lm-eval `acc`, OLMES `acc_raw` |
| `acc_norm` | the same per character | lm-eval `acc_norm`, OLMES `acc_per_char` |
| `acc_bytes` | the same per byte of UTF-8 | lm-eval `acc_bytes`, OLMES `acc_per_byte` |
| `acc_per_token` | the same per token | OLMES `acc_per_token` |
| `acc_uncond` | the same of ln p(choice given question) - ln p(choice) | lm-eval `acc_mutual_info`, OLMES `acc_uncond` |
| `bpb` | -log2 p(right choice) / its bytes | OLMES `bits_per_byte_corr` |
| `p_gold` | softmax of the sums over choices, at the right one | DataDecide `norm_correct_prob` |
| `margin` | right choice minus best other, in nats per character | the sign decides `acc_norm` |
| `brier` | sum over choices of (softmax - 1 if right else 0)^2 | lm-eval `brier_score` |

A metric is the mean over items, with standard error sample sd / sqrt(D), as `mean_stderr` in
lm-evaluation-harness.
"""  # noqa: E501

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.choices import Choices, ItemSet

METRICS: Final = ("acc", "acc_norm", "acc_bytes")
"""The accuracies that an extraction stores for every task."""

ACCURACY_METRICS: Final = (*METRICS, "acc_per_token", "acc_uncond")
CONTINUOUS_METRICS: Final = ("bpb", "p_gold", "margin", "brier")
ALL_METRICS: Final = ACCURACY_METRICS + CONTINUOUS_METRICS
LOWER_IS_BETTER: Final = frozenset({"bpb", "brier"})

Values = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricSeries:
    """A metric at n checkpoints: `values` and `stderrs` (n,); stderr is NaN for a single item."""

    values: FloatArray
    stderrs: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """The items with K choices: `where` (d,) among D, `labels` (d,), requests (d, K), x (n, d, K).

    `x` are the sums in double precision, `unconditional` those of the choices alone.
    """

    where: IntArray
    labels: IntArray
    requests: IntArray
    strict: bool
    x: FloatArray
    unconditional: FloatArray | None

    def gold(self, values: FloatArray) -> FloatArray:
        """The right choice's values: (n, d) of (n, d, K)."""
        return np.take_along_axis(values, self.labels[None, :, None], axis=-1)[..., 0]

    def best_other(self, values: FloatArray) -> FloatArray:
        """The largest value among the wrong choices: (n, d) of (n, d, K)."""
        others = values.copy()
        np.put_along_axis(others, self.labels[None, :, None], -np.inf, axis=-1)
        return np.asarray(others.max(axis=-1))

    def correct(self, values: FloatArray) -> FloatArray:
        """Whether the right choice has the largest value, the first of equal ones winning.

        In a minimal pair it must be strictly larger.
        """
        if self.strict:
            return (self.gold(values) > self.best_other(values)).astype(np.float64)
        return (values.argmax(axis=-1) == self.labels).astype(np.float64)

    def per(self, counts: IntArray) -> FloatArray:
        """The sums divided by the (R,) lengths of the choices; an empty choice loses."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.x / counts[self.requests].astype(np.float64))

    def softmax(self) -> FloatArray:
        """(n, d, K) probabilities of the choices among themselves."""
        powers = np.exp(self.x - self.x.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _margin(group: _Group, items: ItemSet) -> FloatArray:
    densities = group.per(items.n_chars)
    return np.asarray(group.gold(densities) - group.best_other(densities))


def _brier(group: _Group, _: ItemSet) -> FloatArray:
    probabilities = group.softmax()
    gold = group.gold(probabilities)
    # sum (p - 1[right])^2 = sum p^2 - 2 p_gold + 1
    return np.asarray((probabilities**2).sum(axis=-1) - 2 * gold + 1)


def _uncond(group: _Group, _: ItemSet) -> FloatArray:
    assert group.unconditional is not None
    return group.correct(group.x - group.unconditional)


def _bpb(group: _Group, items: ItemSet) -> FloatArray:
    n_bytes = items.n_bytes[group.requests[np.arange(len(group.labels)), group.labels]]
    return np.asarray(-group.gold(group.x) / (math.log(2) * n_bytes))


_ITEM_METRICS: Final[Mapping[str, Callable[[_Group, ItemSet], FloatArray]]] = {
    "acc": lambda group, _: group.correct(group.x),
    "acc_norm": lambda group, items: group.correct(group.per(items.n_chars)),
    "acc_bytes": lambda group, items: group.correct(group.per(items.n_bytes)),
    "acc_per_token": lambda group, items: group.correct(group.per(items.n_tokens)),
    "acc_uncond": _uncond,
    "bpb": _bpb,
    "p_gold": lambda group, _: group.gold(group.softmax()),
    "margin": _margin,
    "brier": _brier,
}
_NEEDS: Final = {
    "acc_norm": "n_chars", "acc_bytes": "n_bytes", "acc_per_token": "n_tokens", "bpb": "n_bytes",
    "margin": "n_chars",
}  # fmt: skip


def available_metrics(items: ItemSet, *, unconditional: bool) -> list[str]:
    """The metrics that follow from evidence, in the order of `ALL_METRICS`.

    Left out are `acc_uncond` without `unconditional` log-probabilities, and metrics that divide by
    a length that is unknown (0 for all choices; `bpb` and `margin`, for any choice).
    """

    def known(metric: str) -> bool:
        if metric == "acc_uncond":
            return unconditional
        if metric not in _NEEDS:
            return True
        lengths: IntArray = getattr(items, _NEEDS[metric])
        return bool((lengths > 0).all() if metric in CONTINUOUS_METRICS else (lengths > 0).any())

    return [metric for metric in ALL_METRICS if known(metric)]


def item_scores(
    items: ItemSet,
    logprobs: Values,
    unconditional: Values | None = None,
    *,
    metrics: Sequence[str] | None = None,
) -> dict[str, FloatArray]:
    """Score each item at each checkpoint.

    Among equal choices the first one wins, as in `np.argmax` and the harness. Only in minimal pairs
    the right choice must be strictly better, because otherwise a model that finds everything
    equally likely would score 1.

    Args:
        items: D items with R requests.
        logprobs: (n, R) summed log-probabilities in nats.
        unconditional: (n, R) those of the choices without their questions.
        metrics: names from `ALL_METRICS`; by default all that are available.

    Returns:
        (n, D) values by metric.

    Raises:
        DataError: a log-probability that is not finite, or a metric that is not available.
        ValueError: arrays that do not fit the items.
    """
    for values in (logprobs,) if unconditional is None else (logprobs, unconditional):
        _check(items, values)
    known = available_metrics(items, unconditional=unconditional is not None)
    chosen = known if metrics is None else list(metrics)
    if missing := [metric for metric in chosen if metric not in known]:
        raise DataError(
            f"task {items.task}: {missing[0]} cannot be computed from its evidence; available are "
            f"{', '.join(known)}."
        )
    scores = {metric: np.empty((len(logprobs), len(items.labels))) for metric in chosen}
    for group in _groups(items, logprobs, unconditional):
        for metric in chosen:
            scores[metric][:, group.where] = _ITEM_METRICS[metric](group, items)
    return scores


def task_metrics(
    items: ItemSet,
    logprobs: Values,
    unconditional: Values | None = None,
    *,
    metrics: Sequence[str] | None = None,
) -> dict[str, MetricSeries]:
    """The means of `item_scores` over items, with their standard errors, by metric."""
    scores = item_scores(items, logprobs, unconditional, metrics=metrics)
    return {metric: _mean(values) for metric, values in scores.items()}


def choice_metrics(
    choices: Choices, *, metrics: Sequence[str] | None = None
) -> dict[str, MetricSeries]:
    """`task_metrics` of one run's choices; a series has the run's n checkpoints."""
    return task_metrics(choices.items, choices.logprobs, choices.unconditional, metrics=metrics)


def count_ties(items: ItemSet, logprobs: Values) -> IntArray:
    """Count items whose largest summed log-probability several choices share to the last bit.

    The order of choices decides them, not the model; low-precision dtypes have many.

    Returns:
        (n,) numbers of items.
    """
    ties = np.zeros(len(logprobs), np.int64)
    for group in _groups(items, logprobs, None):
        best = group.x == group.x.max(axis=-1, keepdims=True)
        ties += (best.sum(axis=-1) > 1).sum(axis=-1)
    return ties


def _mean(values: FloatArray) -> MetricSeries:
    n, n_items = values.shape
    if n_items < 2:
        return MetricSeries(values=values.mean(axis=1), stderrs=np.full(n, np.nan))
    return MetricSeries(
        values=values.mean(axis=1), stderrs=values.std(axis=1, ddof=1) / math.sqrt(n_items)
    )


def _check(items: ItemSet, values: Values) -> None:
    n_requests = len(items.docs)
    if values.ndim != 2 or values.shape[1] != n_requests:
        raise ValueError(
            f"{items.task}: expected (n, {n_requests}) sums, one a request, found {values.shape}."
        )
    finite = np.isfinite(values)
    if not finite.all():
        row, at = np.unravel_index(int(np.argmin(finite)), finite.shape)
        raise DataError(
            f"task {items.task}, document {items.docs[at]}, choice {items.choices[at]}: the "
            f"log-probability is {values[row, at]}; expected a finite number."
        )


def _groups(items: ItemSet, logprobs: Values, unconditional: Values | None) -> Iterator[_Group]:
    """Items by their number of choices, so that each group is an array."""
    starts = item_starts(items.docs)
    counts = np.diff(starts, append=len(items.docs))
    for n_choices in np.unique(counts):
        where = np.flatnonzero(counts == n_choices)
        requests = starts[where, None] + np.arange(n_choices)

        def gathered(values: Values, at: IntArray = requests) -> FloatArray:
            return np.asarray(values[:, at], dtype=np.float64)

        yield _Group(
            where=where,
            labels=items.labels[where],
            requests=requests,
            strict=items.format == "minimal_pair",
            x=gathered(logprobs),
            unconditional=None if unconditional is None else gathered(unconditional),
        )


def item_starts(docs: IntArray) -> IntArray:
    """(D,) index of the first request of each item, of (R,) sorted documents."""
    return np.flatnonzero(np.diff(docs, prepend=docs[:1] - 1))
