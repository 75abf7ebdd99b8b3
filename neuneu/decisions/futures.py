"""Sampled futures of runs on the tasks of a question, and their averages over tasks.

Shapes: S samples, H places, C tasks, Q levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neuneu.data.trajectories import FloatArray, TokenLossTable, Trajectory
from neuneu.decisions.selection import Cell, RunName, run_name
from neuneu.forecasters.horizon import Horizon, own_places, query_at, reached
from neuneu.forecasters.protocol import Forecaster, Query

SAMPLES = 2000


class Sampling(Forecaster, Protocol):
    """A forecaster that can draw coherent futures from its answers."""

    def draw(
        self, queries: Sequence[Query], answers: Sequence[FloatArray], *, count: int, seed: int
    ) -> list[FloatArray]:
        """(S, H) of each query."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFuture:
    """What one run has scored on the average of C tasks, and samples of what it will.

    `tokens` (H,) and `samples` (S, H). `past_tokens` and `past` (n,) hold the average at
    checkpoints at which all tasks were evaluated. `present` is the last of them, or the mean of
    the tasks' last values where there is none. A run that has reached the end (`finished`) has
    H = 1, samples that are all what it scored, and no `queries`.
    """

    run: RunName
    tokens: FloatArray
    samples: FloatArray
    past_tokens: FloatArray
    past: FloatArray
    present: float
    finished: bool
    flops_per_token: float
    seen_tokens: float
    queries: tuple[Query, ...] = ()

    @property
    def final(self) -> FloatArray:
        """(S,) samples of the score at the end."""
        return np.asarray(self.samples[:, -1])

    @property
    def remaining_tokens(self) -> float:
        """From the last checkpoint seen to the end."""
        return float(max(0.0, self.tokens[-1] - self.seen_tokens))


def by_run(
    trajectories: Sequence[Trajectory], cells: Sequence[Cell]
) -> dict[RunName, list[Trajectory]]:
    """The trajectories of every run that has all cells, in their order."""
    found: dict[RunName, dict[Cell, Trajectory]] = {}
    for t in trajectories:
        found.setdefault(run_name(t), {})[t.task, t.metric, t.num_fewshot] = t
    return {
        run: [of[cell] for cell in cells]
        for run, of in sorted(found.items())
        if all(cell in of for cell in cells)
    }


def look_ahead(
    forecaster: Sampling,
    runs: Mapping[RunName, Sequence[Trajectory]],
    horizon: Horizon,
    *,
    count: int = SAMPLES,
    seed: int = 0,
    token_losses: TokenLossTable | None = None,
) -> list[RunFuture]:
    """Futures of runs, drawn together; those without an end are left out.

    Args:
        forecaster: with its references fitted.
        runs: the trajectories of each, one a task.
        horizon: from how much and how far.
        count: S.
        seed: of the samples.
        token_losses: for forecasters that read them.
    """
    plans = []
    for run, members in runs.items():
        seen = [horizon.seen(t) for t in members]
        ends = [end for t in members if (end := horizon.end(t)) is not None]
        if ends and all(len(t) for t in seen):
            done = reached(max(float(t.tokens[-1]) for t in seen), max(ends))
            places = np.zeros(0) if done else own_places(seen, max(ends))
            asked = [query_at(t, places, token_losses) for t in seen if len(places)]
            plans.append(_Plan(run=run, seen=seen, places=places, queries=asked))
    queries = [query for plan in plans for query in plan.queries]
    answers = forecaster.predict(queries) if queries else []
    drawn = iter(forecaster.draw(queries, answers, count=count, seed=seed) if queries else [])
    return [_future(plan, [next(drawn) for _ in plan.queries], count) for plan in plans]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is seen of a run, and its queries; none where it has reached the end."""

    run: RunName
    seen: list[Trajectory]
    places: FloatArray
    queries: list[Query]


def _future(plan: _Plan, drawn: Sequence[FloatArray], count: int) -> RunFuture:
    past_tokens, past = past_average(plan.seen)
    present = float(past[-1]) if len(past) else float(np.mean([t.values[-1] for t in plan.seen]))
    latest = max(plan.seen, key=lambda t: float(t.tokens[-1]))
    samples_of = np.stack(drawn or [np.full((count, 1), t.values[-1]) for t in plan.seen])
    return RunFuture(
        run=plan.run,
        tokens=plan.places if drawn else latest.tokens[-1:],
        samples=samples_of.mean(axis=0),
        past_tokens=past_tokens,
        past=past,
        present=present,
        finished=not drawn,
        flops_per_token=float(latest.flops[-1] / latest.tokens[-1]),
        seen_tokens=float(latest.tokens[-1]),
        queries=tuple(plan.queries),
    )


def past_average(seen: Sequence[Trajectory]) -> tuple[FloatArray, FloatArray]:
    """((n,) tokens, (n,) mean accuracy) of the checkpoints at which all tasks were evaluated."""
    common = set(seen[0].tokens.tolist()).intersection(*(set(t.tokens.tolist()) for t in seen[1:]))
    tokens = np.array(sorted(common))
    rows = [t.values[np.searchsorted(t.tokens, tokens)] for t in seen]
    return tokens, np.mean(rows, axis=0) if len(tokens) else np.zeros(0)
