"""Trajectories as flat arrays, and the (context end, target) samples in them.

No sample is an object: samples are three index arrays over the flat arrays of a `Series`.
Shapes: T trajectories, N checkpoints of all of them laid end to end, R loss vectors of W
values, M samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.ranking import value_noise
from neuneu.data.trajectories import TokenLossTable, Trajectory

NO_LOSS = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """T trajectories laid end to end, step 0 excluded.

    Trajectory t owns checkpoints `starts[t]` .. `starts[t + 1] - 1`. `starts` (T + 1,) int64;
    `values` (N,) float32 accuracies (NaN where unknown: a forecast's targets); `positions` (N,)
    float64 positions on the axis of gaps (checkpoints, or ln tokens); `loss_rows` (N,) int64
    rows of `losses`, -1 where a checkpoint has none; `losses` (R, W) in nats; `noise` (T,)
    float32 standard deviations of one accuracy, 0 where not known.
    """

    starts: IntArray
    values: npt.NDArray[np.float32]
    positions: FloatArray
    loss_rows: IntArray
    losses: npt.NDArray[np.floating]
    noise: npt.NDArray[np.float32]

    @property
    def lengths(self) -> IntArray:
        """Checkpoints of each trajectory, (T,)."""
        return np.diff(self.starts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """M samples: observe checkpoints 0 .. `end` of `trajectory`, forecast checkpoint `target`.

    All (M,) int64; `end` and `target` count from the trajectory's own first checkpoint.
    """

    trajectory: IntArray
    end: IntArray
    target: IntArray

    def __len__(self) -> int:
        """The number of samples M."""
        return len(self.target)

    def take(self, index: IntArray) -> "Samples":
        """The samples at `index`, in its order."""
        return Samples(
            trajectory=self.trajectory[index], end=self.end[index], target=self.target[index]
        )


def gap_positions(trajectory: Trajectory, gap_unit: str) -> FloatArray:
    """Positions (n,) of checkpoints on the axis of gaps: 0, 1, 2 ... or ln tokens.

    Raises:
        DataError: ln of tokens that are not positive.
    """
    if gap_unit == "checkpoints":
        return np.arange(len(trajectory), dtype=np.float64)
    return log_tokens(trajectory.tokens, trajectory)


def log_tokens(tokens: FloatArray, trajectory: Trajectory) -> FloatArray:
    """ln of training tokens; `trajectory` names the offender in the message.

    Raises:
        DataError: tokens that are not finite and positive.
    """
    if not (np.isfinite(tokens) & (tokens > 0)).all():
        raise DataError(
            f"{trajectory.key}: gaps in ln tokens need positive token counts, found "
            f"{tokens.tolist()}; give tokens, or use gap_unit: checkpoints."
        )
    return np.log(tokens)


def build_series(
    trajectories: Sequence[Trajectory],
    *,
    gap_unit: str,
    losses: npt.NDArray[np.floating],
    loss_rows: Sequence[IntArray],
) -> Series:
    """Lays trajectories (without step 0) end to end.

    Args:
        trajectories: T of them; none has a step 0.
        gap_unit: `checkpoints` or `log_tokens`.
        losses: (R, W) loss vectors.
        loss_rows: a row index for each checkpoint of each trajectory.
    """
    lengths = np.array([len(trajectory) for trajectory in trajectories], dtype=np.int64)
    return Series(
        starts=np.concatenate(([0], np.cumsum(lengths))),
        values=_join([t.values for t in trajectories], np.float32),
        positions=_join([gap_positions(t, gap_unit) for t in trajectories], np.float64),
        loss_rows=_join(loss_rows, np.int64),
        losses=losses,
        noise=np.nan_to_num([value_noise(t) for t in trajectories]).astype(np.float32),
    )


def no_loss_rows(trajectories: Sequence[Trajectory]) -> tuple[npt.NDArray, list[IntArray]]:
    """(losses (1, 0), rows) for an encoder that reads nothing."""
    empty = np.zeros((1, 0), dtype=np.float32)
    return empty, [np.zeros(len(t), dtype=np.int64) for t in trajectories]


def mean_loss_rows(
    trajectories: Sequence[Trajectory], names: Sequence[str]
) -> tuple[npt.NDArray, list[IntArray]]:
    """(losses (R, 1) in nats a token, rows) for an encoder that reads one mean loss.

    The loss is that of the first validation set in `names` that a trajectory has; with no
    names, that of its only validation set.

    Raises:
        DataError: no names, and a trajectory has several validation sets.
    """
    columns, rows, start = [np.zeros(0)], [], 0
    for trajectory in trajectories:
        values = mean_losses(trajectory, names)
        known = np.isfinite(values)
        rows.append(np.where(known, start + np.cumsum(known) - 1, NO_LOSS))
        columns.append(values[known])
        start += int(known.sum())
    return np.concatenate(columns).astype(np.float32)[:, None], rows


def mean_losses(trajectory: Trajectory, names: Sequence[str]) -> FloatArray:
    """The mean loss (n,) that `mean_loss_rows` chooses; NaN where there is none.

    Raises:
        DataError: no names, and the trajectory has several validation sets.
    """
    if not names and len(trajectory.losses) > 1:
        raise DataError(
            f"{trajectory.key}: has losses of {sorted(trajectory.losses)}; "
            "name the validation sets to read, in order of preference, in `loss_names`."
        )
    found = [name for name in (names or trajectory.losses) if name in trajectory.losses]
    return trajectory.losses[found[0]] if found else np.full(len(trajectory), np.nan)


def word_loss_rows(
    trajectories: Sequence[Trajectory], table: TokenLossTable
) -> tuple[npt.NDArray, list[IntArray]]:
    """(losses (R, W) float16, rows) for an encoder that reads words; shared, not copied.

    Raises:
        DataError: a NaN or negative loss in the table.
    """
    if not (table.matrix >= 0).all():
        row = int(np.argmin((table.matrix >= 0).all(axis=1)))
        raise DataError(
            f"token losses: row {row} holds NaN or negative losses; expected nats >= 0. "
            "Extract that checkpoint again."
        )
    rows = [
        np.array(
            [table.rows.get((t.suite, t.run, int(step)), NO_LOSS) for step in t.steps],
            dtype=np.int64,
        )
        for t in trajectories
    ]
    return table.matrix, rows


def enumerate_samples(series: Series, max_ahead: int | None) -> Samples:
    """Every (context end, target) of every trajectory, in order.

    A context is checkpoints 0 .. end, at least one; the target lies 1 .. `max_ahead` checkpoints
    after its end (None: as far as the trajectory goes). Samples whose context ends at a
    checkpoint without a loss vector are left out.
    """
    lengths = series.lengths
    trajectory_N = np.repeat(np.arange(len(lengths)), lengths)
    place_N = np.arange(len(trajectory_N)) - series.starts[trajectory_N]
    ahead_N = lengths[trajectory_N] - 1 - place_N
    if max_ahead is not None:
        ahead_N = np.minimum(ahead_N, max_ahead)
    ahead_N = np.where(series.loss_rows == NO_LOSS, 0, ahead_N)
    origin = np.repeat(np.arange(len(trajectory_N)), ahead_N)
    first = np.cumsum(ahead_N) - ahead_N
    ahead = np.arange(len(origin)) - first[origin] + 1
    return Samples(
        trajectory=trajectory_N[origin], end=place_N[origin], target=place_N[origin] + ahead
    )


def _join(parts: Sequence[npt.NDArray], kind: type[np.generic]) -> npt.NDArray:
    return np.concatenate([np.zeros(0), *parts]).astype(kind)
