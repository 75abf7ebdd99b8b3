"""How many items are enough: forecasts from some random items of every task.

Shapes: T tasks, R runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from evidence.data import some_items, with_items
from evidence.ladder_study import Ladder, mixed
from evidence.readings import NONE
from evidence.scores import errors
from neuneu.core.progress import stage
from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.aggregation import INTERVAL, RunBootstrap

COUNTS: Final = (25, 50, 100, 300)
FEW: Final = 100
DRAWS: Final = 5
AT: Final = 0.4
PLAIN: Final = "neuneu"
BOTH: Final = "neuneu + items"

ByTask = dict[str, FloatArray]
"""Errors (T, R) by `alone` or `related` and forecaster."""


def counts_entry(
    trajectories: Sequence[Trajectory],
    *,
    counts: Sequence[int] = COUNTS,
    few: int = FEW,
    draws: int = DRAWS,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return errors against the accuracy on all items by the number of items that are evaluated.

    Args:
        trajectories: of all runs, with choices.
        counts: numbers of items of a task; the last one is all of them.
        few: the number whose tasks are counted: how many are forecast with items as well as from
            all items without.
        draws: random sets of items, whose errors are averaged.
        folder: of a cross-run forecaster; None is the shipped one.
    """
    found = {}
    with stage("numbers of items", len(counts)) as bar:
        for count in counts:
            once = count == counts[-1]
            found[count] = count_errors(trajectories, count, 1 if once else draws, folder)
            bar.advance()
    everything = found[counts[-1]]
    return {
        "draws": draws,
        "few": few,
        "all": counts[-1],
        "curve": {
            str(count): {name: float(of.mean()) for name, of in by_task.items()}
            for count, by_task in found.items()
        },
        "tasks": len(everything[f"alone, {PLAIN}"]),
        "as_good": {
            f"{with_runs}, {name}": as_good(
                found[few][f"{with_runs}, {name}"], everything[f"{with_runs}, {PLAIN}"]
            )
            for with_runs in ("alone", "related")
            for name in (BOTH, PLAIN)
        },
    }


def count_errors(
    trajectories: Sequence[Trajectory], count: int, draws: int, folder: Path | None = None
) -> ByTask:
    """Return the errors of forecasts from `count` items, averaged over draws."""
    full = {t.key: t for t in trajectories}
    sums: dict[str, list[FloatArray]] = {}
    for draw in range(draws):
        drawn = draw_items(trajectories, count, np.random.default_rng([count, draw]))
        ladder = Ladder(drawn, AT, folder)
        by_run: dict[str, list[FloatArray]] = {}
        for alone in (True, False):
            for run in ladder.runs:
                network = ladder.network(run, NONE, alone=alone)
                both = mixed(network, ladder.items(run, alone=alone))
                own = [t for t in full.values() if t.run == run]
                truths = [t.values[-len(a) :] for t, a in zip(own, network, strict=True)]
                for name, answers in ((PLAIN, network), (BOTH, both)):
                    key = f"{'alone' if alone else 'related'}, {name}"
                    by_run.setdefault(key, []).append(errors(answers, truths))
        for key, of in by_run.items():
            sums.setdefault(key, []).append(np.stack(of, axis=1))
    return {key: np.mean(of, axis=0) for key, of in sums.items()}


def as_good(few: FloatArray, everything: FloatArray) -> dict[str, float]:
    """Return the share of tasks whose mean error over runs is not above another's, (T, R) each.

    With its 95 % interval over runs, as `scores.entry`.
    """
    difference = few - everything
    weights = RunBootstrap().weights(difference.shape[1])
    shares = (weights @ difference.T <= 0).mean(axis=1)
    low, high = np.percentile(shares, INTERVAL)
    value = float((difference.mean(axis=1) <= 0).mean())
    return {"value": value, "low": float(low), "high": float(high)}


def draw_items(
    trajectories: Sequence[Trajectory], count: int, generator: np.random.Generator
) -> list[Trajectory]:
    """Return the trajectories on random items, the same ones of a task in all runs."""
    kept: dict[str, Any] = {}
    found = []
    for t in trajectories:
        assert t.choices is not None
        total = len(t.choices.items.labels)
        if t.task not in kept:
            kept[t.task] = np.sort(generator.choice(total, min(count, total), replace=False))
        found.append(with_items(t, some_items(t.choices, kept[t.task])))
    return found
