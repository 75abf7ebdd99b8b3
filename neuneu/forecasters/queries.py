"""Queries: context and horizon of a question, the grid points between them, and targets.

Shapes: h targets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.checks import LARGEST
from neuneu.data.defaults import FLOPS_PER_PARAMETER_TOKEN, derived_steps
from neuneu.data.splits import SplitRule
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.protocol import Query

REACHED: Final = 0.999
"""A run whose last checkpoint is at this share of its horizon is finished: plans are rounded."""

MAX_POINTS: Final = 100
MAX_SIBLINGS: Final = 16
"""Other trajectories of a run that a query holds at most, plus one."""

PLANNED_START: Final = 0.01
"""Share of its tokens from which a run that has not started is forecast."""


@config_dataclass
class Horizon:
    """Which checkpoints are context, and where a question ends.

    `context` is the fraction of the checkpoints to use as context, `context_step` the last step
    to use; by default all are context. At most one of `until` (tokens), `until_flops` and
    `until_step` sets the horizon; by default it is the run's planned tokens. `points` is the
    number of grid points up to it, evenly spaced in ln tokens.
    """

    context: Annotated[float, Field(gt=0, le=1)] | None = None
    context_step: Annotated[int, Field(ge=1)] | None = None
    until: Annotated[float, Field(gt=0, le=LARGEST)] | None = None
    until_flops: Annotated[float, Field(gt=0, le=LARGEST)] | None = None
    until_step: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    points: Annotated[int, Field(ge=1, le=1000)] = 20

    def check(self) -> None:
        """Raises UserError where more than one end is given."""
        ends = [self.until, self.until_flops, self.until_step]
        if sum(end is not None for end in ends) > 1:
            raise UserError("until, until_flops, until_step: expected one of them at most.")

    def context_of(self, trajectory: Trajectory) -> Trajectory:
        """The context of a trajectory, without step 0."""
        trained = trajectory.without_step_zero()
        stop = len(trained)
        if self.context is not None:
            stop = min(stop, int(self.context * len(trained)) + 1)
        if self.context_step is not None:
            cut = np.searchsorted(trained.steps, self.context_step, side="right")
            stop = min(stop, int(cut))
        return trained.slice(0, stop)

    def end(self, trajectory: Trajectory) -> float | None:
        """The horizon in tokens; None where it is unknown.

        Where the context is a part of a run without planned tokens, its last checkpoint is the
        horizon. A trajectory without checkpoints is that of a planned run.

        Raises:
            UserError: `until_flops` for a run whose FLOPs are unknown, `until_step` for a planned
                run.
        """
        if self.until is not None:
            return self.until
        if not len(trajectory):
            return self._planned_end(trajectory)
        context = self.context_of(trajectory)
        now = context.tokens[-1] if len(context) else 0.0
        if now <= 0:
            return None
        if self.until_flops is not None:
            if np.isnan(context.flops[-1]):
                raise UserError(
                    f"until_flops: the FLOPs of run {trajectory.run!r} are not known; give its "
                    "params, or until in tokens."
                )
            return float(min(self.until_flops * (now / context.flops[-1]), LARGEST))
        if self.until_step is not None:
            return float(min(self.until_step * (now / max(context.steps[-1], 1)), LARGEST))
        cut = (self.context or self.context_step) is not None
        whole = float(trajectory.tokens[-1]) if cut else None
        return whole if trajectory.planned_tokens is None else trajectory.planned_tokens

    def _planned_end(self, run: Trajectory) -> float | None:
        if self.until_step is not None:
            raise UserError(
                f"until_step: run {run.run!r} has not started and has no steps; give until in "
                "tokens."
            )
        if self.until_flops is None:
            return run.planned_tokens
        if np.isnan(run.params):
            raise UserError(
                f"until_flops: the FLOPs of run {run.run!r} are not known; give its params, or "
                "until in tokens."
            )
        return min(self.until_flops / (FLOPS_PER_PARAMETER_TOKEN * run.params), LARGEST)

    def finished(self, trajectory: Trajectory) -> bool:
        """Whether the context reaches the horizon or the run's planned tokens."""
        context = self.context_of(trajectory)
        ends = [end for end in (self.end(trajectory), trajectory.planned_tokens) if end is not None]
        return bool(len(context) and ends and reached(float(context.tokens[-1]), min(ends)))

    def references(
        self, trajectories: Sequence[Trajectory], others: Sequence[Trajectory] = ()
    ) -> list[Trajectory]:
        """The reference runs of any question.

        Args:
            trajectories: of the table. The contexts of finished runs are references; unfinished
                runs never are.
            others: finished runs of further tables, as a whole.
        """
        return [*(self.context_of(t) for t in trajectories if self.finished(t)), *others]


def reached(tokens: float, end: float) -> bool:
    """Whether a run that was evaluated up to `tokens` has reached `end`."""
    return tokens >= REACHED * end


def even_grid(start: float, end: float, points: int) -> FloatArray:
    """(points,) tokens beyond `start` up to `end`, evenly spaced in ln tokens."""
    return np.geomspace(start, end, points + 1)[1:]


def planned_grid(end: float, points: int) -> FloatArray:
    """(points,) tokens of a run that has not started, from a hundredth of the end up to the end,
    evenly spaced in ln tokens."""
    return np.geomspace(PLANNED_START * end, end, points) if points > 1 else np.array([end])


def own_grid(contexts: Sequence[Trajectory], end: float, *, limit: int = MAX_POINTS) -> FloatArray:
    """(h,) tokens after the contexts of one run up to `end`, as far apart as its checkpoints.

    The distance is the median of the last ten; where that makes more than `limit` grid points,
    they are spaced evenly in tokens.
    """
    known = np.unique(np.concatenate([t.tokens for t in contexts]))
    start = float(known[-1])
    if end <= start:
        return np.zeros(0)
    gap = float(np.median(np.diff(known[-11:]))) if len(known) > 1 else (end - start)
    count = int(np.clip(np.ceil((end - start) / gap - 1e-6), 1, limit))
    return np.linspace(start, end, count + 1)[1:]


def query_at(
    context: Trajectory, tokens: FloatArray, token_losses: TokenLossTable | None = None
) -> Query:
    """A query at grid points (h,), increasing; steps and FLOPs grow in proportion to tokens."""
    ahead = tokens / context.tokens[-1]
    steps = np.asarray(np.clip(np.round(ahead * context.steps[-1]), 0, 2.0**62), np.int64)
    return _query(context, steps, tokens, ahead * context.flops[-1], token_losses)


def planned_query(run: Trajectory, tokens: FloatArray) -> Query:
    """A query about a run that has not started, at grid points (h,), increasing.

    Args:
        run: without checkpoints, as `Trajectory.slice(0, 0)` makes it; of known parameters.
        tokens: of the grid points. FLOPs follow by the convention of `data.defaults`, and steps
            stand for tokens as in a table without steps.
    """
    flops = FLOPS_PER_PARAMETER_TOKEN * run.params * tokens
    return _query(run, derived_steps(tokens), tokens, flops, None)


def make_queries(
    trajectories: Sequence[Trajectory], protocol: SplitRule, token_losses: TokenLossTable | None
) -> tuple[list[Query], list[Trajectory]]:
    """Cuts trajectories into contexts and targets.

    Trajectories too short for the protocol are left out. Queries hold no future loss; see
    `with_future_losses`.

    Returns:
        As many queries as truths; truth i holds the later checkpoints of query i.
    """
    splits = [split for t in trajectories if (split := protocol.split(t)) is not None]
    queries = [
        _query(context, truth.steps, truth.tokens, truth.flops, token_losses)
        for context, truth in splits
    ]
    return with_siblings(queries), [truth for _, truth in splits]


def with_siblings(
    queries: Sequence[Query], observed: Sequence[Trajectory] | None = None
) -> list[Query]:
    """The queries with what was observed of some of their runs' other trajectories.

    Args:
        queries: any.
        observed: contexts of the same table; by default those of the queries.
    """
    runs: dict[tuple[str, str, str], list[Trajectory]] = {}
    for context in [query.context for query in queries] if observed is None else observed:
        if len(context):
            runs.setdefault(_run(context), []).append(context)
    few = {
        run: spread(sorted(several, key=lambda t: t.key), MAX_SIBLINGS + 1)
        for run, several in runs.items()
    }
    return [
        replace(
            query,
            siblings=[t for t in few.get(_run(query.context), ()) if t.key != query.context.key],
        )
        for query in queries
    ]


def spread(several: Sequence[Trajectory], count: int) -> list[Trajectory]:
    """At most `count` of a sequence, evenly spread."""
    if len(several) <= count:
        return list(several)
    return [several[place * len(several) // count] for place in range(count)]


def _run(trajectory: Trajectory) -> tuple[str, str, str]:
    return (trajectory.family, trajectory.suite, trajectory.run)


def with_future_losses(queries: Sequence[Query], truths: Sequence[Trajectory]) -> list[Query]:
    """The queries with true future losses, for forecasters that declare `oracle-loss` only."""
    return [
        replace(query, future_losses=dict(truth.losses))
        for query, truth in zip(queries, truths, strict=True)
    ]


def _query(
    context: Trajectory,
    steps: IntArray,
    tokens: FloatArray,
    flops: FloatArray,
    token_losses: TokenLossTable | None,
) -> Query:
    row = None
    if token_losses is not None and len(context):
        row = token_losses.rows.get((context.suite, context.run, int(context.steps[-1])))
    return Query(
        context=context,
        target_steps=steps,
        target_tokens=tokens,
        target_flops=flops,
        word_losses=None if token_losses is None or row is None else token_losses.matrix[row],
        corpus_hash=None if token_losses is None else token_losses.corpus_hash,
    )
