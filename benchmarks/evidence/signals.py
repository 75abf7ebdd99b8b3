"""OLMo's largest runs and Gemstones: forecasts with and of continuous metrics of the tasks.

Contexts, targets and finished runs are those of the study of families (`families.cases`). Each
family is forecast by what was trained on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from families.answers import answer
from families.cases import CASES, Asked, Batch, ask
from families.data import load_families
from families.entrants import Trained, rules

from evidence.readings import CORPUS, NONE, OWN, PUBLIC_READINGS, Reading
from evidence.scores import entry
from neuneu.core.errors import UserError
from neuneu.core.progress import stage
from neuneu.data.arrays import FloatArray
from neuneu.data.scales import SCALES, scale_of
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Forecaster

ASKED: Final = ("alone", "smaller")
"""Cases of `families.cases`: the first 20 % alone, and with smaller finished runs."""

NEUNEU: Final = "neuneu, "
PERSISTENCE: Final = "persistence"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family, the parameters from which its runs are forecast, and its continuous metrics."""

    name: str
    title: str
    least_params: float
    metrics: tuple[str, ...]


PUBLIC: Final = (
    Family(name="olmo", title="OLMo, 1B and 3B", least_params=1e9, metrics=("bpb", "soft")),
    Family(name="gemstones", title="Gemstones", least_params=0.0, metrics=("nll_gold",)),
)


def accuracy_entry(shared: Path, unseen: Path, family: Family) -> dict[str, Any]:
    """Return scores of forecasts of accuracies by case, given different series beside them.

    Only trajectories whose context has a corpus loss and a continuous metric of the task are
    forecast, so that all readings are compared on the same ones.

    Args:
        shared: folder with trajectories/ and families/.
        unseen: folder with a cross-run forecaster for each held-out family.
        family: which one.
    """
    trajectories = load_families(shared, [family.name])[family.name]
    trajectories = [t for t in trajectories if t.metric not in SCALES]
    return entries_of(family, trajectories, PUBLIC_READINGS, unseen, base=NEUNEU + NONE.name)


def metric_entry(shared: Path, unseen: Path, family: Family, metric: str) -> dict[str, Any]:
    """Return scores of forecasts of a continuous metric by case, in its own units.

    Tasks without an accuracy, such as the subjects of MMLU, are left out.

    Args:
        shared: folder with trajectories/ and families/.
        unseen: folder with a cross-run forecaster for each held-out family.
        family: which one.
        metric: of the family's tasks.
    """
    everything = load_families(shared, [family.name], metric=metric)[family.name]
    tasks = {t.task for t in everything if t.metric not in SCALES}
    trajectories = [t for t in everything if t.metric == metric and t.task in tasks]
    found = entries_of(family, trajectories, (NONE, CORPUS), unseen, base=PERSISTENCE)
    return found | {"unit": scale_of(metric).unit}


def entries_of(
    family: Family,
    trajectories: Sequence[Trajectory],
    readings: Sequence[Reading],
    unseen: Path,
    *,
    base: str,
) -> dict[str, Any]:
    """Return scores of rules, and of the unseen forecaster with several readings, by case."""
    forecaster = unseen_forecaster(unseen, family.name, trajectories)
    signal = any(reading.signals for reading in readings)
    chosen = {t.key for t in trajectories if is_asked(t, family.least_params, signal=signal)}
    cases = {}
    with stage(family.title, len(ASKED)) as bar:
        for case in (case for case in CASES if case.name in ASKED):
            answers: dict[str, list[FloatArray]] = {}
            asked = about(ask(family.name, trajectories, case, limit=len(trajectories)), chosen)
            for rule in rules(references=False, observed=True):
                median = rule.make()
                place = median.levels.index(0.5)
                answers[rule.name] = [a[:, [place]] for a in answers_of(median, asked)]
            for reading in readings:
                read = [reading.of(t) for t in trajectories]
                again = about(ask(family.name, read, case, limit=len(read)), chosen)
                answers[NEUNEU + reading.name] = answers_of(forecaster, again)
            runs = [t.run for t in asked.trajectories]
            cases[case.name] = {
                "title": case.title,
                "forecasters": entry(answers, asked.outcomes, runs, base),
                "n": len(asked),
                "runs": len(set(runs)),
            }
            bar.advance()
    return {"title": family.title, "cases": cases}


def is_asked(trajectory: Trajectory, least_params: float, *, signal: bool) -> bool:
    """Return whether a trajectory is of a large enough run and has what is to be read."""
    start = trajectory.without_step_zero()
    start = start.slice(0, int(0.2 * len(start)) + 1)
    own = any(np.isfinite(start.signals.get(name, np.nan)).any() for name in OWN)
    text = any(np.isfinite(values).any() for values in start.losses.values())
    return trajectory.params >= least_params and text and (own or not signal)


def about(asked: Asked, keys: set[tuple[str, str, int, str, str]]) -> Asked:
    """Return the questions about some trajectories only; references stay."""
    kept = [i for i, t in enumerate(asked.trajectories) if t.key in keys]
    place = {old: new for new, old in enumerate(kept)}
    batches = {}
    for beside, batch in asked.batches.items():
        if queries := [place[i] for i in batch.queries if i in place]:
            batches[beside] = Batch(references=batch.references, queries=queries)
    return Asked(
        family=asked.family,
        case=asked.case,
        trajectories=[asked.trajectories[i] for i in kept],
        queries=[asked.queries[i] for i in kept],
        outcomes=[asked.outcomes[i] for i in kept],
        batches=batches,
    )


def answers_of(forecaster: Forecaster, asked: Asked) -> list[FloatArray]:
    """Return the quantiles (h, Q) of every trajectory."""
    (found,) = answer(forecaster, [asked])
    return np.split(found.quantiles, np.cumsum(asked.counts)[:-1])


def unseen_forecaster(unseen: Path, family: str, trajectories: Sequence[Trajectory]) -> Forecaster:
    """Load the forecaster that was not trained on a family.

    Raises:
        UserError: There is none, or it was trained on the family.
    """
    entrants = Trained(name="neuneu", folder=unseen).entrants(family, trajectories)
    if not entrants:
        raise UserError(
            f"{unseen}: expected a forecaster in {family}/, found none; `neuneu pretrain` with "
            "every family held out in turn writes one."
        )
    return entrants[0].make()
