"""Forecasts of held-out folds by networks trained without them.

A fold of a family is forecast as a user's family would be: from the run's own past; beside
finished runs of the family, the smaller ones or all others; and before it has begun.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from neuneu.data.splits import SMALLER, Anchored
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import make_queries, spread
from neuneu.training.cross_run.out_of_fold import OutOfFold

CONTEXTS: Final = (0.05, 0.1, 0.2, 0.4)
"""Fractions of the checkpoints from which held-out runs are forecast for calibration."""

MAX_TRAJECTORIES: Final = 24
"""Trajectories of a held-out run that are forecast, evenly spread over its tasks."""


def collect_folds(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[Sequence[CrossRunNetwork]],
) -> list[OutOfFold]:
    """Collect forecasts of every fold by the networks trained without it, and the outcomes.

    References are the runs of the other folds.
    """
    found = []
    for fold, several in zip(folds, networks, strict=True):
        collected = OutOfFold(several[0].config.levels)
        held = set(fold)
        others = [t for t in trajectories if t.run_group not in held]
        targets = [t for t in trajectories if t.run_group in held]
        asked = [make_queries(targets, Anchored(fraction=f), None) for f in CONTEXTS[1:]]
        for references in ([], others):
            _add(collected, several, references, asked)
        found.append(collected)
    return found


def collect_families(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[Sequence[CrossRunNetwork]],
) -> list[OutOfFold]:
    """Collect forecasts of every family by the networks trained without it, and the outcomes.

    References are runs of the same family: the smaller ones, and all others.
    """
    found = []
    for fold, several in zip(folds, networks, strict=True):
        collected = OutOfFold(several[0].config.levels)
        held = set(fold)
        members = [t for t in trajectories if t.run_group in held]
        for targets, relatives in relatives_of(members):
            asked = [make_queries(targets, Anchored(fraction=f), None) for f in CONTEXTS]
            for references in relatives:
                before = [unstarted(targets)] if references else []
                _add(collected, several, references, [*asked, *before])
        found.append(collected)
    return found


def relatives_of(
    members: Sequence[Trajectory],
) -> Iterator[tuple[list[Trajectory], list[list[Trajectory]]]]:
    """Yield some trajectories of each run of a family, and the references to forecast them from.

    These are none, the smaller runs, and all other runs, each at most once.
    """
    size = {t.run_group: t.params for t in members}
    for group, params in sorted(size.items()):
        own = sorted((t for t in members if t.run_group == group), key=lambda t: t.key)
        chosen = spread(own, MAX_TRAJECTORIES)
        others = [t for t in members if t.run_group != group]
        smaller = [t for t in others if size[t.run_group] <= SMALLER * params]
        relatives = [[], others] if len(smaller) in {0, len(others)} else [[], smaller, others]
        yield chosen, relatives if others else [[]]


def unstarted(targets: Sequence[Trajectory]) -> tuple[list[Query], list[Trajectory]]:
    """Return queries about the runs before they have begun, and what is forecast."""
    queries, truths = make_queries(targets, Anchored(), None)
    empty = [query.context.slice(0, 0) for query in queries]
    return [
        Query(
            context=context, target_steps=query.target_steps,
            target_tokens=query.target_tokens, target_flops=query.target_flops,
        )
        for context, query in zip(empty, queries, strict=True)
    ], truths  # fmt: skip


def _add(
    collected: OutOfFold,
    networks: Sequence[CrossRunNetwork],
    references: Sequence[Trajectory],
    asked: Sequence[tuple[list[Query], list[Trajectory]]],
) -> None:
    forecaster = CrossRunForecaster(networks, sees="reference" if references else "own")
    forecaster.fit(references)
    for queries, truths in asked:
        if queries:
            shown = [bool(runs.used) for runs in forecaster.reference_runs(queries)]
            collected.add(forecaster, queries, truths, shown)
