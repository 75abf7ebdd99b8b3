"""Coherent futures: samples of whole trajectories whose margins are the forecast quantiles.

A forecast that is too high at one checkpoint is too high at the next, on the run's other tasks and
for other runs on the same task, to some extent. Margins alone do not say so, and a mean over
checkpoints or tasks, a first passage or a difference of two runs needs it. Each target's outcome
is put on the scale of a standard normal by its forecast distribution; those scores are taken for
a Gaussian process (a Gaussian copula; Nelsen 2006, An Introduction to Copulas): the sum of a part
that all tasks of a run share, one that all runs on a task share, one of the trajectory's own, all
with an exponential covariance in ln tokens, and noise. Its parameters are fitted to the scores of
runs that the forecaster had not learnt from.
Shapes: N targets, Q levels, H targets of one query, S samples, T trajectories, K places.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError
from neuneu.data.trajectories import FloatArray, IntArray

LARGEST_SCORE: Final = 2.6
"""Outcomes beyond the forecast distribution count as this many standard deviations."""

_LAGS: Final = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
_RANGES: Final = np.geomspace(0.05, 50.0, 61)
_PAIRS: Final = 200
"""Of a trajectory at most so many pairs of targets are read."""

_CELL: Final = 0.2
"""Scores of different trajectories are compared within cells of so many ln tokens."""

_NODES: Final = 16
_MEMORY: Final = 8 * _NODES
"""Nodes a reach of paths that runs share, and how many of them a value remembers: all but e^-8."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How scores move together.

    At distance d > 0 in ln tokens the correlation is (1 - noise) exp(-d / reach) within a
    trajectory, run_share exp(-d / reach) between two tasks of a run, task_share exp(-d / reach)
    between two runs on a task, and nothing otherwise. `noise` is a checkpoint's own share.
    """

    reach: float
    noise: float
    run_share: float = 0.0
    task_share: float = 0.0

    @property
    def own_share(self) -> float:
        """What is neither noise nor shared with other trajectories."""
        return max(0.0, 1.0 - self.noise - self.run_share - self.task_share)

    def to_json(self) -> dict[str, float]:
        """JSON types; `Joint.from_json` reads them."""
        return {
            "reach": self.reach,
            "noise": self.noise,
            "run_share": self.run_share,
            "task_share": self.task_share,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Joint":
        """What `to_json` gave; shares that are not there are 0.

        Raises:
            DataError: something else.
        """
        try:
            return cls(
                reach=float(record["reach"]),
                noise=float(record["noise"]),
                run_share=float(record.get("run_share", 0.0)),
                task_share=float(record.get("task_share", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a joint distribution: {error}.") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Normal scores of N outcomes of runs that a forecaster had not learnt from.

    `x` is ln tokens. `trajectories`, `runs` and `tasks` are codes. Two targets of the same run
    code and other task codes are of one run, forecast from one place, and of other tasks; two
    of the same task code are of one task, forecast from one place with the same references.
    """

    scores: FloatArray
    x: FloatArray
    trajectories: IntArray
    runs: IntArray
    tasks: IntArray


def scores(quantiles_NQ: FloatArray, levels: tuple[float, ...], y: FloatArray) -> FloatArray:
    """(N,) standard normal scores of outcomes under their forecast distributions."""
    places, values = _support(quantiles_NQ, levels)
    # Flat pieces of a distribution would make the inverse ambiguous; a hair of slope mends it.
    values = values + 1e-9 * np.arange(values.shape[1])
    above = np.clip((values < y[:, None]).sum(axis=1), 1, values.shape[1] - 1)
    rows = np.arange(len(y))
    low, high = values[rows, above - 1], values[rows, above]
    share = np.clip((y - low) / (high - low), 0.0, 1.0)
    place = places[above - 1] + share * (places[above] - places[above - 1])
    return np.clip(_normal_quantile(place), -LARGEST_SCORE, LARGEST_SCORE)


def fit_joint(known: Scored, *, seed: int = 0) -> Joint:
    """Fits reach and noise to the mean products of scores by distance (least squares), and the
    shares to the mean products of different trajectories at like tokens.

    Args:
        known: scores.
        seed: of the choice of pairs.

    Raises:
        DataError: no trajectory of two targets.
    """
    variance = float((known.scores**2).mean())
    reach, noise = _fit_within(known, variance, np.random.default_rng(seed))
    run_share = _between(known, known.runs) / variance
    task_share = _between(known, known.tasks) / variance
    # A share of two trajectories cannot exceed what is common to one.
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
    for reach in _RANGES:
        shape = np.exp(-lag / reach)
        share = np.clip((total[used] * shape * mean).sum() / (total[used] * shape**2).sum(), 0, 1)
        loss = float((total[used] * (mean - share * shape) ** 2).sum())
        fits.append((loss, float(reach), 1.0 - float(share)))
    _, reach, noise = min(fits)
    return reach, noise


def _between(known: Scored, owner: IntArray) -> float:
    """Mean product of scores of different trajectories of one owner at like tokens, at least 0.

    Every trajectory of a cell of n counts once: a pair weighs 2 / (n - 1).
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
    pairs = total**2 - np.bincount(cell, weights=mean**2)
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
    """(S, H) accuracies in [0, 1] of each query; a column has its target's distribution.

    A query is drawn from its names and the seed: the other runs that it is drawn with do not
    change its samples, they only move with them.

    Args:
        quantiles: (H, Q) of each of T queries; NaN gives NaN.
        levels: of the columns.
        x: (H,) ln tokens of the targets of each query, increasing.
        joint: how targets move together.
        trajectories: (T,) names, different for each query. Names are told apart by their `repr`.
        runs: (T,) names; equal for the tasks of one run.
        tasks: (T,) names; equal for the runs on one task.
        count: S.
        seed: of the samples.
    """
    of_runs = _run_paths(runs, x, joint, count, seed) if joint.run_share else {}
    of_tasks = _task_paths(tasks, x, joint, count, seed) if joint.task_share else {}
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
                places, paths = shared[owner]
                normal += np.sqrt(share) * paths[:, np.searchsorted(places, targets)]
        drawn.append(_at_shares(answer, levels, _normal_share(normal)))
    return drawn


_Paths = dict[Hashable, tuple[FloatArray, FloatArray]]
"""Owner -> ((K,) all its places, (S, K) one path over them)."""


def _run_paths(
    runs: Sequence[Hashable], x: Sequence[FloatArray], joint: Joint, count: int, seed: int
) -> _Paths:
    return {
        run: (places, _paths(places, joint.reach, count, _generator(seed, "run", run)))
        for run, places in _all_places(runs, x).items()
    }


def _task_paths(
    tasks: Sequence[Hashable], x: Sequence[FloatArray], joint: Joint, count: int, seed: int
) -> _Paths:
    return {
        task: (places, _placed_paths(places, joint.reach, count, (seed, "task", task)))
        for task, places in _all_places(tasks, x).items()
    }


def _all_places(owners: Sequence[Hashable], x: Sequence[FloatArray]) -> dict[Hashable, FloatArray]:
    mine: dict[Hashable, list[FloatArray]] = {}
    for owner, targets in zip(owners, x, strict=True):
        mine.setdefault(owner, []).append(targets)
    return {owner: np.unique(np.concatenate(parts)) for owner, parts in mine.items()}


def _generator(*name: object) -> np.random.Generator:
    """A generator of its own for each name, the same in every process."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _paths(x_K: FloatArray, reach: float, count: int, generator: np.random.Generator) -> FloatArray:
    """(S, K) standard normal paths of correlation exp(-d / reach): Ornstein-Uhlenbeck, exactly."""
    paths = generator.standard_normal((count, len(x_K)))
    kept = np.exp(-np.diff(x_K) / reach)
    for place, share in enumerate(kept, start=1):
        paths[:, place] = share * paths[:, place - 1] + np.sqrt(1.0 - share**2) * paths[:, place]
    return paths


def _placed_paths(
    x_K: FloatArray, reach: float, count: int, name: tuple[object, ...]
) -> FloatArray:
    """(S, K) as `_paths`, nearly, but what is drawn at a place does not depend on the others.

    Nodes lie on one grid of ln tokens, `_NODES` in a reach. Each has noise of its own, and a
    node's value is the decaying sum of the noise of the `_MEMORY` nodes up to it, which has the
    correlation of `_paths`; between two nodes the path is a line, scaled to unit variance.
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
    """(S, H) accuracies at shares of the forecast distributions."""
    places, values = _support(quantiles_HQ, levels)
    columns = [
        np.interp(uniform_SH[:, target], places, values[target])
        for target in range(len(quantiles_HQ))
    ]
    return np.clip(np.stack(columns, axis=1), 0.0, 1.0)


def _support(
    quantiles_NQ: FloatArray, levels: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], FloatArray]:
    """Piecewise linear distributions: (Q + 2,) shares and (N, Q + 2) values.

    Beyond the outermost levels the distribution goes on as steeply as between the last two.
    """
    places = np.array([0.0, *levels, 1.0])
    low, high = quantiles_NQ[:, [0]], quantiles_NQ[:, [-1]]
    below = (quantiles_NQ[:, [1]] - low) * levels[0] / (levels[1] - levels[0])
    above = (high - quantiles_NQ[:, [-2]]) * (1.0 - levels[-1]) / (levels[-1] - levels[-2])
    return places, np.concatenate([low - below, quantiles_NQ, high + above], axis=1)


def _normal_share(z: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtr(torch.from_numpy(z)).numpy())


def _normal_quantile(share: FloatArray) -> FloatArray:
    import torch

    return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy())
