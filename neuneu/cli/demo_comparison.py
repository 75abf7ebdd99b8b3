"""How the demo ends: every run of the ladder forecast from its first fifth beside the others.

The package's forecaster, with and without the evidence behind the accuracies (the log-probability
of every choice), is compared with simple rules and an oracle. Then `rank` and `when` answer for a
held-out run as if it were still running.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.data.arrays import FloatArray
from neuneu.data.load import Dataset, load_dataset
from neuneu.data.splits import Anchored
from neuneu.data.store.store import Store
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import Answer
from neuneu.decisions.predictor import Predictor
from neuneu.evaluation.backtest import run_backtest
from neuneu.evaluation.summary import summarise
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combined import WithItems
from neuneu.forecasters.protocol import Forecaster, Query
from neuneu.forecasters.registry import load_joint_forecaster
from neuneu.forecasters.wrapper import ForecasterWrapper

RULES: Final = ("persistence", "power-law", "logistic-law")
METRIC: Final = "acc"
EVIDENCE: Final = "neuneu + evidence"


class AccuraciesAlone(ForecasterWrapper):
    """A forecaster that is shown accuracies only: no losses, no scored choices."""

    def fit(self, references: Sequence[Trajectory]) -> None:
        """Takes the accuracies of finished runs as references."""
        super().fit([t.accuracies_alone() for t in references])

    def predict(self, queries: Sequence[Query]) -> list[FloatArray]:
        """Quantiles (h, Q) of each query, from the accuracies of its context."""
        return super().predict([replace(q, context=q.context.accuracies_alone()) for q in queries])


def compare_forecasters(store: Path) -> dict[str, Any]:
    """Forecast each run of a store from its first fifth, with all other runs as references.

    Returns:
        A summary, as `evaluation.summary.summarise` gives it.

    Raises:
        UserError: runs too short to forecast.
    """
    data = load_dataset(Store(store), choices=store, log_notes=False).of_metric(METRIC)
    forecasters: list[Forecaster] = [
        AccuraciesAlone(load_joint_forecaster(None, name="neuneu")),
        WithItems(load_joint_forecaster(None, name="neuneu"), name=EVIDENCE),
        *(make_forecaster(name) for name in RULES),
    ]
    tables = []
    for group in sorted({t.run_group for t in data.trajectories}):
        targets = [t for t in data.trajectories if t.run_group == group]
        references = [t for t in data.trajectories if t.run_group != group]
        tables.append(run_backtest(forecasters, targets, references, Anchored()))
    return summarise(pa.concat_tables(tables))


def ask_questions(store: Path, held_out: Sequence[str]) -> tuple[list[Answer], str]:
    """Ask which run of its size will be best, and when a held-out one reaches the other's score.

    Returns:
        The answers, and a sentence on what really happened.

    Raises:
        UserError: fewer than two runs, or none with a horizon.
    """
    opened = Store(store)
    table = opened.accuracies()
    run = held_out[0]
    tokens = np.unique(table.filter(pc.field("run") == run).column("tokens").to_numpy())
    seen = float(tokens[int(Anchored().fraction * len(tokens))])
    is_known = (pc.field("run") != run) | (pc.field("tokens") <= seen)
    data = load_dataset(opened, log_notes=False).of_metric(METRIC)
    sizes = {t.run: t.params for t in data.trajectories}
    rivals = sorted(name for name, size in sizes.items() if size == sizes[run] and name != run)
    rivals = rivals or sorted(sizes.keys() - {run}, key=lambda name: sizes[name])[-1:]
    options: dict[str, Any] = {
        "losses": opened.losses(), "tasks": opened.tasks(), "choices": store, "metric": METRIC,
        "runs": [run, *rivals],
    }  # fmt: skip
    predictor = Predictor(load_joint_forecaster(None, name="neuneu"))
    known = table.filter(is_known)
    ranking = predictor.rank(known, **options)
    goal = round(max(row["q0.5"] for row in ranking.rows if row["run"] != run), 3)
    when = predictor.when(known, goal, **options | {"runs": [run]})
    return [ranking, when], _outcome(data, [run, *rivals], ranking.settings["tasks"])


def _outcome(data: Dataset, runs: Iterable[str], tasks: Sequence[str]) -> str:
    ends = []
    for run in runs:
        own = [t for t in data.trajectories if t.run == run and t.task in tasks]
        ends.append(f"{run} ended at {100 * float(np.mean(_last(own))):.1f} %")
    return f"In truth {' and '.join(ends)}."


def _last(trajectories: Sequence[Trajectory]) -> list[float]:
    return [float(t.values[-1]) for t in trajectories]
