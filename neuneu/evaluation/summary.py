"""Content of `summary.json`: scores of every forecaster, overall and sliced, with intervals.

MAE is the mean over the later checkpoints of a trajectory, then the plain mean over
trajectories; every other metric is averaged the same way. RMSE is the root of the mean of the
trajectories' mean squared errors. Errors are fractions of 1 (0.01 = one point).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from neuneu.core.formatting import format_count
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.quantiles import MEDIAN
from neuneu.data.ranking import comparable_pairs, finals, pair_scores
from neuneu.data.schemas import TRAJECTORY_KEY
from neuneu.data.trajectories import RunGroup
from neuneu.evaluation import metrics
from neuneu.evaluation.aggregation import Estimate, RunBootstrap, trajectory_means
from neuneu.evaluation.table import EvaluationTable, read_evaluation

"""(family, run)."""

METRICS: Final = (
    "mae",
    "rmse",
    "pinball",
    "wis",
    *(f"coverage_{percent}" for percent in metrics.INTERVALS),
    *(f"width_{percent}" for percent in metrics.INTERVALS),
)
"""Metrics of an item, in column order; `rmse` holds squared errors until they are averaged."""

HORIZON_EDGES: Final = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 100.0, np.inf)
"""Bins of target tokens / context tokens."""

CONTEXT_EDGES: Final = (0.0, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, np.inf)
"""Bins of training tokens at the end of the context."""


@dataclass(frozen=True, kw_only=True)
class RunMetadata:
    """What a fair summary needs and the forecasts table lacks.

    `folds`: run groups held out together, which are no references of each other; runs of different
    folds are not ranked against each other. Empty: one fold. `trained_on`: forecaster -> run
    groups of the targets that it was trained on. `tasks`: task -> (base task, task group).
    `noise`: (suite, run, num_fewshot, task, metric) -> standard deviation of one accuracy, which
    decides which differences a ranking counts.
    """

    folds: tuple[tuple[RunGroup, ...], ...] = ()
    trained_on: Mapping[str, frozenset[RunGroup]] = field(default_factory=dict)
    tasks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    noise: Mapping[tuple[object, ...], float] = field(default_factory=dict)


def summarise(
    forecasts: pa.Table,
    *,
    bootstrap: RunBootstrap | None = None,
    known: RunMetadata | None = None,
) -> dict[str, Any]:
    """Score every forecaster of a forecasts table; JSON types, NaN becomes null.

    Returns:
        `protocol`, `levels_compared`, `counts`, `forecasters` (name -> sees, levels, trained_on
        and the slices `overall`, `by_suite`, `by_run`, `by_task_group`, `by_task`,
        `by_context_tokens`, `by_horizon`, and `by_exposure` where runs were seen), and `paired`.

    Raises:
        DataError: a table that cannot be scored.
    """
    table, known = read_evaluation(forecasts), known or RunMetadata()
    scorer = _Scorer(table=table, bootstrap=bootstrap or RunBootstrap(), known=known)
    return {
        "protocol": table.protocol,
        "levels_compared": list(scorer.levels),
        "counts": _counts(table, known),
        "forecasters": {name: scorer.forecaster(name) for name in table.quantiles},
        "paired": scorer.paired(),
    }


def _counts(table: EvaluationTable, known: RunMetadata) -> dict[str, Any]:
    rows = table.trajectories
    return {
        "trajectories": len(rows),
        "forecast_checkpoints": len(table.y),
        "run_groups": len(table.codes("family", "run")[0]),
        "runs": len(table.codes("suite", "run")[0]),
        "suites": len(table.codes("suite")[0]),
        "tasks": len({row["task"] for row in rows}),
        "base_tasks": len({_task(known, row)[0] for row in rows}),
        "folds": len(known.folds) or 1,
    }


class _Scorer:
    """Scores the forecasters of one table; holds what they share (slices, pairs, resamples)."""

    def __init__(
        self, *, table: EvaluationTable, bootstrap: RunBootstrap, known: RunMetadata
    ) -> None:
        self._table, self._bootstrap, self._known = table, bootstrap, known
        self._groups, self._group = table.codes("family", "run")
        self._suite = table.codes("suite")[1]
        self._trajectory = table.item_trajectory
        self._horizon = table.tokens / np.repeat(table.context_tokens, table.stops - table.starts)
        self.levels = metrics.shared_levels(table.levels.values())
        self._items = {name: self._score_items(name) for name in table.quantiles}
        everything = np.ones(len(table.y), dtype=bool)
        self._means = {name: self._reduce(name, everything) for name in table.quantiles}
        noise = [
            known.noise.get(tuple(row[key] for key in TRAJECTORY_KEY), np.nan)
            for row in table.trajectories
        ]
        self._truth = finals(table.y, table.starts, table.stops, np.array(noise))
        self._pairs = comparable_pairs(self._truth, self._rank_key(), self._group)

    def forecaster(self, name: str) -> dict[str, Any]:
        """Return the summary of one forecaster."""
        rows = self._table.trajectories
        trained_on = self._known.trained_on.get(name, frozenset())
        tasks = [_task(self._known, row) for row in rows]
        context = _bins(self._table.context_tokens, CONTEXT_EDGES)
        result: dict[str, Any] = {
            "sees": self._table.sees[name],
            "levels": list(self._table.levels[name]),
            "trained_on": ["/".join(group) for group in sorted(trained_on)],
            "overall": self._slice(name, np.arange(len(rows)), ranked=True),
            "by_suite": self._slices(name, [row["suite"] for row in rows], ranked=True),
            "by_run": self._slices(name, [f"{row['family']}/{row['run']}" for row in rows]),
            "by_task_group": self._slices(name, [task[1] for task in tasks], ranked=True),
            "by_task": self._slices(name, [task[0] for task in tasks], brief=True),
            "by_context_tokens": self._slices(name, context[0], order=context[1]),
            "by_horizon": self._by_horizon(name),
        }
        if trained_on:
            seen = ["seen" if group in trained_on else "unseen" for group in self._run_of()]
            result["by_exposure"] = self._slices(name, seen, ranked=True)
        return result

    def paired(self) -> dict[str, Any]:
        """Compare MAEs on the trajectories that all forecasters with any answer answered.

        Runs that a forecaster was trained on are left out if any others remain.
        """
        mae = {name: means[:, 0] for name, means in self._means.items()}
        answering = [name for name in mae if not np.isnan(mae[name]).all()]
        common = np.ones(len(self._group), dtype=bool)
        for name in answering:
            common &= ~np.isnan(mae[name])
        seen = frozenset().union(*(self._known.trained_on.get(n, ()) for n in answering))
        fresh = common & np.array([group not in seen for group in self._run_of()], dtype=bool)
        includes_seen = bool(seen) and not fresh.any()
        chosen = common if includes_seen else fresh
        if not answering or not chosen.any():
            return {"n_trajectories": 0, "forecasters": [], "includes_seen_runs": False}
        stacked = np.stack([mae[name][chosen] for name in answering], axis=1)
        group = self._group[chosen]
        scores = self._bootstrap.means(stacked, group)
        differences = {
            name: dict(
                zip(
                    answering,
                    map(_plain, self._bootstrap.means(stacked[:, [column]] - stacked, group)),
                    strict=True,
                )
            )
            for column, name in enumerate(answering)
        }
        return {
            "n_trajectories": int(chosen.sum()),
            "n_run_groups": len(np.unique(group)),
            "includes_seen_runs": includes_seen,
            "forecasters": answering,
            "mae": {name: _plain(score) for name, score in zip(answering, scores, strict=True)},
            "mae_minus": differences,
        }

    def _score_items(self, name: str) -> FloatArray:
        """Return (N, M) scores in the order of METRICS."""
        table = self._table
        quantiles, levels, y = table.quantiles[name], table.levels[name], table.y
        at = {level: index for index, level in enumerate(levels)}
        median = quantiles[:, at[MEDIAN]]
        # A point forecast is one whose quantiles coincide.
        compared = np.stack(
            [quantiles[:, at[level]] if level in at else median for level in self.levels], axis=1
        )
        columns = [
            metrics.absolute_error(median, y),
            (y - median) ** 2,
            metrics.mean_pinball(compared, y, self.levels),
            metrics.weighted_interval_score(compared, y, self.levels),
        ]
        missing = np.full(len(y), np.nan)
        intervals = [
            (quantiles[:, at[low]], quantiles[:, at[high]])
            if low in at and high in at
            else (missing, missing)
            for low, high in metrics.INTERVALS.values()
        ]
        columns += [metrics.inside_interval(lower, upper, y) for lower, upper in intervals]
        columns += [upper - lower for lower, upper in intervals]
        return np.stack(columns, axis=1)

    def _reduce(self, name: str, items: np.ndarray) -> FloatArray:
        """Return (T, M) trajectory means over the items of a mask; NaN without any."""
        n = len(self._table.starts)
        return trajectory_means(self._items[name][items], self._trajectory[items], n)

    def _slices(
        self,
        name: str,
        labels: Sequence[object],
        *,
        order: Sequence[str] | None = None,
        ranked: bool = False,
        brief: bool = False,
    ) -> dict[str, Any]:
        array = np.array([str(label) for label in labels])
        return {
            label: self._slice(name, np.flatnonzero(array == label), ranked=ranked, brief=brief)
            for label in order or sorted(set(array.tolist()))
        }

    def _slice(
        self, name: str, members: IntArray, *, ranked: bool = False, brief: bool = False
    ) -> dict[str, Any]:
        result = self._estimates(self._means[name][members], members, brief=brief)
        if not brief:
            result["mae_suite_mean"] = _plain(
                self._bootstrap.mean_of_means(
                    self._means[name][members, 0], self._group[members], self._suite[members]
                )
            )
        if ranked:
            result |= self._ranking(name, members)
        return result

    def _by_horizon(self, name: str) -> dict[str, Any]:
        labels, order = _bins(self._horizon, HORIZON_EDGES)
        array = np.array(labels)
        result = {}
        for label in order:
            items = array == label
            members = np.unique(self._trajectory[items])
            result[label] = self._estimates(self._reduce(name, items)[members], members)
        return result

    def _estimates(
        self, means: FloatArray, members: IntArray, *, brief: bool = False
    ) -> dict[str, Any]:
        group = self._group[members]
        estimates = dict(zip(METRICS, self._bootstrap.means(means, group), strict=True))
        mse = estimates["rmse"]
        estimates["rmse"] = Estimate(
            **{key: float(np.sqrt(value)) for key, value in asdict(mse).items()}
        )
        kept = ("mae", "coverage_80") if brief else METRICS
        return {
            "n_trajectories": len(members),
            "n_answered": int((~np.isnan(means[:, 0])).sum()),
            "n_run_groups": len(np.unique(group)),
        } | {metric: _plain(estimates[metric]) for metric in kept}

    def _ranking(self, name: str, members: IntArray) -> dict[str, Any]:
        first, second = self._pairs
        chosen = np.isin(first, members) & np.isin(second, members)
        first, second = first[chosen], second[chosen]
        median = self._table.levels[name].index(MEDIAN)
        last = self._table.quantiles[name][self._table.stops - 1, median]
        scores = pair_scores(self._truth, last, first, second)
        estimate = self._bootstrap.pair_mean(
            scores, self._group[first], self._group[second], len(self._groups)
        )
        return {
            "ranking_accuracy": _plain(estimate),
            "n_pairs": len(scores),
            "n_pairs_answered": int((~np.isnan(scores)).sum()),
        }

    def _rank_key(self) -> IntArray:
        codes = self._table.codes("suite", "num_fewshot", "task", "metric")[1]
        fold = {group: i for i, groups in enumerate(self._known.folds) for group in groups}
        in_fold = np.array([fold.get(group, -1) for group in self._run_of()], dtype=np.int64)
        return codes * (len(self._known.folds) + 1) + in_fold + 1

    def _run_of(self) -> list[RunGroup]:
        return [
            (str(family), str(run)) for family, run in (self._groups[code] for code in self._group)
        ]


def _task(known: RunMetadata, row: dict[str, object]) -> tuple[str, str]:
    base_task, group = known.tasks.get(str(row["task"]), (str(row["task"]), ""))
    return base_task, group or "ungrouped"


def _plain(estimate: Estimate) -> dict[str, float | None] | None:
    if np.isnan(estimate.value):
        return None
    return {k: None if np.isnan(v) else round(v, 6) for k, v in asdict(estimate).items()}


def _bins(values: FloatArray, edges: Sequence[float]) -> tuple[list[str], list[str]]:
    """Return the bin of each value and the bins in use: `1.5-2`, `10M-100M`, `>100`; low open."""
    names = [format_count(edge) for edge in edges]
    labels = [
        f">{low}" if np.isinf(edge) else f"{low}-{high}"
        for low, high, edge in zip(names[:-1], names[1:], edges[1:], strict=True)
    ]
    index = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(labels) - 1)
    return [labels[i] for i in index], [labels[i] for i in np.unique(index)]
