"""The questions of the study: runs of one size of an unseen family, forecast together.

Shapes: S samples, H targets.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from families.cases import EQUAL, sample
from families.data import load_families

from neuneu.core.progress import stage
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.splits import SMALLER, Anchored
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.decisions.peers import align_peers
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import make_queries

MAX_TRAJECTORIES: Final = 1000
"""Trajectories of a family; more are sampled by task, alike for all runs."""

MAX_TARGETS: Final = 24
"""Targets of a trajectory, evenly spaced, the last one among them."""

MIN_TASKS: Final = 3
"""Tasks that runs must share for a mean over tasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs of one size of a family, and its smaller runs, finished, as references."""

    family: str
    params: float
    targets: list[Trajectory]
    references: list[Trajectory]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A trajectory: query, truth, and samples (S, H) drawn jointly with its group."""

    query: Query
    truth: Trajectory
    samples: FloatArray
    group: int

    @property
    def cell(self) -> tuple[Any, ...]:
        """Key of the runs that are compared with each other."""
        c = self.query.context
        return (self.group, c.suite, c.task, c.metric, c.num_fewshot)

    @property
    def run(self) -> RunGroup:
        """The run group."""
        return self.query.context.run_group


class Unseen:
    """Families, and for each the forecaster that was trained on the others."""

    def __init__(self, shared: Path, folder: Path, names: Sequence[str]) -> None:
        families = load_families(shared, names)
        self.groups = [g for name, of in families.items() for g in groups_of(name, of)]
        self.forecasters = {name: CrossRunForecaster.load(folder / name) for name in families}

    def fitted(self, group: Group) -> CrossRunForecaster:
        """Return the forecaster of a group with its references."""
        forecaster = self.forecasters[group.family]
        forecaster.fit(group.references)
        return forecaster


def groups_of(family: str, trajectories: Sequence[Trajectory]) -> Iterator[Group]:
    """Yield the runs of each size, sizes within 20 % together, smallest first."""
    chosen = sample(trajectories, limit=MAX_TRAJECTORIES, seed=0)
    sizes = sorted({t.params for t in chosen})
    while sizes:
        together = [size for size in sizes if size <= EQUAL * sizes[0]]
        targets = [t for t in chosen if t.params in together]
        own = {t.run_group for t in targets}
        yield Group(
            family=family,
            params=together[-1],
            targets=targets,
            references=[
                t
                for t in trajectories
                if t.params <= SMALLER * together[0] and t.run_group not in own
            ],
        )
        sizes = sizes[len(together) :]


def queries_of(group: Group, share: float) -> tuple[list[Query], list[Trajectory]]:
    """Return queries from a share of the checkpoints, and what came, at most at 24 targets."""
    queries, truths = make_queries(group.targets, Anchored(fraction=share), None)
    kept = [_spread(len(truth)) for truth in truths]
    return [
        replace(
            query, target_steps=query.target_steps[rows], target_tokens=query.target_tokens[rows],
            target_flops=query.target_flops[rows],
        )
        for query, rows in zip(queries, kept, strict=True)
    ], [_rows(truth, rows) for truth, rows in zip(truths, kept, strict=True)]  # fmt: skip


def _spread(n: int) -> IntArray:
    if n <= MAX_TARGETS:
        return np.arange(n)
    return np.linspace(0, n - 1, MAX_TARGETS).round().astype(np.int64)


def _rows(t: Trajectory, rows: IntArray) -> Trajectory:
    columns: dict[str, Any] = {
        name: getattr(t, name)[rows] for name in ("steps", "tokens", "flops", "values", "stderrs")
    }
    further: dict[str, Any] = {
        name: {key: values[rows] for key, values in getattr(t, name).items()}
        for name in ("losses", "signals")
    }
    return replace(t, **columns, **further)


def ask(unseen: Unseen, share: float, samples: int) -> list[Asked]:
    """Forecast all runs from a share of their checkpoints, runs of one size jointly."""
    found: list[Asked] = []
    with stage(f"from {share:g} of the checkpoints", len(unseen.groups)) as bar:
        for number, group in enumerate(unseen.groups):
            forecaster = unseen.fitted(group)
            queries, truths = queries_of(group, share)
            answers = align_peers(forecaster, queries, forecaster.predict(queries))
            drawn = forecaster.draw(queries, answers, count=samples, seed=number)
            found += [
                Asked(query=q, truth=t, samples=s.astype(np.float32), group=number)
                for q, t, s in zip(queries, truths, drawn, strict=True)
            ]
            bar.advance()
    return found


def averages(asked: Sequence[Asked]) -> list[Asked]:
    """Return means over tasks by run, suite and shots, at the most common checkpoints."""
    members: dict[tuple[Any, ...], dict[str, Asked]] = defaultdict(dict)
    for a in asked:
        c = a.query.context
        of = members[a.group, c.suite, c.run, c.num_fewshot, (*c.tokens, *a.truth.tokens)]
        if c.metric == "acc_norm" or c.task not in of:
            of[c.task] = a
    best: dict[tuple[Any, ...], dict[str, Asked]] = {}
    for key, of in members.items():
        if len(of) > len(best.get(key[:-1], {})):
            best[key[:-1]] = of
    # Runs are compared on the tasks that they share.
    tasks: dict[tuple[Any, ...], list[set[str]]] = defaultdict(list)
    for (group, suite, _, shots), of in best.items():
        tasks[group, suite, shots].append(set(of))
    result = []
    for (group, suite, _, shots), of in best.items():
        common = set.intersection(*tasks[group, suite, shots])
        if len(common) >= MIN_TASKS:
            result.append(_mean([of[task] for task in sorted(common)]))
    return result


def _mean(several: Sequence[Asked]) -> Asked:
    first = several[0]
    past = np.mean([a.query.context.values for a in several], axis=0)
    context = replace(first.query.context, task="mean", metric="mean", values=past)
    return Asked(
        query=replace(first.query, context=context),
        truth=replace(first.truth, values=np.mean([a.truth.values for a in several], axis=0)),
        samples=np.mean([a.samples for a in several], axis=0),
        group=first.group,
    )


def cells(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yield groups of at least two runs of one size on one task."""
    groups: dict[tuple[Any, ...], list[Asked]] = defaultdict(list)
    for a in asked:
        groups[a.cell].append(a)
    yield from (group for group in groups.values() if len({a.run for a in group}) > 1)
