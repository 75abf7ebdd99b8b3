"""Gemstones: each size forecast from the others, with the losses of the right answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from families.data import load_families

from evidence.data import GoldLosses, read_gold_losses
from evidence.scores import entry, errors
from neuneu.core.progress import stage
from neuneu.data.arrays import FloatArray
from neuneu.data.choices import Choices, ItemSet
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combination import choose_weight, combine
from neuneu.forecasters.items.gold import GoldForecaster
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.registry import load_joint_forecaster

FRACTIONS: Final = (0.2, 0.4)
SIZES: Final = (80e6, 200e6)
"""Parameters that divide 48 to 67, 95 to 117 and 475 to 543 million."""

BASE: Final = "neuneu"
RULES: Final = ("persistence", "recent-mean", "power-law")


def gemstones_entry(shared: Path, unseen: Path) -> dict[str, Any]:
    """Return the scores of all forecasters by fraction.

    Args:
        shared: Folder with families/gemstones.
        unseen: A cross-run forecaster that was not trained on Gemstones.
    """
    plain = load_families(shared, ["gemstones"])["gemstones"]
    gold = {(of.run, of.task): of for of in read_gold_losses(
        shared / "families" / "gemstones" / "item_losses.parquet"
    )}  # fmt: skip
    trajectories = [with_gold(t, gold[t.run, t.task]) for t in plain]
    cases = {}
    with stage("gemstones", 3 * len(FRACTIONS)) as bar:
        for fraction in FRACTIONS:
            study = Study(trajectories, fraction, unseen)
            answers: dict[str, list[FloatArray]] = {}
            truths: list[FloatArray] = []
            runs: list[str] = []
            weights = {}
            for size in range(3):
                others = frozenset(range(3)) - {size}
                weights[str(size)] = study.weight(size)
                given = study.forecasts(size, others)
                both = list(zip(given[BASE], given["gold"], strict=True))
                given |= {
                    "neuneu + gold": [combine(n, g, weights[str(size)]) for n, g in both],
                    "neuneu + gold, 0.3": [combine(n, g, 0.3) for n, g in both],
                }
                for name, of in given.items():
                    answers.setdefault(name, []).extend(of)
                truths += study.truths(size)
                runs += study.runs(size)
                bar.advance()
            cases[f"{fraction:g}"] = {
                "forecasters": entry(answers, truths, runs, BASE),
                "sizes": [
                    {
                        name: float(errors(of, truths)[np.isin(runs, study.runs(size))].mean())
                        for name, of in answers.items()
                    }
                    for size in range(3)
                ],
                "weights": weights,
                "n": len(truths),
            }
    return {"runs": len({t.run for t in trajectories}), "cases": cases}


def scatter_entry(shared: Path) -> float:
    """Return by how much accuracies scatter around a smooth course, as a mean absolute error.

    From second differences, whose mean absolute value is sqrt(6) times that of independent errors.
    """
    trajectories = load_families(shared, ["gemstones"])["gemstones"]
    values = [t.without_step_zero().values for t in trajectories]
    late = [np.diff(of[int(FRACTIONS[0] * len(of)) + 1 :], 2) for of in values]
    return float(np.mean([np.abs(of).mean() for of in late]) / np.sqrt(6))


class Study:
    """Forecasts of the runs of a size from those of other sizes, at one fraction."""

    def __init__(self, trajectories: Sequence[Trajectory], fraction: float, unseen: Path) -> None:
        self._sizes = [[t for t in trajectories if size_of(t) == size] for size in range(3)]
        self._split = Anchored(fraction=fraction)
        self._network = load_joint_forecaster(unseen, name=BASE)
        self._kept: dict[tuple[int, frozenset[int]], dict[str, list[FloatArray]]] = {}

    def truths(self, size: int) -> list[FloatArray]:
        """Return the outcomes (h,) of every trajectory of a size."""
        return [t.values for t in make_queries(self._sizes[size], self._split, None)[1]]

    def runs(self, size: int) -> list[str]:
        """Return the run of every trajectory of a size."""
        return [q.context.run for q in make_queries(self._sizes[size], self._split, None)[0]]

    def forecasts(self, size: int, references: frozenset[int]) -> dict[str, list[FloatArray]]:
        """Return the forecasts of the runs of a size from finished runs of other sizes."""
        key = size, references
        if key not in self._kept:
            queries, _ = make_queries(self._sizes[size], self._split, None)
            known = [t for other in sorted(references) for t in self._sizes[other]]
            given: dict[str, list[FloatArray]] = {}
            for name in RULES:
                rule = make_forecaster(name)
                place = rule.levels.index(0.5)
                given[name] = [answer[:, [place]] for answer in rule.predict(queries)]
            self._network.fit([])
            given["neuneu, alone"] = self._network.predict(queries)
            self._network.fit(known)
            given[BASE] = self._network.predict(queries)
            gold = GoldForecaster()
            gold.fit(known)
            given["gold"] = gold.predict(queries)
            self._kept[key] = given
        return dict(self._kept[key])

    def weight(self, size: int) -> float:
        """Return the weight that the other sizes ask for, each forecast from the third one."""
        network, gold, truths, runs = [], [], [], []
        for other in range(3):
            if other != size:
                found = self.forecasts(other, frozenset(range(3)) - {size, other})
                network += found[BASE]
                gold += found["gold"]
                truths += self.truths(other)
                runs += self.runs(other)
        return choose_weight(network, gold, truths, runs)


def size_of(trajectory: Trajectory) -> int:
    """Return 0, 1 or 2."""
    return int(np.searchsorted(SIZES, trajectory.params))


def with_gold(trajectory: Trajectory, gold: GoldLosses) -> Trajectory:
    """Return a trajectory whose choices are the right answers alone, one request an item."""
    count = gold.losses.shape[1]
    unknown = np.zeros(count, np.int64)
    items = ItemSet(
        task=trajectory.task, task_hash=trajectory.task, format="rc", num_fewshot=0,
        docs=np.arange(count), choices=unknown, labels=unknown, n_tokens=unknown,
        n_chars=unknown, n_bytes=unknown,
    )  # fmt: skip
    choices = Choices(
        family=trajectory.family, suite=trajectory.suite, run=trajectory.run,
        params=trajectory.params, items=items, steps=trajectory.steps, tokens=trajectory.tokens,
        logprobs=-np.clip(np.nan_to_num(gold.losses, nan=50.0, posinf=50.0), 0.0, 50.0),
    )  # fmt: skip
    return replace(trajectory, choices=choices)
