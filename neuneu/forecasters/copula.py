"""Coherent futures: samples of whole trajectories whose margins are the forecast quantiles.

A forecast that is too high at one checkpoint tends to be too high at the next, on the run's other
tasks, and for other runs on the same task. Margins alone do not express that, but means over
checkpoints or tasks, first passages and differences between runs depend on it. A Gaussian copula
does (Nelsen 2006, An Introduction to Copulas): each outcome is mapped to a standard normal score
by its forecast distribution, and scores are modelled as a Gaussian process. It is the sum of a
part shared by all tasks of a run, one shared by all runs on a task, one of the trajectory's own,
all with an exponential covariance in ln tokens, and noise. Its parameters are fitted to the scores
of runs that the forecaster was not trained on.
Shapes: N targets, Q levels, H targets of one query, S samples, T trajectories, K grid points.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray

LARGEST_SCORE: Final = 2.6
"""Bound of scores: an outcome outside its forecast distribution would score infinity, and a few of
those would dominate every product."""

_LAGS: Final = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
"""Edges of the lag bins in ln tokens: doubling, since correlations fall fast at first."""

_REACHES: Final = np.geomspace(0.05, 50.0, 61)
"""Candidates for `reach`, from the first lag bin to far beyond any horizon. Steps of 12 % are finer
than the data can tell apart, and a grid has no local minimum to end in."""

_PAIRS: Final = 200
"""Maximum number of pairs of targets per trajectory."""

_CELL: Final = 0.2
"""Width in ln tokens of the bins in which scores of different trajectories are compared."""

_NODES: Final = 16
_MEMORY: Final = 8 * _NODES
"""Nodes per reach of paths that runs share, and the number of them that a value remembers: what is
left out weighs e^-8."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """The correlations of scores.

    At distance d > 0 in ln tokens the correlation is (1 - noise) exp(-d / reach) within a
    trajectory, run_share exp(-d / reach) between two tasks of a run, task_share exp(-d / reach)
    between two runs on a task, and nothing otherwise. `noise` is each checkpoint's own.
    """

    reach: float
    noise: float
    run_share: float = 0.0
    task_share: float = 0.0

    @property
    def own_share(self) -> float:
        """The share of the variance that is neither noise nor shared with other trajectories."""
        return max(0.0, 1.0 - self.noise - self.run_share - self.task_share)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Normal scores of N outcomes of runs that the forecaster was not trained on.

    `x` is ln tokens. `trajectories`, `runs` and `tasks` are codes: targets with equal run codes
    are of one run and were forecast from the same context fraction; targets with equal task codes
    are of one task and were forecast from the same context fraction and references.
    """

    scores: FloatArray
    x: FloatArray
    trajectories: IntArray
    runs: IntArray
    tasks: IntArray


def scores(quantiles_NQ: FloatArray, levels: tuple[float, ...], y: FloatArray) -> FloatArray:
    """Standard normal scores (N,) of outcomes under their forecast distributions."""
    knots, values = _support(quantiles_NQ, levels)
    # Where quantiles coincide the distribution jumps; a tiny slope keeps the inverse unique.
    values = values + 1e-9 * np.arange(values.shape[1])
    above = np.clip((values < y[:, None]).sum(axis=1), 1, values.shape[1] - 1)
    rows = np.arange(len(y))
    low, high = values[rows, above - 1], values[rows, above]
    share = np.clip((y - low) / (high - low), 0.0, 1.0)
    place = knots[above - 1] + share * (knots[above] - knots[above - 1])
    return np.clip(_normal_quantile(place), -LARGEST_SCORE, LARGEST_SCORE)


def fit_joint(known: Scored, *, seed: int = 0) -> Joint:
    """Fits reach and noise by least squares to the mean products of scores by distance, and the
    shares to the mean products of different trajectories at similar tokens.

    Args:
        known: scores.
        seed: for choosing pairs.

    Raises:
        DataError: no trajectory of two targets.
    """
    variance = float((known.scores**2).mean())
    reach, noise = _fit_within(known, variance, np.random.default_rng(seed))
    run_share = _between(known, known.runs) / variance
    task_share = _between(known, known.tasks) / variance
    # Trajectories cannot share more than is common to the checkpoints of one of them.
    total = max(run_share + task_share, 1e-9)
    scale = min(1.0, (1.0 - noise) / total)
    return Joint(
        reach=reach, noise=noise, run_share=scale * run_share, task_share=scale * task_share
    )


def _fit_within(
    known: Scored, variance: float, generator: np.random.Generator
) -> tuple[float, float]:
    """(reach, noise) from pairs of targets of one trajectory."""
    order = np.argsort(known.trajectories, kind="stable")
    starts = np.flatnonzero(np.diff(known.trajectories[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(order)))
    products, distances, weights = [], [], []
    for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
        count = min(_PAIRS, int(length) * (int(length) - 1) // 2)
        first = generator.integers(0, length, count)
        second = (first + generator.integers(1, length, count)) % length
        i, j = order[start + first], order[start + second]
        products.append(known.scores[i] * known.scores[j])
        distances.append(np.abs(known.x[i] - known.x[j]))
        weights.append(np.full(count, 1.0 / count))
    if not products:
        raise DataError("joint distribution: expected trajectories of two targets, found none.")
    product, distance, weight = map(np.concatenate, (products, distances, weights))
    cell = np.searchsorted(_LAGS, distance, side="right")
    total = np.bincount(cell, weights=weight)
    used = total > 0
    mean = np.bincount(cell, weights=weight * product)[used] / total[used] / variance
    lag = np.bincount(cell, weights=weight * distance)[used] / total[used]
    fits = []
    for reach in _REACHES:
        shape = np.exp(-lag / reach)
        # For a given reach the best share has a closed form.
        share = np.clip((total[used] * shape * mean).sum() / (total[used] * shape**2).sum(), 0, 1)
        loss = float((total[used] * (mean - share * shape) ** 2).sum())
        fits.append((loss, float(reach), 1.0 - float(share)))
    _, reach, noise = min(fits)
    return reach, noise


def _between(known: Scored, owner: IntArray) -> float:
    """Mean product of scores of different trajectories of one owner at similar tokens, at least 0.

    Every trajectory in a bin of n counts once, so that a pair weighs 2 / (n - 1).
    """
    place = np.floor(known.x / _CELL).astype(np.int64)
    series, first, inverse = np.unique(
        np.stack([known.trajectories, place]), axis=1, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    mean = np.bincount(inverse, weights=known.scores) / np.bincount(inverse)
    cells, cell = np.unique(np.stack([owner[first], series[1]]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    n = np.bincount(cell, minlength=cells.shape[1])
    total = np.bincount(cell, weights=mean)
    pairs = total**2 - np.bincount(cell, weights=mean**2)  # sum of m_i m_j over i != j
    many = n > 1
    if not many.any():
        return 0.0
    return max(0.0, float((pairs[many] / (n[many] - 1)).sum() / n[many].sum()))


def sample_futures(
    quantiles: Sequence[FloatArray],
    levels: tuple[float, ...],
    x: Sequence[FloatArray],
    joint: Joint,
    *,
    trajectories: Sequence[Hashable],
    runs: Sequence[Hashable],
    tasks: Sequence[Hashable],
    count: int,
    seed: int,
) -> list[FloatArray]:
    """Samples accuracies (S, H) in [0, 1] of each query; a column has its target's distribution.

    A query is sampled from its names and the seed alone: other queries do not change its samples,
    but theirs move with them.

    Args:
        quantiles: (H, Q) of each of T queries; NaN gives NaN.
        levels: of the columns.
        x: (H,) ln tokens of the targets of each query, increasing.
        joint: correlations.
        trajectories: (T,) names, one for each query. Names are identified by their `repr`.
        runs: (T,) names, equal for the tasks of one run.
        tasks: (T,) names, equal for the runs on one task.
        count: S.
        seed: for sampling.
    """
    of_runs: _Paths = {}
    of_tasks: _Paths = {}
    if joint.run_share:
        for run, grid in _grids(runs, x).items():
            generator = _generator(seed, "run", run)
            of_runs[run] = grid, _paths(grid, joint.reach, count, generator)
    if joint.task_share:
        for task, grid in _grids(tasks, x).items():
            of_tasks[task] = grid, _placed_paths(grid, joint.reach, count, (seed, "task", task))
    drawn = []
    for row, (answer, targets) in enumerate(zip(quantiles, x, strict=True)):
        generator = _generator(seed, "trajectory", trajectories[row])
        normal = np.sqrt(joint.own_share) * _paths(targets, joint.reach, count, generator)
        normal += np.sqrt(joint.noise) * generator.standard_normal(normal.shape)
        for share, shared, owner in (
            (joint.run_share, of_runs, runs[row]),
            (joint.task_share, of_tasks, tasks[row]),
        ):
            if shared:
                grid, paths = shared[owner]
                normal += np.sqrt(share) * paths[:, np.searchsorted(grid, targets)]
        drawn.append(_at_shares(answer, levels, _normal_share(normal)))
    return drawn


_Paths = dict[Hashable, tuple[FloatArray, FloatArray]]
"""Owner -> ((K,) all its grid points, (S, K) one path over them)."""


def _grids(owners: Sequence[Hashable], x: Sequence[FloatArray]) -> dict[Hashable, FloatArray]:
    mine: dict[Hashable, list[FloatArray]] = {}
    for owner, targets in zip(owners, x, strict=True):
        mine.setdefault(owner, []).append(targets)
    return {owner: np.unique(np.concatenate(parts)) for owner, parts in mine.items()}


def _generator(*name: object) -> np.random.Generator:
    """A generator for each name, the same in every process (`hash` is salted)."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _paths(x_K: FloatArray, reach: float, count: int, generator: np.random.Generator) -> FloatArray:
    """Standard normal paths (S, K) of correlation exp(-d / reach): Ornstein-Uhlenbeck, exact."""
    paths = generator.standard_normal((count, len(x_K)))
    kept = np.exp(-np.diff(x_K) / reach)
    for place, share in enumerate(kept, start=1):
        paths[:, place] = share * paths[:, place - 1] + np.sqrt(1.0 - share**2) * paths[:, place]
    return paths


def _placed_paths(
    x_K: FloatArray, reach: float, count: int, name: tuple[object, ...]
) -> FloatArray:
    """Approximates `_paths` (S, K) so that a value does not depend on the other grid points.

    Runs on one task have different grid points, and adding a run must not change the samples of
    another. So nodes lie on a fixed grid of ln tokens, `_NODES` per reach, each with noise of its
    own. A node's value is the decaying sum of the noise of the `_MEMORY` nodes up to it, which has
    the correlation of `_paths`; between nodes the path is linear, scaled to unit variance.
    """
    place = x_K * (_NODES / reach)
    left = np.floor(place).astype(np.int64)
    first = int(left.min()) - _MEMORY
    kept = np.exp(-1.0 / _NODES)
    noise = np.stack(
        [
            _generator(*name, node).standard_normal(count)
            for node in range(first, int(left.max()) + 2)
        ]
    )
    nodes = noise.copy()
    for node in range(1, len(nodes)):
        nodes[node] += kept * nodes[node - 1]
        if node >= _MEMORY:
            nodes[node] -= kept**_MEMORY * noise[node - _MEMORY]
    nodes *= np.sqrt((1.0 - kept**2) / (1.0 - kept ** (2 * _MEMORY)))
    share = (place - left)[:, None]
    scale = np.sqrt(share**2 + (1.0 - share) ** 2 + 2.0 * share * (1.0 - share) * kept)
    return ((1.0 - share) * nodes[left - first] + share * nodes[left - first + 1]).T / scale.T


def _at_shares(
    quantiles_HQ: FloatArray, levels: tuple[float, ...], uniform_SH: FloatArray
) -> FloatArray:
    """Accuracies (S, H) at the given shares of the forecast distributions."""
    knots, values = _support(quantiles_HQ, levels)
    columns = [
        np.interp(uniform_SH[:, target], knots, values[target])
        for target in range(len(quantiles_HQ))
    ]
    return np.clip(np.stack(columns, axis=1), 0.0, 1.0)


def _support(
    quantiles_NQ: FloatArray, levels: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], FloatArray]:
    """Piecewise linear distributions: (Q + 2,) shares and (N, Q + 2) values.

    Beyond the outermost levels they continue as steeply as between the last two.
    """
    knots = np.array([0.0, *levels, 1.0])
    low, high = quantiles_NQ[:, [0]], quantiles_NQ[:, [-1]]
    below = (quantiles_NQ[:, [1]] - low) * levels[0] / (levels[1] - levels[0])
    above = (high - quantiles_NQ[:, [-2]]) * (1.0 - levels[-1]) / (levels[-1] - levels[-2])
    return knots, np.concatenate([low - below, quantiles_NQ, high + above], axis=1)


def _normal_share(z: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtr(torch.from_numpy(z)).numpy())


def _normal_quantile(share: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy())
