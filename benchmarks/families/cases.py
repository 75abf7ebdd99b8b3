"""Cases: what is known of a run when it is forecast, and which finished runs stand beside it.

Targets are the checkpoints after the first 20 % in every case, so that cases can be compared.
Shapes: N items (targets of all queries), T trajectories.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.ranking import FINAL_CHECKPOINTS
from neuneu.data.splits import MIN_CHECKPOINTS, SMALLER
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import with_siblings

TARGETS_AFTER: Final = 0.2
"""Share of a run's checkpoints after which every later one is a target (as `Anchored`)."""

ONE_AT: Final = 0.02
"""Share of a run's tokens at or beyond which its one checkpoint lies in the cases `one`."""

EQUAL: Final = 1.2
"""Runs of equal size differ in parameters by at most this factor."""

MAX_TARGETS: Final = 64
"""Targets of one trajectory: evenly spaced ones of those that have more, and the last three."""

MAX_TRAJECTORIES: Final = 1500
"""Trajectories of a family that are forecast; more are sampled by task, alike for all runs."""


@dataclass(frozen=True, order=True)
class Run:
    """One training run; `group` is the unit of splits."""

    group: RunGroup
    suite: str
    name: str
    params: float
    recipe: str


References = Callable[[Run, Run], bool]
"""Whether the second run, finished, is a reference of the first."""


def is_smaller(run: Run, other: Run) -> bool:
    """Return whether the other run is smaller (`splits.SMALLER`)."""
    return other.params <= SMALLER * run.params


def is_equal(run: Run, other: Run) -> bool:
    """Return whether the other run has the same parameters within 20 %."""
    return max(run.params, other.params) <= EQUAL * min(run.params, other.params)


def is_smaller_sibling(run: Run, other: Run) -> bool:
    """Return whether the other run is smaller and of the same, known recipe."""
    return is_smaller(run, other) and run.recipe != "" and run.recipe == other.recipe


def span_of_share(share: float) -> Callable[[Trajectory], tuple[int, int]]:
    """Return a context of the first share of the checkpoints, as `Anchored`; 0 is none at all."""

    def span(trained: Trajectory) -> tuple[int, int]:
        return 0, int(share * len(trained)) + 1 if share else 0

    return span


def span_of_one(trained: Trajectory) -> tuple[int, int]:
    """Return a context of one checkpoint, the first at or beyond 2 % of the run's tokens."""
    end = trained.planned_tokens or float(trained.tokens[-1])
    place = int(np.searchsorted(trained.tokens, ONE_AT * end))
    return place, place + 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """`span` gives the context (start, stop) of a trajectory without step 0.

    Without `references` a run is forecast alone; cases with the same ones are answered
    together. Where nothing of a run is `observed`, its past has no rule. `families` limits the
    case to some.
    """

    name: str
    title: str
    span: Callable[[Trajectory], tuple[int, int]]
    references: References | None = None
    observed: bool = True
    families: tuple[str, ...] | None = None


CASES: Final[tuple[Case, ...]] = (
    Case(name="alone", title="alone, first 20 %", span=span_of_share(0.2)),
    Case(
        name="smaller", title="first 20 %, smaller finished runs",
        span=span_of_share(0.2), references=is_smaller,
    ),
    Case(
        name="equal", title="first 20 %, finished runs of equal size",
        span=span_of_share(0.2), references=is_equal,
    ),
    Case(name="early", title="alone, first 5 %", span=span_of_share(0.05)),
    Case(
        name="early-smaller", title="first 5 %, smaller finished runs",
        span=span_of_share(0.05), references=is_smaller,
    ),
    Case(name="one", title="alone, one checkpoint", span=span_of_one),
    Case(
        name="one-smaller", title="one checkpoint, smaller finished runs",
        span=span_of_one, references=is_smaller,
    ),
    Case(
        name="one-recipe", title="one checkpoint, smaller runs of the same recipe",
        span=span_of_one, references=is_smaller_sibling, families=("open-sci-ref",),
    ),
    Case(
        name="before", title="before the start, smaller finished runs",
        span=span_of_share(0.0), references=is_smaller, observed=False,
    ),
)  # fmt: skip


RANKED: Final = ("alone", "smaller")
"""Cases in which candidates are ranked: none of them is a reference of another."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Queries (indices) that are asked together, with the references that they share."""

    references: list[Trajectory]
    queries: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The T queries of a family in a case, about `trajectories` (whole), and how they are asked.

    `outcomes[i]` (h,) are the accuracies at the targets of query i. `batches` are keyed by the
    reference runs.
    """

    family: str
    case: Case
    trajectories: list[Trajectory]
    queries: list[Query]
    outcomes: list[FloatArray]
    batches: dict[frozenset[Run], Batch]

    def __len__(self) -> int:
        """The number of trajectories T."""
        return len(self.queries)

    @property
    def y(self) -> FloatArray:
        """Outcomes of all targets, (N,)."""
        return np.concatenate([np.zeros(0), *self.outcomes])

    @property
    def counts(self) -> IntArray:
        """The number of targets of each trajectory, (T,)."""
        return np.array([len(y) for y in self.outcomes], dtype=np.int64)

    @property
    def finished(self) -> IntArray:
        """The number of reference runs (run groups) of each trajectory, (T,)."""
        found = np.zeros(len(self), dtype=np.int64)
        for beside, batch in self.batches.items():
            found[batch.queries] = len({run.group for run in beside})
        return found

    @property
    def suites(self) -> npt.NDArray[np.str_]:
        """The suite of each trajectory, (T,)."""
        return np.array([t.suite for t in self.trajectories])

    @property
    def groups(self) -> IntArray:
        """Code of the run group of each trajectory, (T,)."""
        known = sorted({t.run_group for t in self.trajectories})
        code = {group: number for number, group in enumerate(known)}
        return np.array([code[t.run_group] for t in self.trajectories], dtype=np.int64)


def ask(
    family: str,
    trajectories: Sequence[Trajectory],
    case: Case,
    *,
    limit: int = MAX_TRAJECTORIES,
    seed: int = 0,
) -> Asked:
    """Ask about the later checkpoints of a family's runs.

    Where the case has references, only trajectories with at least one on their task are
    forecast; all forecasters can answer these.

    Args:
        family: name.
        trajectories: all of the family; references are whole.
        case: what is known.
        limit: see `sample`.
        seed: of the sample.
    """
    long_enough = [t for t in trajectories if len(t.without_step_zero()) >= MIN_CHECKPOINTS]
    chosen = sample(long_enough, limit=limit, seed=seed)
    allowed = None if case.references is None else _allowed(trajectories, case.references)
    there: dict[tuple[object, ...], set[Run]] = defaultdict(set)
    members: dict[Run, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        if len(t.without_step_zero()):
            there[_cell(t)].add(run_of(t))
            members[run_of(t)].append(t)
    asked = Asked(family=family, case=case, trajectories=[], queries=[], outcomes=[], batches={})
    together: dict[frozenset[Run], list[int]] = defaultdict(list)
    for trajectory in chosen:
        beside = frozenset() if allowed is None else allowed[run_of(trajectory)]
        if allowed is not None and not beside & there[_cell(trajectory)]:
            continue
        query, outcomes = _question(trajectory, case)
        together[beside].append(len(asked))
        asked.trajectories.append(trajectory)
        asked.queries.append(query)
        asked.outcomes.append(outcomes)
    if case.observed:
        pasts = [_context(t, case) for t in long_enough]
        asked.queries[:] = with_siblings(asked.queries, pasts)
    for beside, indices in together.items():
        references = [t for run in sorted(beside) for t in members[run]]
        asked.batches[beside] = Batch(references=references, queries=indices)
    return asked


def sample(trajectories: Sequence[Trajectory], *, limit: int, seed: int) -> list[Trajectory]:
    """Return at most about `limit` trajectories: the same tasks for all runs of a suite.

    Runs can thus be ranked on what they share. Every suite keeps the same share of its tasks.
    """
    if len(trajectories) <= limit:
        return list(trajectories)
    share = limit / len(trajectories)
    generator = np.random.default_rng(seed)
    kept: set[tuple[object, ...]] = set()
    for suite in sorted({t.suite for t in trajectories}):
        cells = sorted({_cell(t) for t in trajectories if t.suite == suite})
        count = max(1, int(share * len(cells)))
        kept |= {(suite, *cells[i]) for i in generator.permutation(len(cells))[:count]}
    return [t for t in trajectories if (t.suite, *_cell(t)) in kept]


def run_of(trajectory: Trajectory) -> Run:
    """Return the run of a trajectory."""
    t = trajectory
    return Run(t.run_group, t.suite, t.run, t.params, t.recipe)


def _cell(trajectory: Trajectory) -> tuple[str, str, int]:
    return trajectory.task, trajectory.metric, trajectory.num_fewshot


def _allowed(
    trajectories: Sequence[Trajectory], references: References
) -> Mapping[Run, frozenset[Run]]:
    """Return the reference runs of each run: never of its own run group."""
    runs = {run_of(t) for t in trajectories}
    return {
        run: frozenset(o for o in runs if o.group != run.group and references(run, o))
        for run in runs
    }


def _context(trajectory: Trajectory, case: Case) -> Trajectory:
    """Return what is observed."""
    trained = trajectory.without_step_zero()
    return trained.slice(*case.span(trained))


def _question(trajectory: Trajectory, case: Case) -> tuple[Query, FloatArray]:
    """Return a query and its outcomes; targets begin after the context and after the first 20 %."""
    trained = trajectory.without_step_zero()
    start, stop = case.span(trained)
    first = max(int(TARGETS_AFTER * len(trained)) + 1, stop)
    kept = first + _spread(len(trained) - first)
    query = Query(
        context=trained.slice(start, stop),
        target_steps=trained.steps[kept],
        target_tokens=trained.tokens[kept],
        target_flops=trained.flops[kept],
    )
    return query, trained.values[kept]


def _spread(n: int) -> IntArray:
    """Return the indices of at most `MAX_TARGETS` of n targets, the last three among them."""
    if n <= MAX_TARGETS:
        return np.arange(n)
    last = np.arange(n - FINAL_CHECKPOINTS, n)
    others = np.linspace(0, n - FINAL_CHECKPOINTS - 1, MAX_TARGETS - FINAL_CHECKPOINTS)
    return np.concatenate([others.round().astype(np.int64), last])
