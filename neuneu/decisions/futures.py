"""Sampled futures of runs on the tasks of a question, and their means over tasks.

Shapes: S samples, H targets, C tasks.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.scales import FRACTION, Scale
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.decisions.peers import align_peers
from neuneu.decisions.selection import RunName, TaskKey, run_name, task_key
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import (
    MAX_POINTS,
    Horizon,
    own_grid,
    planned_grid,
    planned_query,
    query_at,
    reached,
    with_siblings,
)

SAMPLES: Final = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFuture:
    """What a run scored as a mean over C tasks, and samples of what it will score.

    `tokens` (H,) and `samples` (S, H). `past_tokens` and `past` (n,) hold the mean at
    checkpoints where all tasks were evaluated. `present` is the last of them, or the mean of
    the tasks' last values where there is none. A run that has reached its horizon (`finished`)
    has H = 1, samples that all equal its score, and no `queries`. A planned run has n = 0, NaN
    as `present` and no `seen_tokens`. `scale` is that of the metric of all tasks, in whose units
    scores are.
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
    scale: Scale = FRACTION

    @property
    def final(self) -> FloatArray:
        """(S,) samples of the score at the horizon."""
        return np.asarray(self.samples[:, -1])

    @property
    def remaining_tokens(self) -> float:
        """From the last checkpoint of the context to the horizon."""
        return float(max(0.0, self.tokens[-1] - self.seen_tokens))


def group_by_run(
    trajectories: Sequence[Trajectory], keys: Sequence[TaskKey]
) -> dict[RunName, list[Trajectory]]:
    """The trajectories of every run that has all tasks, in the order of `keys`."""
    found: dict[RunName, dict[TaskKey, Trajectory]] = {}
    for t in trajectories:
        found.setdefault(run_name(t), {})[task_key(t)] = t
    return {
        run: [of[key] for key in keys]
        for run, of in sorted(found.items())
        if all(key in of for key in keys)
    }


def sample_runs(
    forecaster: JointForecaster,
    runs: Mapping[RunName, Sequence[Trajectory]],
    horizon: Horizon,
    *,
    count: int = SAMPLES,
    seed: int = 0,
    token_losses: TokenLossTable | None = None,
    beside: Sequence[Trajectory] = (),
) -> list[RunFuture]:
    """Draws futures of runs together.

    Runs without a horizon are left out, and planned runs that the forecaster does not answer.

    Args:
        forecaster: fitted on its references.
        runs: the trajectories of each run, one a task; without checkpoints for a planned run.
        horizon: context and horizon.
        count: S.
        seed: for sampling.
        token_losses: for forecasters that read them.
        beside: contexts of the same runs, on further tasks, too: siblings, and `align_peers`.
    """
    plans = [
        plan
        for run, members in runs.items()
        if (plan := _plan(run, members, horizon, token_losses)) is not None
    ]
    queries = with_siblings([query for plan in plans for query in plan.queries], beside or None)
    asked = iter(queries)
    plans = [replace(plan, queries=[next(asked) for _ in plan.queries]) for plan in plans]
    predicted = forecaster.predict(queries) if queries else []
    answers = iter(align_peers(forecaster, queries, predicted, beside))
    answered = [(plan, [next(answers) for _ in plan.queries]) for plan in plans]
    kept = [
        (plan, found)
        for plan, found in answered
        if plan.started or not any(np.isnan(answer).any() for answer in found)
    ]
    queries = [query for plan, _ in kept for query in plan.queries]
    given = [answer for _, found in kept for answer in found]
    drawn = iter(forecaster.draw(queries, given, count=count, seed=seed) if queries else [])
    return [_future(plan, [next(drawn) for _ in plan.queries], count) for plan, _ in kept]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """The queries of a run: its contexts, and a query of each unless it has finished."""

    run: RunName
    contexts: list[Trajectory]
    queries: list[Query]

    @property
    def started(self) -> bool:
        return any(len(t) for t in self.contexts)


def _plan(
    run: RunName,
    members: Sequence[Trajectory],
    horizon: Horizon,
    token_losses: TokenLossTable | None,
) -> _Plan | None:
    """None without a horizon, or where a task has no context."""
    contexts = [horizon.context_of(t) for t in members]
    ends = [end for t in members if (end := horizon.end(t)) is not None]
    if not ends:
        return None
    if not any(len(t) for t in members):
        grid = planned_grid(max(ends), MAX_POINTS)
        return _Plan(run=run, contexts=contexts, queries=[planned_query(t, grid) for t in members])
    if not all(len(t) for t in contexts):
        return None
    finished = reached(max(float(t.tokens[-1]) for t in contexts), max(ends))
    grid = np.zeros(0) if finished else own_grid(contexts, max(ends))
    queries = [query_at(t, grid, token_losses) for t in contexts if len(grid)]
    return _Plan(run=run, contexts=contexts, queries=queries)


def _future(plan: _Plan, samples: Sequence[FloatArray], count: int) -> RunFuture:
    """The future of a run from samples (S, H) of each of its queries, none if it has finished."""
    if not plan.started:
        end = plan.queries[0]
        return RunFuture(
            run=plan.run, tokens=end.target_tokens, samples=np.mean(samples, axis=0),
            past_tokens=np.zeros(0), past=np.zeros(0), present=np.nan, finished=False,
            flops_per_token=float(end.target_flops[-1] / end.target_tokens[-1]), seen_tokens=0.0,
            queries=tuple(plan.queries), scale=plan.contexts[0].scale,
        )  # fmt: skip
    past_tokens, past = past_average(plan.contexts)
    latest = max(plan.contexts, key=lambda t: float(t.tokens[-1]))
    last = [float(t.values[-1]) for t in plan.contexts]
    known = samples or [np.full((count, 1), value) for value in last]
    return RunFuture(
        run=plan.run,
        tokens=plan.queries[0].target_tokens if samples else latest.tokens[-1:],
        samples=np.mean(known, axis=0),
        past_tokens=past_tokens,
        past=past,
        present=float(past[-1]) if len(past) else float(np.mean(last)),
        finished=not samples,
        flops_per_token=float(latest.flops[-1] / latest.tokens[-1]),
        seen_tokens=float(latest.tokens[-1]),
        queries=tuple(plan.queries),
        scale=plan.contexts[0].scale,
    )


def past_average(contexts: Sequence[Trajectory]) -> tuple[FloatArray, FloatArray]:
    """((n,) tokens, (n,) mean accuracy) of the checkpoints where all tasks were evaluated."""
    tokens = functools.reduce(np.intersect1d, (t.tokens for t in contexts), contexts[0].tokens)
    rows = [t.values[np.searchsorted(t.tokens, tokens)] for t in contexts]
    return tokens, np.mean(rows, axis=0) if len(tokens) else np.zeros(0)
