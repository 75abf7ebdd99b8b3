"""Trajectories cut into queries and what came true."""

from collections.abc import Sequence
from dataclasses import replace

from neuneu.data.splits import SplitRule
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.protocol import Query


def make_queries(
    trajectories: Sequence[Trajectory], protocol: SplitRule, token_losses: TokenLossTable | None
) -> tuple[list[Query], list[Trajectory]]:
    """Cuts trajectories into what may be seen and what is to be forecast.

    Trajectories too short for the protocol are left out. Queries hold no future loss; see
    `with_future_losses`.

    Returns:
        As many queries as truths; truth i holds the later checkpoints of query i.
    """
    queries, truths = [], []
    for trajectory in trajectories:
        split = protocol.split(trajectory)
        if split is None:
            continue
        context, truth = split
        row = None
        if token_losses is not None:
            key = (context.suite, context.run, int(context.steps[-1]))
            row = token_losses.rows.get(key)
        queries.append(
            Query(
                context=context,
                target_steps=truth.steps,
                target_tokens=truth.tokens,
                target_flops=truth.flops,
                word_losses=None
                if token_losses is None or row is None
                else token_losses.matrix[row],
            )
        )
        truths.append(truth)
    return queries, truths


def with_future_losses(queries: Sequence[Query], truths: Sequence[Trajectory]) -> list[Query]:
    """The queries with true future losses, for forecasters that declare `oracle-loss` only."""
    return [
        replace(query, future_losses=dict(truth.losses))
        for query, truth in zip(queries, truths, strict=True)
    ]
