"""Sampled futures of runs on the tasks of a question, and their means over tasks.

Shapes: S samples, H targets, C tasks.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from neuneu.data.trajectories import FloatArray, TokenLossTable, Trajectory
from neuneu.decisions.peers import align_peers
from neuneu.decisions.selection import RunName, TaskKey, run_name, task_key
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import Horizon, own_grid, query_at, reached, with_siblings

SAMPLES: Final = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFuture:
    """What a run scored as a mean over C tasks, and samples of what it will score.

    `tokens` (H,) and `samples` (S, H). `past_tokens` and `past` (n,) hold the mean at
    checkpoints where all tasks were evaluated. `present` is the last of them, or the mean of
    the tasks' last values where there is none. A run that has reached its horizon (`finished`)
    has H = 1, samples that all equal its score, and no `queries`.
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
    """Draws futures of runs together; runs without a horizon are left out.

    Args:
        forecaster: fitted on its references.
        runs: the trajectories of each run, one a task.
        horizon: context and horizon.
        count: S.
        seed: for sampling.
        token_losses: for forecasters that read them.
        beside: contexts of the same runs, on further tasks, too: siblings, and `align_peers`.
    """
    plans = []
    for run, members in runs.items():
        contexts = [horizon.context_of(t) for t in members]
        ends = [end for t in members if (end := horizon.end(t)) is not None]
        if ends and all(len(t) for t in contexts):
            finished = reached(max(float(t.tokens[-1]) for t in contexts), max(ends))
            grid = np.zeros(0) if finished else own_grid(contexts, max(ends))
            queries = [query_at(t, grid, token_losses) for t in contexts if len(grid)]
            plans.append((run, contexts, grid, queries))
    queries = with_siblings([query for *_, of in plans for query in of], beside or None)
    asked = iter(queries)
    answers = forecaster.predict(queries) if queries else []
    answers = align_peers(forecaster, queries, answers, beside)
    drawn = iter(forecaster.draw(queries, answers, count=count, seed=seed) if queries else [])
    futures = []
    for run, contexts, grid, of in plans:
        past_tokens, past = past_average(contexts)
        latest = max(contexts, key=lambda t: float(t.tokens[-1]))
        samples = [next(drawn) for _ in of]
        mine = tuple(next(asked) for _ in of)
        last = [float(t.values[-1]) for t in contexts]
        futures.append(
            RunFuture(
                run=run,
                tokens=grid if samples else latest.tokens[-1:],
                samples=np.mean(samples or [np.full((count, 1), value) for value in last], axis=0),
                past_tokens=past_tokens,
                past=past,
                present=float(past[-1]) if len(past) else float(np.mean(last)),
                finished=not samples,
                flops_per_token=float(latest.flops[-1] / latest.tokens[-1]),
                seen_tokens=float(latest.tokens[-1]),
                queries=mine,
            )
        )
    return futures


def past_average(contexts: Sequence[Trajectory]) -> tuple[FloatArray, FloatArray]:
    """((n,) tokens, (n,) mean accuracy) of the checkpoints where all tasks were evaluated."""
    tokens = functools.reduce(np.intersect1d, (t.tokens for t in contexts), contexts[0].tokens)
    rows = [t.values[np.searchsorted(t.tokens, tokens)] for t in contexts]
    return tokens, np.mean(rows, axis=0) if len(tokens) else np.zeros(0)
