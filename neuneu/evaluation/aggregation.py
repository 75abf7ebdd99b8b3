"""Aggregation of items: means within trajectories, means over them, intervals by bootstrap.

Runs, not checkpoints or tasks, are the independent units, since all trajectories of a run share its
training: intervals resample run groups (family, run) with replacement. Shapes: N
items, T trajectories, M metrics, G run groups, B bootstrap samples.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, IntArray

INTERVAL: Final = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval; NaN without values.

    The interval is NaN with fewer than two run groups.
    """

    value: float
    low: float
    high: float


def trajectory_means(items: FloatArray, trajectory: IntArray, n: int) -> FloatArray:
    """Average within trajectories: items (N, M), trajectory codes (N,) in 0..n-1 -> (n, M).

    A trajectory without items, or with a NaN item, is NaN for that metric: a partly answered
    forecast counts as unanswered.
    """
    count = np.bincount(trajectory, minlength=n).astype(np.float64)
    sums = [np.bincount(trajectory, weights=column, minlength=n) for column in items.T]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=1) / count[:, None] if sums else np.zeros((n, 0))


@dataclass(frozen=True, kw_only=True)
class RunBootstrap:
    """Resamples run groups, alike for every forecaster.

    Differences between two forecasters on the same trajectories are therefore paired.
    """

    samples: int = 1000
    seed: int = 0
    _cache: dict[int, FloatArray] = field(default_factory=dict, repr=False, compare=False)

    def weights(self, n_groups: int) -> FloatArray:
        """Return how often each group is drawn, (B, n_groups); rows sum to n_groups."""
        if n_groups not in self._cache:
            generator = np.random.default_rng([self.seed, n_groups])
            drawn = generator.multinomial(
                n_groups, np.full(n_groups, 1.0 / n_groups), size=self.samples
            )
            self._cache[n_groups] = drawn.astype(np.float64)
        return self._cache[n_groups]

    def means(self, values: FloatArray, group: IntArray) -> list[Estimate]:
        """Return the mean of each column of (T, M) with its interval.

        Args:
            values: (T, M); NaN is ignored.
            group: (T,) run group of each trajectory, any integers.
        """
        sums, counts = self._group_sums(values, group)
        weights = self.weights(len(sums))
        with np.errstate(invalid="ignore", divide="ignore"):
            point = sums.sum(axis=0) / counts.sum(axis=0)
            drawn = (weights @ sums) / (weights @ counts)
        return [
            _estimate(point[m], drawn[:, m], int((counts[:, m] > 0).sum()))
            for m in range(values.shape[1])
        ]

    def mean_of_means(self, values: FloatArray, group: IntArray, part: IntArray) -> Estimate:
        """Return the mean over parts (such as suites) of the means of values (T,) within them.

        A resample without some part averages the others.
        """
        parts = np.unique(part)
        masked = np.stack([np.where(part == p, values, np.nan) for p in parts], axis=1)
        sums, counts = self._group_sums(masked, group)
        weights = self.weights(len(sums))
        with np.errstate(invalid="ignore", divide="ignore"):
            point = _nanmean(sums.sum(axis=0) / counts.sum(axis=0))
            drawn = _nanmean((weights @ sums) / (weights @ counts))
        return _estimate(float(point), drawn, int((counts > 0).any(axis=1).sum()))

    def pair_mean(
        self, scores: FloatArray, first: IntArray, second: IntArray, n_groups: int
    ) -> Estimate:
        """Return the mean score (P,) of pairs of run groups, weighted by both runs in resamples."""
        answered = ~np.isnan(scores)
        scores, first, second = scores[answered], first[answered], second[answered]
        if len(scores) == 0:
            return Estimate(value=np.nan, low=np.nan, high=np.nan)
        total = np.zeros((n_groups, n_groups))
        count = np.zeros((n_groups, n_groups))
        np.add.at(total, (first, second), scores)
        np.add.at(count, (first, second), 1.0)
        weights = self.weights(n_groups)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = ((weights @ total) * weights).sum(axis=1) / ((weights @ count) * weights).sum(
                axis=1
            )
        involved = len(np.unique(np.concatenate([first, second])))
        # Two runs make one pair, which every resample scores alike.
        return _estimate(float(scores.mean()), drawn, involved if involved > 2 else 0)

    @staticmethod
    def _group_sums(values: FloatArray, group: IntArray) -> tuple[FloatArray, FloatArray]:
        known, code = np.unique(group, return_inverse=True)
        present = ~np.isnan(values)
        sums = np.zeros((len(known), values.shape[1]))
        counts = np.zeros_like(sums)
        np.add.at(sums, code, np.where(present, values, 0.0))
        np.add.at(counts, code, present.astype(np.float64))
        return sums, counts


def _nanmean(values: FloatArray) -> FloatArray:
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(present, values, 0.0).sum(axis=-1) / present.sum(axis=-1))


def _estimate(value: float, drawn: FloatArray, n_groups: int) -> Estimate:
    drawn = drawn[~np.isnan(drawn)]
    if n_groups < 2 or len(drawn) == 0:
        return Estimate(value=float(value), low=np.nan, high=np.nan)
    low, high = np.percentile(drawn, INTERVAL)
    return Estimate(value=float(value), low=float(low), high=float(high))
