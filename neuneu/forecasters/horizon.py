"""How far a forecast goes and from how much: queries about unfinished trajectories. Shapes: h."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from neuneu.core.config import config_dataclass
from neuneu.core.errors import UserError
from neuneu.data.checks import LARGEST
from neuneu.data.trajectories import FloatArray, TokenLossTable, Trajectory
from neuneu.forecasters.protocol import Query

REACHED = 0.999
"""A run whose last checkpoint is at this share of the end is finished."""

MAX_POINTS = 100


@config_dataclass
class Horizon:
    """What is taken as seen, and the end.

    `context` is the share of the checkpoints that is taken as seen, `context_step` the last step
    that is; by default all are. At most one of `until` (tokens), `until_flops` and `until_step`
    says where the end is; by default it is the run's planned tokens. `points` places between are
    forecast, evenly in ln tokens.
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

    def seen(self, trajectory: Trajectory) -> Trajectory:
        """What of a trajectory is taken as seen, without step 0."""
        trained = trajectory.without_step_zero()
        stop = len(trained)
        if self.context is not None:
            stop = min(stop, int(self.context * len(trained)) + 1)
        if self.context_step is not None:
            cut = np.searchsorted(trained.steps, self.context_step, side="right")
            stop = min(stop, int(cut))
        return trained.slice(0, stop)

    def end(self, trajectory: Trajectory) -> float | None:
        """Tokens at the end; None where nothing says it.

        Where a part of a run whose end is known is taken as seen, its last checkpoint is the end.
        """
        if self.until is not None:
            return self.until
        seen = self.seen(trajectory)
        now = seen.tokens[-1] if len(seen) else 0.0
        if now <= 0:
            return None
        if self.until_flops is not None:
            if np.isnan(seen.flops[-1]):
                raise UserError(
                    f"until_flops: the FLOPs of run {trajectory.run!r} are not known; give its "
                    "params, or until in tokens."
                )
            return float(min(self.until_flops * (now / seen.flops[-1]), LARGEST))
        if self.until_step is not None:
            return float(min(self.until_step * (now / max(seen.steps[-1], 1)), LARGEST))
        if trajectory.planned_tokens is None and (self.context or self.context_step) is not None:
            return float(trajectory.tokens[-1])
        return trajectory.planned_tokens

    def finished(self, trajectory: Trajectory) -> bool:
        """Whether what is seen of a trajectory reaches the end, or that of the run's own plan."""
        seen = self.seen(trajectory)
        ends = [end for end in (self.end(trajectory), trajectory.planned_tokens) if end is not None]
        return bool(len(seen) and ends and reached(float(seen.tokens[-1]), min(ends)))

    def references(
        self, trajectories: Sequence[Trajectory], others: Sequence[Trajectory] = ()
    ) -> list[Trajectory]:
        """What the runs asked about may be compared with, whatever the question.

        Args:
            trajectories: of the table. The finished ones are compared with, as far as they are
                seen; unfinished runs are never compared with each other.
            others: of tables of finished runs, taken whole.
        """
        return [*(self.seen(t) for t in trajectories if self.finished(t)), *others]


def reached(tokens: float, end: float) -> bool:
    """Whether a run that is seen up to `tokens` has reached `end`, up to rounded plans."""
    return tokens >= REACHED * end


def query_at(
    seen: Trajectory, tokens: FloatArray, token_losses: TokenLossTable | None = None
) -> Query:
    """A query at tokens (h,), increasing; steps and FLOPs go on as they went."""
    ahead = tokens / seen.tokens[-1]
    row = None
    if token_losses is not None:
        row = token_losses.rows.get((seen.suite, seen.run, int(seen.steps[-1])))
    return Query(
        context=seen,
        target_steps=np.asarray(np.clip(np.round(ahead * seen.steps[-1]), 0, 2.0**62), np.int64),
        target_tokens=tokens,
        target_flops=ahead * seen.flops[-1],
        word_losses=None if token_losses is None or row is None else token_losses.matrix[row],
    )


def even_places(start: float, end: float, points: int) -> FloatArray:
    """(points,) tokens beyond `start` up to `end`, evenly in ln tokens."""
    return np.geomspace(start, end, points + 1)[1:]


def own_places(seen: Sequence[Trajectory], end: float, *, limit: int = MAX_POINTS) -> FloatArray:
    """Tokens after everything seen of one run up to the end, as far apart as its checkpoints were.

    The distance is the median of the last ten; where that makes more than `limit` places, they
    are spread evenly in tokens.
    """
    known = np.unique(np.concatenate([t.tokens for t in seen]))
    start = float(known[-1])
    if end <= start:
        return np.zeros(0)
    gap = float(np.median(np.diff(known[-11:]))) if len(known) > 1 else (end - start)
    count = int(np.clip(np.ceil((end - start) / gap - 1e-6), 1, limit))
    return np.linspace(start, end, count + 1)[1:]
