"""Inputs of the network, computed from arrays without a loop over queries.

Everything about other runs is a comparison: their change between two positions, their distance
from this run where both were observed. Positions are aligned in four ways: at the same tokens, at
the same fraction of the planned tokens, at the same FLOPs (6 x parameters x tokens, Kaplan et al.
2020, arXiv 2001.08361), and as far beyond the position where the other run had this run's loss.

Scales bring every column to order one, since the network does not normalise its inputs. Clips
bound columns outside the range of the training runs. Both belong to the trained forecaster: a
change of a number or of the order of columns invalidates its weights.
Shapes: B queries, H targets, R references, L lags, F features, C candidates.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.forecasters.cross_run.batching import Observed, QueryBatch, observed
from neuneu.forecasters.cross_run.curves import METRICS, Float32Array, at, first_below
from neuneu.forecasters.cross_run.references import NONE, run_length
from neuneu.forecasters.cross_run.trends import (
    line_at_zero,
    local_line,
    local_mean,
    power_laws,
)

LAGS: Final = np.array([0.0, 0.15, 0.35, 0.7, 1.2, 2.0, 3.0, 4.5], dtype=np.float32)
"""Positions in the past, in ln tokens before the last observation, denser where recent."""

WINDOWS: Final = (0.35, 1.2, 4.0)
"""Bandwidths of the lines fitted to the past, in ln tokens: recent, a factor of 3, all of it."""

ALIGNMENTS: Final = ("tokens", "progress", "flops", "loss")
OWN_CANDIDATES: Final = 3

PAIR_CANDIDATES: Final = 2 * len(ALIGNMENTS) - 1
SIZE_CANDIDATES: Final = 2
CHANGE: Final = 10.0
"""Scale of changes of accuracy, which are a few points."""

_CENTRES: Final = {"params": (20.0, 2.0), "tokens": (23.0, 3.0)}
"""Centre and scale of logarithms: 500M parameters, 10B tokens."""

_CLIP: Final = 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Network inputs, float32.

    `own` (B, F), `targets` (B, H, F), `references` (B, R, F), `pairs` (B, H, R, F);
    `reference_mask` (B, R) is false where there is no reference. `own_candidates` (B, H, C),
    `pair_candidates` (B, H, R, C) and `size_candidates` (B, H, C) are forecasts in accuracy that
    follow from one comparison each; `level` (B,) is the present accuracy.
    """

    own: Float32Array
    targets: Float32Array
    references: Float32Array
    pairs: Float32Array
    reference_mask: npt.NDArray[np.bool_]
    own_candidates: Float32Array
    pair_candidates: Float32Array
    size_candidates: Float32Array
    level: Float32Array


def make_features(batch: QueryBatch, *, general: bool = False) -> Features:
    """Computes the inputs of B queries.

    `general` features are for families that were not trained on: they leave out absolute sizes
    and tokens, losses, the metric and the number of shots, and only compare; power laws fitted to
    the past are further candidates.
    """
    past = observed(batch)
    own = _own(batch, past, general=general)
    targets, own_candidates = _targets(batch, past, own, general=general)
    compared = _compare(batch, own)
    size, size_features = _size_trend(batch, compared, own)
    return Features(
        own=own.features,
        targets=np.concatenate([targets, size_features], axis=-1),
        references=compared.references,
        pairs=compared.pairs,
        reference_mask=batch.references != NONE,
        own_candidates=own_candidates,
        pair_candidates=compared.candidates,
        size_candidates=size,
        level=own.level,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Own:
    features: Float32Array
    now: Float32Array
    level: Float32Array
    smooth_BL: Float32Array
    has_BL: npt.NDArray[np.bool_]
    slopes_BW: Float32Array
    loss: Float32Array


def _own(batch: QueryBatch, past: Observed, *, general: bool) -> _Own:
    curves, rows = batch.curves, batch.rows
    values, mask = past.values, past.mask
    smooth_BL = np.stack([local_mean(past.x, values, mask, lag) for lag in LAGS], axis=1)
    span = -past.x.min(axis=1)
    # Half a grid step of slack: checkpoints rarely lie exactly at a lag.
    has_BL = (LAGS[None, :] == 0.0) | (LAGS[None, :] <= span[:, None] + 0.05)
    lines = [local_line(past.x, values, mask, window) for window in WINDOWS]
    fitted_BW = np.stack([line[0] for line in lines], axis=1)
    slopes_BW = np.clip(np.stack([line[1] for line in lines], axis=1), -0.3, 0.3)
    level = smooth_BL[:, 0]
    loss_known = mask & np.isfinite(past.losses)
    losses = np.where(loss_known, past.losses, 0.0)
    loss, loss_slope = local_line(past.x, losses, loss_known, WINDOWS[1])
    has_loss = loss_known[:, -1]
    loss = np.where(has_loss, loss, np.nan)
    chance, shots = curves.chance[rows], curves.shots[rows]
    stderr = np.nan_to_num(_last(curves.stderrs, batch))
    count = mask.sum(axis=1)
    # Where the table has no standard errors, the scatter around the smoothed past stands in: two
    # degrees of freedom go to the curve, and fewer than five points say nothing.
    residual = np.where(mask, values - _blend(past, smooth_BL), 0.0)
    scatter = np.sqrt((residual**2).sum(axis=1) / np.maximum(count - 2, 1)) * (count > 4)
    scatter = np.clip(scatter, 0.0, 0.1)
    noise = np.maximum(np.where(stderr > 0, stderr, scatter), 0.002)
    known_end = np.isfinite(batch.planned)
    left = np.where(known_end, batch.planned - past.now, 0.0)
    known = 0.0 if general else 1.0
    has_told_loss = has_loss & (not general)
    columns = [
        level,
        CHANGE * (values[:, -1] - level),
        np.isfinite(chance),
        CHANGE * np.nan_to_num(level - chance),
        np.tanh(np.nan_to_num(level - chance) / (2.0 * noise)),  # is it above chance for sure?
        np.log(count) / 3.0,
        np.minimum(span, 12.0) / 5.0,
        CHANGE * stderr,
        stderr > 0,
        CHANGE * scatter,
        known * _scaled("params", curves.log_params[rows]),
        known * _scaled("tokens", past.now),
        known_end,
        left / 3.0,
        known * np.minimum(shots, 10) / 5.0,
        *(known * (curves.metrics[rows] == code) for code in range(len(METRICS))),
        has_told_loss,
        np.where(has_told_loss, np.nan_to_num(loss) - 3.0, 0.0),
        np.where(has_told_loss, np.clip(loss_slope, -2.0, 2.0), 0.0),
        *(CHANGE * np.where(has_BL[:, 1:], smooth_BL[:, 1:] - level[:, None], 0.0)).T,
        *has_BL[:, 1:].T,
        *(CHANGE * (fitted_BW - level[:, None])).T,
        *(CHANGE * slopes_BW).T,
    ]
    return _Own(
        features=_columns(columns),
        now=past.now,
        level=level.astype(np.float32),
        smooth_BL=smooth_BL.astype(np.float32),
        has_BL=has_BL,
        slopes_BW=slopes_BW.astype(np.float32),
        loss=loss.astype(np.float32),
    )


def _targets(
    batch: QueryBatch, past: Observed, own: _Own, *, general: bool
) -> tuple[Float32Array, Float32Array]:
    x_BH = np.nan_to_num(batch.targets, nan=0.0)
    ahead = np.where(np.isfinite(batch.targets), x_BH - past.now[:, None], 0.0)
    known_end = np.isfinite(batch.planned)[:, None]
    left = np.where(known_end, batch.planned[:, None] - x_BH, 0.0)
    # A line is extended by no more than twice what it was fitted to.
    lines = [
        np.clip(own.slopes_BW[:, [w]] * np.minimum(ahead, 2.0 * WINDOWS[w]), -0.3, 0.3)
        for w in range(len(WINDOWS))
    ]
    laws = power_laws(past, ahead, own.level) if general else []
    tokens, params = _scaled("tokens", x_BH), _scaled("params", _log_params(batch))
    known = 0.0 if general else 1.0
    columns = [
        ahead / 3.0,
        np.sqrt(np.maximum(ahead, 0.0)),
        np.exp(-np.maximum(ahead, 0.0)),
        known * tokens,
        known * (tokens + params[:, None]),
        np.where(known_end, np.exp(-np.maximum(left, 0.0)), 0.0),
        np.clip(left, -1.0, 6.0) / 3.0,
        *(CHANGE * line for line in lines),
        *(CHANGE * law for law in laws),
    ]
    level = own.level[:, None]
    changes = [level + lines[1], level + lines[2], *(level + law for law in laws)]
    own_candidates = np.stack([np.broadcast_to(level, ahead.shape), *changes], axis=-1)
    return _columns(columns), own_candidates.astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Compared:
    references: Float32Array
    pairs: Float32Array
    candidates: Float32Array
    change_BHR: Float32Array
    absolute_BHR: Float32Array
    nearness_BR: Float32Array


def _compare(batch: QueryBatch, own: _Own) -> _Compared:
    curves, library = batch.curves, batch.library
    rows, mask = batch.rows, batch.references != NONE
    ref = np.where(mask, batch.references, 0)
    now, level = own.now[:, None], own.level[:, None]
    size = library.log_params[ref] - curves.log_params[rows][:, None]
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
    references = _columns(
        [
            size / 2.0,
            np.abs(size) / 2.0,
            np.nan_to_num(length - own_length) / 2.0,
            (length - now) / 3.0,
            (now - library.first[ref]) / 3.0,
            same_suite,
            same_family,
            CHANGE * library.noise[ref],
            same_set,
            np.clip(loss_gap, -2.0, 2.0),
            has_equal,
            np.where(has_equal, np.clip(equal_loss - now, -4.0, 4.0), 0.0) / 2.0,
            *np.moveaxis(CHANGE * offset, -1, 0),
            *np.moveaxis(both, -1, 0),
        ]
    )
    x = np.nan_to_num(batch.targets, nan=0.0)[:, :, None]
    ahead = np.where(np.isfinite(batch.targets), x[:, :, 0] - now, 0.0)[:, :, None]
    rows_BHR = np.broadcast_to(ref[:, None, :], (*batch.targets.shape, ref.shape[1]))
    # What to add to ln tokens of this run to get the aligned position of the other. With FLOPs
    # 6 N D, equal FLOPs mean ln D + ln(N / N').
    shift = {
        "tokens": np.zeros_like(length),
        "progress": np.nan_to_num(length - own_length),
        "flops": -size,
        "loss": np.where(has_equal, equal_loss - now, 0.0),
    }
    valid = {
        "tokens": mask,
        "progress": mask & np.isfinite(length - own_length),
        "flops": mask,
        "loss": mask & has_equal,
    }
    columns, candidates = [], []
    results = {}
    for name in ALIGNMENTS:
        # `change` is relative to the other run's level at this run's last checkpoint, `value` is
        # its level at the target. Positions before its first checkpoint are masked, with three
        # grid steps of slack; beyond its last one the grid is constant, and `beyond` says how far.
        begin = now + shift[name]
        place = x + shift[name][:, None, :]
        value = at(library.grid, rows_BHR, place)
        change = value - at(library.grid, ref, begin)[:, None, :]
        beyond = np.clip(place - library.last[ref][:, None, :], 0.0, 6.0)
        ok = valid[name][:, None, :] & (begin >= library.first[ref] - 0.3)[:, None, :]
        usable = valid[name][:, None, :] & (place >= library.first[ref][:, None, :] - 0.3)
        results[name] = (change, value, ok, usable, beyond)
        candidates.append(np.where(ok, level[:, :, None] + change, level[:, :, None]))
        columns += [CHANGE * np.where(ok, change, 0.0), ok, beyond / 2.0]
        if name != "loss":
            candidates.append(np.where(usable, value, level[:, :, None]))
            columns += [CHANGE * np.where(usable, value - level[:, :, None], 0.0), usable]
    columns.append(np.broadcast_to(ahead / 3.0, rows_BHR.shape))
    change, value, ok, usable, beyond = results["tokens"]
    return _Compared(
        references=references,
        pairs=_columns(columns),
        candidates=np.clip(np.stack(candidates, axis=-1), 0.0, 1.0).astype(np.float32),
        change_BHR=np.where(ok & (beyond < 0.3), change, np.nan).astype(np.float32),
        absolute_BHR=np.where(usable & (beyond < 0.3), value, np.nan).astype(np.float32),
        nearness_BR=(np.exp(-np.abs(size)) * np.where(same_suite, 1.0, 0.2) * mask).astype(
            np.float32
        ),
    )


def _size_trend(
    batch: QueryBatch, compared: _Compared, own: _Own
) -> tuple[Float32Array, Float32Array]:
    """The references' change and value at the target's tokens, as lines in ln parameters.

    They are evaluated at the size of the query's run; references of similar size and the same
    suite weigh most. Returns ((B, H, 2) candidates, features).
    """
    level = own.level[:, None]
    ref = np.where(batch.references == NONE, 0, batch.references)
    size = batch.library.log_params[ref] - _log_params(batch)[:, None]
    change, change_weight = line_at_zero(size, compared.change_BHR, compared.nearness_BR)
    value, value_weight = line_at_zero(size, compared.absolute_BHR, compared.nearness_BR)
    has_change, has_value = change_weight > 0, value_weight > 0
    change = np.where(has_change, np.clip(change, -0.5, 0.5), 0.0)
    value = np.where(has_value, np.clip(value, 0.0, 1.0), level)
    features = [
        CHANGE * change,
        has_change,
        CHANGE * (value - level),
        has_value,
        np.log1p(change_weight),
    ]
    candidates = np.stack([np.clip(level + change, 0.0, 1.0), value], axis=-1)
    return candidates.astype(np.float32), _columns(features)


def _blend(past: Observed, smooth_BL: npt.NDArray) -> npt.NDArray:
    """The smoothed past at the observed positions, (B, K), linear between lags."""
    place = np.clip(np.searchsorted(LAGS, -past.x), 1, len(LAGS) - 1)
    low, high = LAGS[place - 1], LAGS[place]
    share = np.clip((-past.x - low) / (high - low), 0.0, 1.0)
    left = np.take_along_axis(smooth_BL, place - 1, axis=1)
    right = np.take_along_axis(smooth_BL, place, axis=1)
    return left * (1.0 - share) + right * share


def _last(values: npt.NDArray, batch: QueryBatch) -> npt.NDArray:
    return values[batch.curves.starts[batch.rows] + batch.end]


def _log_params(batch: QueryBatch) -> npt.NDArray:
    return batch.curves.log_params[batch.rows]


def _scaled(what: str, values: npt.NDArray) -> npt.NDArray:
    centre, scale = _CENTRES[what]
    return np.clip((values - centre) / scale, -_CLIP, _CLIP)


def _columns(columns: list[npt.NDArray]) -> Float32Array:
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float32)
