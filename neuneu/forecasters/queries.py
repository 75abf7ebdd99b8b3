"""Queries, built from contexts and grid points or from trajectories whose future is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neuneu.data.splits import SplitRule
from neuneu.data.trajectories import FloatArray, IntArray, TokenLossTable, Trajectory
from neuneu.forecasters.protocol import Query


def query_at(
    context: Trajectory, tokens: FloatArray, token_losses: TokenLossTable | None = None
) -> Query:
    """A query at grid points (h,), increasing; steps and FLOPs grow in proportion to tokens."""
    ahead = tokens / context.tokens[-1]
    steps = np.asarray(np.clip(np.round(ahead * context.steps[-1]), 0, 2.0**62), np.int64)
    return _query(context, steps, tokens, ahead * context.flops[-1], token_losses)


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
    return queries, [truth for _, truth in splits]


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
    if token_losses is not None:
        row = token_losses.rows.get((context.suite, context.run, int(context.steps[-1])))
    return Query(
        context=context,
        target_steps=steps,
        target_tokens=tokens,
        target_flops=flops,
        word_losses=None if token_losses is None or row is None else token_losses.matrix[row],
    )
