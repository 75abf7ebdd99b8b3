"""Scores beyond `summary.json`: strata, paired differences, terciles, rankings.

Shapes: T trajectories, N items.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.ranking import comparable_pairs, finals, pair_scores, value_noise
from neuneu.data.schemas import TRAJECTORY_KEY
from neuneu.data.trajectories import NEAR_CHANCE, Trajectory
from neuneu.evaluation import metrics
from neuneu.evaluation.aggregation import Estimate, RunBootstrap, trajectory_means
from neuneu.evaluation.table import EvaluationTable

EARLY: Final = 0.01
BOOTSTRAP: Final = RunBootstrap()


def owners(evaluation: EvaluationTable, test: Sequence[Trajectory]) -> list[Trajectory]:
    """Return the full trajectory of each of the T rows."""
    known = {t.key: t for t in test}
    return [known[_key(row)] for row in evaluation.trajectories]


def strata(evaluation: EvaluationTable, test: Sequence[Trajectory]) -> dict[str, Any]:
    """Return the MAE of every forecaster by kind of trajectory."""
    found = owners(evaluation, test)
    end = np.array([t.tokens[-1] for t in found])
    early = evaluation.context_tokens < EARLY * end
    labels = {
        "suite": [t.suite for t in found],
        "shots": [f"{t.num_fewshot} shots" for t in found],
        "metric": [t.metric for t in found],
        "tasks": ["MMLU" if t.base_task.startswith("mmlu") else "other" for t in found],
        "signal": ["signal" if _above_chance(t) else "near chance" for t in found],
        "context": ["within the first 1 % of tokens" if e else "later" for e in early],
    }
    group = evaluation.codes("family", "run")[1]
    result: dict[str, Any] = {}
    for name in evaluation.quantiles:
        mae = errors(evaluation, name)
        result[name] = {
            f"{kind}: {label}": _plain(
                BOOTSTRAP.means(mae[chosen, None], group[chosen])[0], int(chosen.sum())
            )
            for kind, values in labels.items()
            for label in sorted(set(values))
            if (chosen := np.array(values) == label).any()
        }
    return result


def against(
    evaluation: EvaluationTable, ours: Sequence[str], others: Sequence[str]
) -> dict[str, Any]:
    """Return ours minus each other where both answered: MAE overall, of suites, by suite; WIS."""
    group = evaluation.codes("family", "run")[1]
    suites, suite = evaluation.codes("suite")
    score: dict[str, Callable[[str], FloatArray]] = {
        "mae": lambda name: errors(evaluation, name),
        "wis": lambda name: interval_scores(evaluation, name),
    }
    values = {
        (what, name): function(name)
        for what, function in score.items()
        for name in (*ours, *others)
    }
    result: dict[str, Any] = {}
    for mine in ours:
        result[mine] = {}
        for other in others:
            both = np.isfinite(values["mae", mine]) & np.isfinite(values["mae", other])
            if not both.any():
                continue
            entry: dict[str, Any] = {}
            for what in score:
                difference = values[what, mine][both] - values[what, other][both]
                means = BOOTSTRAP.means(difference[:, None], group[both])
                entry[what] = _plain(means[0], int(both.sum()))
                suite_mean = BOOTSTRAP.mean_of_means(difference, group[both], suite[both])
                entry[f"{what}_suite_mean"] = _plain(suite_mean, int(both.sum()))
            entry["ratio"] = float(
                values["mae", mine][both].mean() / values["mae", other][both].mean()
            )
            entry["suites"] = {}
            for code, (label,) in enumerate(suites):
                here = both & (suite == code)
                if here.any():
                    difference = values["mae", mine][here] - values["mae", other][here]
                    mean = BOOTSTRAP.means(difference[:, None], group[here])[0]
                    entry["suites"][str(label)] = _plain(mean, int(here.sum()))
            result[mine][other] = entry
    return result


def terciles(evaluation: EvaluationTable, names: Sequence[str]) -> dict[str, Any]:
    """Return MAE and 80 % coverage in the first, middle and last third of the targets."""
    group = evaluation.codes("family", "run")[1]
    lengths = evaluation.stops - evaluation.starts
    place = np.concatenate([np.arange(n) * 3 // n for n in lengths])
    owner = evaluation.item_trajectory
    result: dict[str, Any] = {}
    for name in names:
        quantiles, levels = evaluation.quantiles[name], evaluation.levels[name]
        error = np.abs(quantiles[:, levels.index(0.5)] - evaluation.y)
        low, high = quantiles[:, levels.index(0.1)], quantiles[:, levels.index(0.9)]
        inside = metrics.inside_interval(low, high, evaluation.y)
        result[name] = {}
        for third, label in enumerate(("first third", "middle third", "last third")):
            chosen = place == third
            items = np.stack([error, inside], axis=1)[chosen]
            means = trajectory_means(items, owner[chosen], len(lengths))
            estimates = BOOTSTRAP.means(means, group)
            result[name][label] = {
                "mae": _plain(estimates[0], len(lengths)),
                "coverage_80": _plain(estimates[1], len(lengths)),
            }
    return result


def rankings(
    evaluation: EvaluationTable,
    test: Sequence[Trajectory],
    *,
    folds: Sequence[Sequence[tuple[str, str]]] = (),
    same_size: bool = False,
) -> dict[str, Any]:
    """Return the share of pairs ranked correctly by forecasters, size, tokens and present score.

    Args:
        evaluation: forecasts.
        test: full trajectories.
        folds: run groups forecast together; pairs are within a fold. Empty: a single fold.
        same_size: only pairs of runs with equal parameters (to two digits).
    """
    found = owners(evaluation, test)
    noise = np.array([value_noise(t) for t in found])
    truth = finals(evaluation.y, evaluation.starts, evaluation.stops, noise)
    fold = {group: number for number, groups in enumerate(folds) for group in groups}
    cells = [
        (fold.get(t.run_group, 0), t.suite, t.num_fewshot, t.task, t.metric)
        + ((f"{t.params:.1e}",) if same_size else ())
        for t in found
    ]
    code = {cell: number for number, cell in enumerate(sorted(set(cells)))}
    groups, group = evaluation.codes("family", "run")
    first, second = comparable_pairs(truth, np.array([code[c] for c in cells]), group)
    last = evaluation.stops - 1
    forecasts = {
        name: quantiles[last, evaluation.levels[name].index(0.5)]
        for name, quantiles in evaluation.quantiles.items()
    }
    now = [t.tokens <= c for t, c in zip(found, evaluation.context_tokens, strict=True)]
    forecasts |= {
        "by parameters": np.array([t.params for t in found]),
        "by tokens": np.array([t.tokens[-1] for t in found]),
        "by present score": np.array(
            [t.values[seen][-3:].mean() for t, seen in zip(found, now, strict=True)]
        ),
    }
    result = {}
    for name, forecast in forecasts.items():
        scores = pair_scores(truth, forecast, first, second)
        estimate = BOOTSTRAP.pair_mean(scores, group[first], group[second], len(groups))
        result[name] = _plain(estimate, int(np.isfinite(scores).sum()))
    return result


def errors(evaluation: EvaluationTable, name: str) -> FloatArray:
    """Return the (T,) MAE of each trajectory; NaN without an answer."""
    median = evaluation.quantiles[name][:, evaluation.levels[name].index(0.5)]
    return _per_trajectory(evaluation, np.abs(median - evaluation.y))


def interval_scores(evaluation: EvaluationTable, name: str) -> FloatArray:
    """Return the (T,) weighted interval score at the common levels; NaN without intervals.

    Forecasters without answers do not affect the common levels.
    """
    banded = [levels for levels in evaluation.levels.values() if len(levels) > 1]
    shared = metrics.shared_levels(banded or evaluation.levels.values())
    if not set(shared) <= set(evaluation.levels[name]):
        return np.full(len(evaluation.starts), np.nan)
    at = [evaluation.levels[name].index(level) for level in shared]
    quantiles = evaluation.quantiles[name][:, at]
    return _per_trajectory(
        evaluation, metrics.weighted_interval_score(quantiles, evaluation.y, shared)
    )


def _per_trajectory(evaluation: EvaluationTable, items: FloatArray) -> FloatArray:
    count = len(evaluation.starts)
    return trajectory_means(items[:, None], evaluation.item_trajectory, count)[:, 0]


def _above_chance(trajectory: Trajectory) -> bool:
    """Return whether the last values are more than three points above chance."""
    chance = trajectory.chance
    return chance is None or bool(trajectory.values[-3:].mean() > chance + NEAR_CHANCE)


def _key(row: dict[str, Any]) -> tuple[str, str, int, str, str]:
    suite, run, shots, task, metric = (row[key] for key in TRAJECTORY_KEY)
    return suite, run, shots, task, metric


def _plain(estimate: Estimate, n: int) -> dict[str, Any]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {k: None if np.isnan(v) else round(v, 6) for k, v in values.items()} | {"n": n}
