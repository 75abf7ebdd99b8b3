"""Comparison of queries with finished runs: pairs, and trends over all references.

Positions are aligned as `features` says. Shapes: B queries, H targets, R references, L lags,
F features, C candidates.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.forecasters.cross_run.batching import QueryBatch
from neuneu.forecasters.cross_run.curves import NO_RECIPE, Float32Array, at, first_below
from neuneu.forecasters.cross_run.references import NONE, run_length
from neuneu.forecasters.cross_run.schedules import learning_rate
from neuneu.forecasters.cross_run.siblings import SiblingView, sibling_offsets
from neuneu.forecasters.cross_run.trends import plane_at_zero

LAGS: Final = np.array([0.0, 0.15, 0.35, 0.7, 1.2, 2.0, 3.0, 4.5], dtype=np.float32)
"""Positions in the past, in ln tokens before the last observation, denser where recent."""

ALIGNMENTS: Final = ("tokens", "progress", "flops", "loss")

PAIR_CANDIDATES: Final = 2 * len(ALIGNMENTS) - 1
TREND_CANDIDATES: Final = 4
CHANGE: Final = 10.0
"""Scale of changes of accuracy, which are a few points."""

_OTHER_SUITE: Final = 0.2
_OTHER_RECIPE: Final = 0.5
"""Weights in trends over the references."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """What is known of B queries' own runs; `loss` and `learning_rate` are NaN where unknown."""

    features: Float32Array
    now: Float32Array
    level: Float32Array
    smooth_BL: Float32Array
    has_BL: npt.NDArray[np.bool_]
    slopes_BW: Float32Array
    loss: Float32Array
    learning_rate: Float32Array
    recent: Float32Array
    started: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """`references` (B, R, F), `pairs` (B, H, R, F) and `trends` (B, H, F) are features.

    `candidates` (B, H, R, C) and `trend_candidates` (B, H, C) are forecasts in accuracy.
    """

    references: Float32Array
    pairs: Float32Array
    trends: Float32Array
    candidates: Float32Array
    trend_candidates: Float32Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _Aligned:
    """The references at positions aligned with the query's, (B, H, R).

    `change` is relative to the other run's level at this run's last checkpoint, `value` is its
    level at the target. Positions before its first checkpoint are masked (`ok` and `usable`), with
    three grid steps of slack; beyond its last one the grid is constant, and `beyond` says how far.
    `fall` is how much more of its learning rate this run gives up than the other between the two
    positions, NaN where a schedule is unknown.
    """

    change: Float32Array
    value: Float32Array
    ok: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]
    beyond: Float32Array
    fall: Float32Array


def _size_gap(batch: QueryBatch, ref: npt.NDArray) -> npt.NDArray:
    theirs, mine = batch.library.log_params[ref], batch.log_params[:, None]
    return np.where((theirs > 0) & (mine > 0), theirs - mine, np.nan)


def _nearness(batch: QueryBatch, ref: npt.NDArray, mask: npt.NDArray) -> npt.NDArray:
    """(B, R) weights in trends: the same suite and similar sizes count most."""
    size = np.nan_to_num(_size_gap(batch, ref), nan=1.0)
    same_suite = batch.library.suites[ref] == batch.curves.suites[batch.rows][:, None]
    return np.asarray(np.exp(-np.abs(size)) * np.where(same_suite, 1.0, _OTHER_SUITE) * mask)


def learning_rate_of(batch: QueryBatch, x_BH: npt.NDArray) -> Float32Array:
    """(B, H) the queries' own learning rates at ln tokens, as `learning_rate`."""
    decay = batch.curves.decay_start[batch.rows]
    return learning_rate(batch.schedules[:, None], decay[:, None], x_BH, batch.planned[:, None])


def start_level(batch: QueryBatch, now: npt.NDArray) -> Float32Array:
    """(B,) a level to measure changes from, for runs without an observation.

    It is the mean of what the references scored at this run's last target; without references the
    chance level.
    """
    mask = batch.references != NONE
    ref = np.where(mask, batch.references, 0)
    x = np.nanmax(np.where(np.isnan(batch.targets), now[:, None], batch.targets), axis=1)
    weight = _nearness(batch, ref, mask & (batch.library.lengths[ref] > 0))
    value = np.where(weight > 0, at(batch.library.grid, ref, x[:, None]), 0.0)
    total = weight.sum(axis=1)
    chance = np.nan_to_num(batch.curves.chance[batch.rows], nan=0.25)
    mean = (weight * value).sum(axis=1) / np.maximum(total, 1e-6)
    return np.where(total > 1e-6, mean, chance).astype(np.float32)


def compare(batch: QueryBatch, own: Own, view: SiblingView) -> Compared:
    """Compares every query with its references."""
    curves, library = batch.curves, batch.library
    rows, mask = batch.rows, batch.references != NONE
    ref = np.where(mask, batch.references, 0)
    now, level = own.now[:, None], own.level[:, None]
    gap = _size_gap(batch, ref)
    size = np.nan_to_num(gap)
    length = run_length(library)[ref]
    own_length = np.where(np.isfinite(batch.planned), batch.planned, np.nan)[:, None]
    lag_x = now[:, :, None] - LAGS[None, None, :]
    there = at(library.grid, ref[:, :, None], lag_x)
    both = own.has_BL[:, None, :] & (lag_x >= library.first[ref][:, :, None] - 0.05)
    offset = np.where(both, own.smooth_BL[:, None, :] - there, 0.0)
    same_set = (library.loss_sets[ref] == curves.loss_sets[rows][:, None]) & np.isfinite(
        own.loss[:, None]
    )
    loss_gap = np.where(same_set, own.loss[:, None] - at(library.loss_grid, ref, now), 0.0)
    loss_gap = np.nan_to_num(loss_gap)
    equal_loss = first_below(
        library.loss_grid, ref, np.where(same_set, own.loss[:, None], np.nan).astype(np.float32)
    )
    has_equal = np.isfinite(equal_loss)
    same_suite = library.suites[ref] == curves.suites[rows][:, None]
    same_family = library.families[ref] == curves.families[rows][:, None]
    recipe, own_recipe = library.recipes[ref], batch.recipes[:, None]
    told_recipe = (recipe != NO_RECIPE) & (own_recipe != NO_RECIPE)
    same_recipe = told_recipe & (recipe == own_recipe)
    same_schedule = library.schedules[ref] == batch.schedules[:, None]
    sibling_gap, shared = sibling_offsets(view, library, batch.owners, batch.references, own.now)
    references = columns_of(
        [
            np.isfinite(gap),
            size / 2.0,
            np.abs(size) / 2.0,
            np.nan_to_num(length - own_length) / 2.0,
            (length - now) / 3.0,
            np.clip(now - library.first[ref], -12.0, 12.0) / 3.0,
            same_suite,
            same_family,
            told_recipe,
            same_recipe,
            same_schedule,
            CHANGE * library.noise[ref],
            same_set,
            np.clip(loss_gap, -2.0, 2.0),
            has_equal,
            np.where(has_equal, np.clip(equal_loss - now, -4.0, 4.0), 0.0) / 2.0,
            CHANGE * sibling_gap,
            np.log1p(shared) / 3.0,
            *np.moveaxis(CHANGE * offset, -1, 0),
            *np.moveaxis(both, -1, 0),
        ]
    )
    references = np.where(mask[:, :, None], references, np.float32(0.0))
    # What to add to ln tokens of this run to get the aligned position of the other. With FLOPs
    # 6 N D, equal FLOPs mean ln D + ln(N / N').
    shifts = {
        "tokens": (np.zeros_like(length), mask),
        "progress": (np.nan_to_num(length - own_length), mask & np.isfinite(length - own_length)),
        "flops": (-size, mask & np.isfinite(gap)),
        "loss": (np.where(has_equal, equal_loss - now, 0.0), mask & has_equal),
    }
    columns, candidates = [], []
    aligned = {}
    for name in ALIGNMENTS:
        one = aligned[name] = _align(batch, own, ref, *shifts[name])
        candidates.append(np.where(one.ok, level[:, :, None] + one.change, level[:, :, None]))
        columns += [
            CHANGE * np.where(one.ok, one.change, 0.0), one.ok, one.beyond / 2.0,
            np.nan_to_num(one.fall),
        ]  # fmt: skip
        if name != "loss":
            candidates.append(np.where(one.usable, one.value, level[:, :, None]))
            columns += [
                CHANGE * np.where(one.usable, one.value - level[:, :, None], 0.0), one.usable
            ]  # fmt: skip
    rows_BHR = columns[0].shape
    ahead = np.nan_to_num(batch.targets - now)
    columns.append(np.broadcast_to(ahead[:, :, None] / 3.0, rows_BHR))
    columns.append(np.isfinite(aligned["tokens"].fall))
    nearness = _nearness(batch, ref, mask) * np.where(
        same_recipe | ~told_recipe, 1.0, _OTHER_RECIPE
    )
    trend_candidates, trends = _trends(aligned, own, size, same_recipe, nearness)
    return Compared(
        references=references,
        pairs=columns_of(columns),
        trends=trends,
        candidates=np.clip(np.stack(candidates, axis=-1), 0.0, 1.0).astype(np.float32),
        trend_candidates=trend_candidates,
    )


def _align(
    batch: QueryBatch, own: Own, ref: npt.NDArray, shift: npt.NDArray, valid: npt.NDArray
) -> _Aligned:
    library = batch.library
    x = np.nan_to_num(batch.targets, nan=0.0)[:, :, None]
    begin = own.now[:, None] + shift
    place = x + shift[:, None, :]
    rows_BHR = np.broadcast_to(ref[:, None, :], place.shape)
    value = at(library.grid, rows_BHR, place)
    first, last = library.first[ref], library.last[ref]
    length = run_length(library)[ref]
    schedule, decay = library.schedules[ref], library.decay_start[ref]
    then = learning_rate(schedule, decay, begin, length)[:, None, :]
    later = learning_rate(schedule[:, None], decay[:, None], place, length[:, None, :])
    own_fall = own.learning_rate[:, None] - learning_rate_of(batch, x[:, :, 0])
    usable = valid[:, None, :] & (place >= first[:, None, :] - 0.3)
    seen = own.started[:, None] & valid & (begin >= first - 0.3)
    return _Aligned(
        change=value - at(library.grid, ref, begin)[:, None, :],
        value=value,
        ok=np.broadcast_to(seen[:, None, :], place.shape),
        usable=usable,
        beyond=np.nan_to_num(np.clip(place - last[:, None, :], 0.0, 6.0)).astype(np.float32),
        fall=(own_fall[:, :, None] - (then - later)).astype(np.float32),
    )


def _trends(
    aligned: dict[str, _Aligned],
    own: Own,
    size_BR: npt.NDArray,
    same_recipe_BR: npt.NDArray,
    nearness_BR: npt.NDArray,
) -> tuple[Float32Array, Float32Array]:
    """The references' change and value at the target, as planes in ln parameters and recipe.

    They are evaluated at the size and recipe of the query's run, for targets aligned at the same
    tokens and at the same progress. Returns ((B, H, C) candidates, features).
    """
    level = own.level[:, None]
    candidates, features = [], []
    for name in ("tokens", "progress"):
        one = aligned[name]
        there = one.beyond < 0.3
        change, change_weight = plane_at_zero(
            size_BR, same_recipe_BR, np.where(one.ok & there, one.change, np.nan), nearness_BR
        )
        value, value_weight = plane_at_zero(
            size_BR, same_recipe_BR, np.where(one.usable & there, one.value, np.nan), nearness_BR
        )
        has_change, has_value = change_weight > 0, value_weight > 0
        change = np.where(has_change, np.clip(change, -0.5, 0.5), 0.0)
        value = np.where(has_value, np.clip(value, 0.0, 1.0), level)
        features += [
            CHANGE * change, has_change, CHANGE * (value - level), has_value,
            np.log1p(change_weight),
        ]  # fmt: skip
        candidates += [np.clip(level + change, 0.0, 1.0), value]
    return np.stack(candidates, axis=-1).astype(np.float32), columns_of(features)


def columns_of(columns: list[npt.NDArray]) -> Float32Array:
    """Stacks columns of shapes that broadcast along a last axis, as float32."""
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float32)
