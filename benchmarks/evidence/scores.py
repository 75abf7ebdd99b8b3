"""Scores of forecasters on the same trajectories, with intervals over runs.

Shapes: T trajectories, M forecasters, h targets, Q levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN, inside_80
from neuneu.evaluation.aggregation import RunBootstrap

Answers = Sequence[FloatArray]
"""(h, Q) of each trajectory at `FORECAST_LEVELS`, or (h, 1) of a rule without intervals."""


def middle(answer: FloatArray) -> FloatArray:
    """Return the median (h,)."""
    return answer[:, 0 if answer.shape[1] == 1 else FORECAST_LEVELS.index(MEDIAN)]


def errors(answers: Answers, truths: Sequence[FloatArray]) -> FloatArray:
    """Return the mean absolute error of the median of each trajectory, (T,)."""
    pairs = zip(answers, truths, strict=True)
    return np.array([np.abs(middle(answer) - truth).mean() for answer, truth in pairs])


def entry(
    answers: Mapping[str, Answers], truths: Sequence[FloatArray], runs: Sequence[str], base: str
) -> dict[str, Any]:
    """Return MAE, its difference from that of `base`, and 80 % coverage of every forecaster."""
    bootstrap = RunBootstrap()
    group = np.unique(runs, return_inverse=True)[1]
    mae = {name: errors(given, truths) for name, given in answers.items()}
    table = {}
    for name, given in answers.items():
        value, difference = bootstrap.means(
            np.stack([mae[name], mae[name] - mae[base]], axis=1), group
        )
        table[name] = {
            "mae": vars(value),
            "minus_base": vars(difference),
            "coverage": _coverage(given, truths),
            "width": _width(given),
        }
    return table


def _coverage(answers: Answers, truths: Sequence[FloatArray]) -> float | None:
    if answers[0].shape[1] == 1:
        return None
    pairs = zip(answers, truths, strict=True)
    return float(np.mean([inside_80(a, t, FORECAST_LEVELS).mean() for a, t in pairs]))


def _width(answers: Answers) -> float | None:
    if answers[0].shape[1] == 1:
        return None
    low, high = FORECAST_LEVELS.index(0.1), FORECAST_LEVELS.index(0.9)
    return float(np.mean([(a[:, high] - a[:, low]).mean() for a in answers]))
