"""Our own ladder: each run forecast in turn, alone and with the other runs finished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from evidence.readings import LADDER_READINGS, NONE, Reading
from evidence.scores import entry
from evidence.window_study import KINDS, Windows
from neuneu.data.arrays import FloatArray
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combination import DEFAULT_WEIGHT, combine
from neuneu.forecasters.items.features import OWN, RELATIVES
from neuneu.forecasters.items.forecaster import ItemForecaster
from neuneu.forecasters.items.model import ItemModel
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.registry import load_joint_forecaster

FRACTIONS: Final = (0.2, 0.4, 0.6)
RULES: Final = ("persistence", "recent-mean", "power-law")
NEUNEU: Final = "neuneu, "
WINDOW: Final = "window, "
ITEMS: Final = "items"
WITH_ITEMS: Final = " + items"
NEUTRAL: Final = ItemModel(coefficients=np.zeros(len(OWN) + len(RELATIVES)))
"""The shipped defaults are fitted to this ladder: a prior of them would know the held-out run."""

Answers = list[FloatArray]
"""Quantiles (h, Q), or (h, 1) of a rule, of every trajectory of a run."""


class Ladder:
    """Forecasts of the runs of a ladder from a share of their checkpoints."""

    def __init__(
        self, trajectories: Sequence[Trajectory], fraction: float, folder: Path | None = None
    ) -> None:
        """Loads the forecaster.

        Args:
            trajectories: of all runs, with choices.
            fraction: share of the checkpoints that is context.
            folder: of a cross-run forecaster; None is the shipped one.
        """
        self.runs = sorted({t.run for t in trajectories})
        self._by_run = {run: [t for t in trajectories if t.run == run] for run in self.runs}
        self._split = Anchored(fraction=fraction)
        self._network = load_joint_forecaster(folder, name="neuneu")

    def truths(self, run: str) -> Answers:
        """Return the outcomes (h,) of a run."""
        return [t.values for t in make_queries(self._by_run[run], self._split, None)[1]]

    def network(self, run: str, reading: Reading, *, alone: bool) -> Answers:
        """Return what the cross-run forecaster says, given a reading of all runs."""
        self._network.fit([reading.of(t) for t in self._finished(run, alone=alone)])
        return self._network.predict(self._queries(run, reading))

    def items(self, run: str, *, alone: bool) -> Answers:
        """Return what the items say."""
        forecaster = ItemForecaster(related=NEUTRAL)
        forecaster.fit([NONE.of(t) for t in self._finished(run, alone=alone)])
        return forecaster.predict(self._queries(run, NONE))

    def rule(self, run: str, name: str) -> Answers:
        """Return what a rule says of a run from its own past, (h, 1)."""
        forecaster = make_forecaster(name)
        place = forecaster.levels.index(0.5)
        return [answer[:, [place]] for answer in forecaster.predict(self._queries(run, NONE))]

    def _queries(self, run: str, reading: Reading) -> list[Query]:
        return make_queries([reading.of(t) for t in self._by_run[run]], self._split, None)[0]

    def _finished(self, run: str, *, alone: bool) -> list[Trajectory]:
        return [] if alone else [t for o in self.runs if o != run for t in self._by_run[o]]


def mixed(answers: Answers, items: Answers) -> Answers:
    """Return a forecast that is half the items'."""
    return [combine(a, i, DEFAULT_WEIGHT) for a, i in zip(answers, items, strict=True)]


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
    trajectories: Sequence[Trajectory],
    fraction: float,
    *,
    alone: bool,
    windows: Windows | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return the scores of all forecasters at a fraction, alone or with finished runs.

    Every forecaster is compared with the same one that reads accuracies alone. The published
    network is always trained on the other runs, and so is left out alone.

    Args:
        trajectories: of all runs, with losses of the text, signals and choices.
        fraction: share of the checkpoints that is context.
        alone: whether no run is finished.
        windows: the published network; None leaves it out.
        folder: of a cross-run forecaster; None is the shipped one.
    """
    ladder = Ladder(trajectories, fraction, folder)
    several: dict[str, dict[str, Answers]] = {}
    truths: Answers = []
    runs: list[str] = []
    for run in ladder.runs:
        items = ladder.items(run, alone=alone)
        ours = {r.name: ladder.network(run, r, alone=alone) for r in LADDER_READINGS}
        found = {NEUNEU: with_items(NEUNEU, ours, items) | {ITEMS: items}}
        if alone:
            found[NEUNEU] |= {name: ladder.rule(run, name) for name in RULES}
        elif windows is not None:
            published: dict[str, Answers] = {
                kind: windows.answers(kind, run, fraction) for kind in KINDS
            }
            found[WINDOW] = with_items(WINDOW, published, items)
        for base, given in found.items():
            for name, answers in given.items():
                several.setdefault(base, {}).setdefault(name, []).extend(answers)
        truths += ladder.truths(run)
        runs += [run] * (len(truths) - len(runs))
    table: dict[str, Any] = {}
    for base, by_name in several.items():
        table |= entry(by_name, truths, runs, base + NONE.name)
    return {"forecasters": table, "n": len(truths)}


def with_items(base: str, found: Mapping[str, Answers], items: Answers) -> dict[str, Answers]:
    """Return forecasts by the forecaster's name and what it reads, each also mixed with items."""
    given = {base + name: answers for name, answers in found.items()}
    return given | {name + WITH_ITEMS: mixed(of, items) for name, of in given.items()}
