"""Ranking accuracy: whether a forecast orders two runs on a task as their finals do.

The final of a run is the mean of its last three checkpoints. Its noise is that of one checkpoint:
the standard error of the task's items, else the scatter of the trajectory, else the standard
deviation of the last three. A pair counts if both runs have the same suite, task, metric and shots,
and their finals differ by more than twice their joint noise (root of the sum of squares).

Shapes: N items, T trajectories, P pairs.
"""

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.trajectories import Trajectory

FINAL_CHECKPOINTS: Final = 3
NOISE_MULTIPLE: Final = 2.0
MIN_SCATTER: Final = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Finals:
    """Final accuracy and noise of T trajectories; NaN for fewer than three targets."""

    final: FloatArray
    noise: FloatArray


def value_noise(trajectory: Trajectory) -> float:
    """Return the standard deviation of a single accuracy; NaN where it is unknown.

    The mean known standard error of the last three checkpoints, else the root mean square of
    pseudo-residuals: how far a point lies from the line between its neighbours (Gasser, Sroka and
    Jennen-Steinmetz 1986, Biometrika 73:625), for at least ten points.
    """
    stderr = trajectory.stderrs[-FINAL_CHECKPOINTS:]
    if (known := stderr[np.isfinite(stderr) & (stderr > 0)]).size:
        return float(known.mean())
    trained = trajectory.without_step_zero()
    if len(trained) < MIN_SCATTER:
        return float("nan")
    x, y = np.log(trained.tokens), trained.values
    right = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    residual = y[1:-1] - (1.0 - right) * y[:-2] - right * y[2:]
    scale = 1.0 + right**2 + (1.0 - right) ** 2
    return float(np.sqrt((residual**2 / scale).mean()))


def finals(
    y: FloatArray, starts: IntArray, stops: IntArray, known_noise: FloatArray | None = None
) -> Finals:
    """Return the finals of trajectories: slices starts[i]:stops[i] of y (N,), in token order.

    Args:
        y: accuracies.
        starts: (T,).
        stops: (T,).
        known_noise: (T,) of one checkpoint, NaN where unknown; see `value_noise`.
    """
    final = np.full(len(starts), np.nan)
    noise = np.full(len(starts), np.nan)
    long_enough = stops - starts >= FINAL_CHECKPOINTS
    last = stops[long_enough, None] - np.arange(FINAL_CHECKPOINTS, 0, -1)
    final[long_enough] = y[last].mean(axis=1)
    noise[long_enough] = y[last].std(axis=1, ddof=1)
    if known_noise is not None:
        noise = np.where(np.isfinite(known_noise) & long_enough, known_noise, noise)
    return Finals(final=final, noise=noise)


def comparable_pairs(truth: Finals, kind: IntArray, group: IntArray) -> tuple[IntArray, IntArray]:
    """Return indices (P,), (P,) of pairs to compare: same kind, different runs, a real difference.

    Args:
        truth: finals of the T trajectories.
        kind: (T,) code of what must be equal: suite, task, metric, shots and fold.
        group: (T,) run group; trajectories of one run are not compared with each other.
    """
    order = np.argsort(kind, kind="stable")
    bounds = np.flatnonzero(np.diff(kind[order], prepend=-1, append=-1))
    firsts, seconds = [], []
    for start, stop in itertools.pairwise(bounds):
        members = order[start:stop]
        first, second = np.triu_indices(len(members), k=1)
        firsts.append(members[first])
        seconds.append(members[second])
    if not firsts:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    i, j = np.concatenate(firsts), np.concatenate(seconds)
    joint_noise = np.hypot(truth.noise[i], truth.noise[j])
    difference = np.abs(truth.final[i] - truth.final[j])
    # NaN compares false: a missing final is in no pair.
    real = (difference > NOISE_MULTIPLE * joint_noise) & (group[i] != group[j])
    return i[real].astype(np.int64), j[real].astype(np.int64)


def pair_scores(
    truth: Finals, forecast: FloatArray, first: IntArray, second: IntArray
) -> FloatArray:
    """Score pairs (P,): 1 if ordered correctly, 0 if not, 0.5 for a tie, NaN without a forecast.

    Args:
        truth: finals of the T trajectories.
        forecast: (T,) median forecast of the last target.
        first: (P,) trajectory indices.
        second: (P,) trajectory indices.
    """
    true_sign = np.sign(truth.final[first] - truth.final[second])
    difference = forecast[first] - forecast[second]
    score = (1.0 + np.sign(difference) * true_sign) / 2.0
    return np.where(np.isnan(difference), np.nan, score)
