"""Our own ladder: each run forecast in turn, alone and with the other runs finished."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from evidence.data import some_items, with_items
from evidence.scores import entry, errors
from neuneu.data.arrays import FloatArray
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combination import DEFAULT_WEIGHT, combine
from neuneu.forecasters.items.features import OWN, RELATIVES
from neuneu.forecasters.items.forecaster import ItemForecaster
from neuneu.forecasters.items.model import ItemModel
from neuneu.forecasters.protocol import Forecaster
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.registry import load_joint_forecaster

FRACTIONS: Final = (0.2, 0.4, 0.6)
RULES: Final = ("persistence", "recent-mean", "power-law")
BASE: Final = "neuneu"
COUNTS: Final = (25, 50, 100, 300)
DRAWS: Final = 1
CURVE_AT: Final = 0.4
NEUTRAL: Final = ItemModel(coefficients=np.zeros(len(OWN) + len(RELATIVES)))
"""The shipped defaults are fitted to this ladder: a prior of them would know the held-out run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecasts:
    """Of one run: quantiles (h, Q) and outcomes (h,) of every task."""

    network: list[FloatArray]
    items: list[FloatArray]
    truths: list[FloatArray]


class Ladder:
    """Forecasts of the runs of a ladder, kept by run and references."""

    def __init__(self, trajectories: Sequence[Trajectory], fraction: float) -> None:
        self.runs = sorted({t.run for t in trajectories})
        self._by_run = {run: [t for t in trajectories if t.run == run] for run in self.runs}
        self._fraction = fraction
        self._network = load_joint_forecaster(None, name=BASE)
        self._kept: dict[tuple[str, frozenset[str]], Forecasts] = {}

    def forecasts(self, run: str, references: frozenset[str]) -> Forecasts:
        """Return the forecasts of a run from its context and finished references."""
        key = run, references
        if key not in self._kept:
            known = [t for other in sorted(references) for t in self._by_run[other]]
            items = ItemForecaster(related=NEUTRAL)
            items.fit(known)
            self._network.fit(known)
            # Others with the same references cost no second fit.
            for other in [run, *(r for r in self.runs if r not in references and r != run)]:
                queries, truths = make_queries(
                    self._by_run[other], Anchored(fraction=self._fraction), None
                )
                self._kept[other, references] = Forecasts(
                    network=self._network.predict(queries),
                    items=items.predict(queries),
                    truths=[t.values for t in truths],
                )
        return self._kept[key]

    def rule(self, run: str, forecaster: Forecaster) -> list[FloatArray]:
        """Return what a rule says of a run from its own past, (h, 1)."""
        queries, _ = make_queries(self._by_run[run], Anchored(fraction=self._fraction), None)
        place = forecaster.levels.index(0.5)
        return [answer[:, [place]] for answer in forecaster.predict(queries)]

    def references(self, run: str, *, alone: bool) -> frozenset[str]:
        """Return the finished runs for a run."""
        return frozenset() if alone else frozenset(self.runs) - {run}


def describe(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return what the ladder is."""
    items = {t.task: len(t.choices.items.labels) for t in trajectories if t.choices is not None}
    return {
        "runs": {t.run: t.params for t in trajectories},
        "tasks": len(items),
        "items": sum(items.values()),
        "checkpoints": len(trajectories[0]),
        "trajectories": len(trajectories),
    }


def case_entry(
    trajectories: Sequence[Trajectory], fraction: float, *, alone: bool
) -> dict[str, Any]:
    """Return the scores of all forecasters at a fraction, alone or with finished runs."""
    ladder = Ladder([replace(t, losses={}) for t in trajectories], fraction)
    answers: dict[str, list[FloatArray]] = {}
    truths: list[FloatArray] = []
    runs: list[str] = []
    for run in ladder.runs:
        found = ladder.forecasts(run, ladder.references(run, alone=alone))
        pairs = list(zip(found.network, found.items, strict=True))
        given = {
            BASE: found.network,
            "items": found.items,
            "neuneu + items": [combine(n, i, DEFAULT_WEIGHT) for n, i in pairs],
        } | {name: ladder.rule(run, make_forecaster(name)) for name in RULES}
        for name, of in given.items():
            answers.setdefault(name, []).extend(of)
        truths += found.truths
        runs += [run] * len(found.truths)
    return {"forecasters": entry(answers, truths, runs, BASE), "n": len(truths)}


def count_entry(trajectories: Sequence[Trajectory], count: int) -> dict[str, float]:
    """Return the error of forecasts from `count` items against the accuracy on all items."""
    runs = sorted({t.run for t in trajectories})
    full = {t.key: t for t in trajectories}
    sums: dict[str, list[FloatArray]] = {}
    for draw in range(DRAWS):
        drawn = _drawn(trajectories, count, np.random.default_rng([count, draw]))
        ladder = Ladder(drawn, CURVE_AT)
        for alone in (True, False):
            for run in runs:
                found = ladder.forecasts(run, ladder.references(run, alone=alone))
                own = [t for t in full.values() if t.run == run]
                truths = [t.values[-len(a) :] for t, a in zip(own, found.items, strict=True)]
                both = zip(found.network, found.items, strict=True)
                mixed = [combine(n, i, DEFAULT_WEIGHT) for n, i in both]
                for name, answers in ((BASE, found.network), ("neuneu + items", mixed)):
                    key = f"{'alone' if alone else 'related'}, {name}"
                    sums.setdefault(key, []).append(errors(answers, truths))
    return {key: float(np.mean(of)) for key, of in sums.items()}


def _drawn(
    trajectories: Sequence[Trajectory], count: int, generator: np.random.Generator
) -> list[Trajectory]:
    """The trajectories on random items, the same ones of a task in all runs."""
    kept: dict[str, Any] = {}
    found = []
    for t in trajectories:
        assert t.choices is not None
        total = len(t.choices.items.labels)
        if t.task not in kept:
            kept[t.task] = np.sort(generator.choice(total, min(count, total), replace=False))
        found.append(with_items(replace(t, losses={}), some_items(t.choices, kept[t.task])))
    return found
