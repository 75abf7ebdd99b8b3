"""Trajectories as flat arrays, and smoothed on one grid of ln tokens so that runs can be aligned.

The level of another run at the same tokens, FLOPs, progress or loss is then a gather and a linear
interpolation, for thousands of pairs at once.
Shapes: T trajectories, N checkpoints of all of them laid end to end, G grid points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import IntArray
from neuneu.data.runs import SCHEDULES
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.window.windows import log_tokens

Float32Array = npt.NDArray[np.float32]

GRID_STEP: Final = 0.1
GRID_START: Final = float(np.log(1e4))
GRID_SIZE: Final = 240
"""From 10^4 tokens to beyond 10^14, ten points a factor of e."""

NO_LOSS: Final = -1
NO_RECIPE: Final = -1
LOSS_PREFERENCE: Final = ("c4_en-validation", "lambada_openai")
"""Validation sets to prefer; otherwise the first by name."""

METRICS: Final = ("acc", "acc_norm")
"""Metrics with an input of their own; all others share one."""

_SHARE: Final = 0.5
_FULL_WEIGHT: Final = 8
"""Smoothing: weight of a neighbouring grid cell against the middle one, and maximum number of
points of a cell that count, so that a dense neighbour does not overrule a sparse cell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """T trajectories without step 0, in the order they were given.

    Trajectory t owns checkpoints `starts[t]` .. `starts[t + 1] - 1` of `x` (ln tokens), `values`,
    `stderrs` and `losses` (of the task itself where there is a signal, else nats a token of a
    validation set; which one is `loss_sets[t]`; NaN where unknown), all
    (N + 1,) float32, the last one NaN. `grid` and `loss_grid` are (T, G): values and losses
    smoothed and interpolated, held constant beyond the first and last checkpoint; a loss grid
    without losses is NaN.
    `log_params`, `noise` (sd of one value) and `end` (ln of the tokens the run is planned for, NaN
    where unknown), `chance` (NaN where unknown) and `shots` are (T,). `metrics` (T,) index
    `METRICS`, or equal its length. `cells`, `runs`, `suites`, `families` and `loss_sets` are (T,)
    codes: equal cells are one (task, metric, num_fewshot), equal runs one run group. `owners` (T,)
    are codes of runs by suite, whose trajectories inform each other. `recipes` (T,) are codes, or
    `NO_RECIPE`; `schedules` (T,) index `data.runs.SCHEDULES`, or equal its length; `decay_start`
    (T,) is ln tokens, NaN where unknown.
    """

    trajectories: Sequence[Trajectory]
    starts: IntArray
    x: Float32Array
    values: Float32Array
    stderrs: Float32Array
    losses: Float32Array
    grid: Float32Array
    loss_grid: Float32Array
    log_params: Float32Array
    noise: Float32Array
    end: Float32Array
    chance: Float32Array
    shots: Float32Array
    metrics: IntArray
    cells: IntArray
    runs: IntArray
    suites: IntArray
    families: IntArray
    owners: IntArray
    recipes: IntArray
    schedules: IntArray
    decay_start: Float32Array
    loss_sets: IntArray

    def __len__(self) -> int:
        """The number of trajectories T."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> IntArray:
        """Checkpoints of each trajectory, (T,)."""
        return np.diff(self.starts)

    @property
    def first(self) -> Float32Array:
        """ln tokens of each trajectory's first checkpoint, (T,); NaN without one."""
        return self._at(self.starts[:-1])

    @property
    def last(self) -> Float32Array:
        """ln tokens of each trajectory's last checkpoint, (T,); NaN without one."""
        return self._at(self.starts[1:] - 1)

    def _at(self, places: IntArray) -> Float32Array:
        return np.where(self.lengths > 0, self.x[places], np.nan).astype(np.float32)


class Codes:
    """Integers for hashable names, equal for equal names."""

    def __init__(self) -> None:
        """Knows no name yet."""
        self._known: dict[object, int] = {}

    def __call__(self, name: object) -> int:
        """The code of a name."""
        return self._known.setdefault(name, len(self._known))


def build_curves(trajectories: Sequence[Trajectory], codes: Codes) -> Curves:
    """Lays trajectories end to end and on the grid.

    Args:
        trajectories: any; one without checkpoints is a run that has not begun.
        codes: shared by all tables that are compared with each other.

    Raises:
        DataError: tokens that are not positive.
    """
    trained = [trajectory.without_step_zero() for trajectory in trajectories]
    xs = [log_tokens(t.tokens, t) for t in trained]
    picked = [pick_loss(t) for t in trained]
    grid, noise = _on_grid(xs, [t.values for t in trained])
    loss_grid, _ = _on_grid(xs, [values for _, values in picked])
    stderr = np.array([_mean_known(t.stderrs) for t in trained])
    return Curves(
        trajectories=trained,
        starts=np.concatenate(([0], np.cumsum([len(t) for t in trained]))).astype(np.int64),
        x=_flat(xs),
        values=_flat([t.values for t in trained]),
        stderrs=_flat([t.stderrs for t in trained]),
        losses=_flat([values for _, values in picked]),
        grid=grid,
        loss_grid=loss_grid,
        log_params=np.log([t.params if t.params > 1.0 else 1.0 for t in trained]).astype(
            np.float32
        ),
        noise=np.maximum(noise, stderr).astype(np.float32),
        end=np.array([_planned(t) for t in trained], dtype=np.float32),
        chance=np.array(
            [np.nan if t.chance is None else t.chance for t in trained], dtype=np.float32
        ),
        shots=np.array([t.num_fewshot for t in trained], dtype=np.float32),
        metrics=np.array(
            [METRICS.index(t.metric) if t.metric in METRICS else len(METRICS) for t in trained],
            dtype=np.int64,
        ),
        cells=_coded(codes, [("cell", t.task, t.metric, t.num_fewshot) for t in trained]),
        runs=_coded(codes, [("run", *t.run_group) for t in trained]),
        suites=_coded(codes, [("suite", t.family, t.suite) for t in trained]),
        families=_coded(codes, [("family", t.family) for t in trained]),
        owners=_coded(codes, [("owner", t.family, t.suite, t.run) for t in trained]),
        recipes=np.array(
            [codes(("recipe", t.recipe.lower())) if t.recipe else NO_RECIPE for t in trained],
            dtype=np.int64,
        ),
        schedules=np.array(
            [SCHEDULES.index(t.schedule) if t.schedule else len(SCHEDULES) for t in trained],
            dtype=np.int64,
        ),
        decay_start=np.array(
            [np.log(t.decay_start) if t.decay_start else np.nan for t in trained],
            dtype=np.float32,
        ),
        loss_sets=np.array(
            [NO_LOSS if name is None else codes(("loss", name)) for name, _ in picked],
            dtype=np.int64,
        ),
    )


def at(grid_TG: Float32Array, rows: IntArray, x: npt.NDArray) -> Float32Array:
    """Grid values of `rows` at ln tokens `x`, linearly interpolated; shapes broadcast."""
    place = (x - GRID_START) / GRID_STEP
    place = np.clip(np.nan_to_num(place), 0.0, GRID_SIZE - 1.001)
    left = place.astype(np.int64)
    share = (place - left).astype(np.float32)
    return grid_TG[rows, left] * (1.0 - share) + grid_TG[rows, left + 1] * share


def first_below(grid_TG: Float32Array, rows: IntArray, level: npt.NDArray) -> Float32Array:
    """ln tokens at which losses `grid_TG[rows]` first fall to `level`; NaN where they never do.

    Args:
        grid_TG: losses.
        rows: any shape.
        level: of the same shape.
    """
    below = grid_TG[rows] <= level[..., None]
    found = below.any(axis=-1) & np.isfinite(level)
    place = below.argmax(axis=-1)
    before = grid_TG[rows, np.maximum(place - 1, 0)]
    here = grid_TG[rows, place]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((before - level) / (before - here), 0.0, 1.0)
    x = GRID_START + GRID_STEP * (place - 1 + np.nan_to_num(share, nan=1.0))
    return np.where(found, x, np.nan).astype(np.float32)


def pick_loss(trajectory: Trajectory) -> tuple[str | None, npt.NDArray[np.float64]]:
    """Name and values (n,) of the loss that is read, NaN where unknown; None without one.

    It is the best of the task's own (`Trajectory.signals`), else that of a validation set.
    """
    for name, signal in trajectory.signals.items():
        if np.isfinite(signal).any():
            return f"{name} of the task", signal
    for name in (*LOSS_PREFERENCE, *sorted(trajectory.losses)):
        values = trajectory.losses.get(name)
        # A set that was measured only after the context must not shadow one that is known.
        if values is not None and np.isfinite(values).any():
            return name, values
    return None, np.full(len(trajectory), np.nan)


def _mean_known(values: npt.NDArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _planned(trajectory: Trajectory) -> float:
    planned = trajectory.planned_tokens
    return float(np.log(planned)) if planned else np.nan


def _flat(parts: Sequence[npt.NDArray]) -> Float32Array:
    return np.concatenate([*parts, [np.nan]]).astype(np.float32)


def _coded(codes: Codes, names: Sequence[object]) -> IntArray:
    return np.array([codes(name) for name in names], dtype=np.int64)


def _on_grid(
    xs: Sequence[npt.NDArray], values: Sequence[npt.NDArray]
) -> tuple[Float32Array, npt.NDArray]:
    """((T, G) smoothed curves, (T,) scatter around them); NaN where there are no values."""
    grid = np.full((len(xs), GRID_SIZE), np.nan, dtype=np.float32)
    scatter = np.zeros(len(xs))
    axis = GRID_START + GRID_STEP * np.arange(GRID_SIZE)
    for row, (x, value) in enumerate(zip(xs, values, strict=True)):
        known = np.isfinite(value)
        if not known.any():
            continue
        centres, means = _binned(x[known], value[known])
        grid[row] = np.interp(axis, centres, means)
        # A curve through few points follows them, so that the scatter around it says little.
        residual = value[known] - np.interp(x[known], centres, means)
        free = max(known.sum() - len(centres), 1)
        scatter[row] = np.sqrt((residual**2).sum() / free) if known.sum() > len(centres) else 0.0
    return grid, scatter


def _binned(x: npt.NDArray, value: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Means of points that share a grid cell, averaged with those of neighbouring cells.

    Sparse points (one a cell) stay as they are: only cells with several are smoothed.
    """
    cell = np.round((x - GRID_START) / GRID_STEP).astype(np.int64)
    kept, index, counts = np.unique(cell, return_inverse=True, return_counts=True)
    centres = np.bincount(index, weights=x) / counts
    means = np.bincount(index, weights=value) / counts
    weight = np.minimum(counts, _FULL_WEIGHT).astype(np.float64)
    total, weights = weight * means, weight.copy()
    # Both neighbours or none: with a single one the ends would be pulled towards the middle.
    inner = np.zeros(len(kept), dtype=bool)
    inner[1:-1] = (np.diff(kept)[1:] == 1) & (np.diff(kept)[:-1] == 1) & (counts[1:-1] > 1)
    share = _SHARE * np.minimum(weight[:-2], weight[2:])
    total[1:-1] += share * (means[:-2] + means[2:])
    weights[1:-1] += 2.0 * share
    return centres, np.where(inner, total / weights, means)
