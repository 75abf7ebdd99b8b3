"""Two forecasts of the same accuracies as one: the network's and the items'.

Shapes: h targets, Q levels, T trajectories.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN

DEFAULT_WEIGHT: Final = 0.5
"""Weight of the items where finished runs do not say. On the study's ladder half of each was 4 to
10 % better than the network alone with finished runs, and 13 to 15 % without them from 40 % of the
checkpoints on; more weight would have been better still there, and worse (1 %) at a run's first
steps (docs/results/evidence.md)."""

PRIOR_RUNS: Final = 2.0
"""The default counts as much as this many finished runs."""

_GRID: Final = np.linspace(0.0, 1.0, 21)


def combine(network: FloatArray, items: FloatArray, weight: float) -> FloatArray:
    """Return the mean of two forecasts (h, Q), level by level (Vincent 1912).

    Where the items have no answer (NaN) the network's stands as it is.

    Args:
        network: Quantiles of the cross-run network.
        items: Quantiles of an item forecaster at the same levels.
        weight: Of the items, 0 to 1.
    """
    mixed = (1.0 - weight) * network + weight * items
    return np.where(np.isnan(items), network, mixed)


def choose_weight(
    network: Sequence[FloatArray],
    items: Sequence[FloatArray],
    truths: Sequence[FloatArray],
    runs: Sequence[str],
) -> float:
    """Return the weight of the items at which held-out finished runs are forecast best.

    The error is the mean absolute one of the median, averaged within trajectories and then within
    runs, and shrunk to `DEFAULT_WEIGHT` by `PRIOR_RUNS`.

    Args:
        network: T forecasts (h, Q) of finished runs that were held out for them.
        items: As many of the item forecaster; those with NaN say nothing.
        truths: As many outcomes (h,).
        runs: The run of each.
    """
    middle = FORECAST_LEVELS.index(MEDIAN)
    errors: dict[str, list[FloatArray]] = {}
    for first, second, truth, run in zip(network, items, truths, runs, strict=True):
        if np.isnan(second).any() or np.isnan(first).any():
            continue
        medians = np.outer(1 - _GRID, first[:, middle]) + np.outer(_GRID, second[:, middle])
        errors.setdefault(run, []).append(np.abs(medians - truth).mean(axis=1))
    if not errors:
        return DEFAULT_WEIGHT
    by_run = np.mean([np.mean(of, axis=0) for of in errors.values()], axis=0)
    best = float(_GRID[int(np.argmin(by_run))])
    return (len(errors) * best + PRIOR_RUNS * DEFAULT_WEIGHT) / (len(errors) + PRIOR_RUNS)
