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

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.forecasters.cross_run.batching import Observed, QueryBatch, observed
from neuneu.forecasters.cross_run.comparison import (
    CHANGE,
    LAGS,
    Own,
    columns_of,
    compare,
    learning_rate_of,
    start_level,
)
from neuneu.forecasters.cross_run.curves import METRICS, Float32Array
from neuneu.forecasters.cross_run.references import NONE
from neuneu.forecasters.cross_run.siblings import SiblingView, view_siblings
from neuneu.forecasters.cross_run.trends import local_line, local_mean, power_laws

WINDOWS: Final = (0.35, 1.2, 4.0)
"""Bandwidths of the lines fitted to the past, in ln tokens: recent, a factor of 3, all of it."""

RECENT: Final = (3, 6)
"""Numbers of last observations whose means are inputs: less noise than one, hardly more lag."""

SIBLING_LAGS: Final = np.array([0.35, 1.2], dtype=np.float32)

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


def make_features(batch: QueryBatch) -> Features:
    """Computes the inputs of B queries."""
    past = observed(batch)
    anchor = start_level(batch, past.now)
    fresh = ~past.started
    past = replace(past, values=np.where(fresh[:, None], anchor[:, None], past.values))
    view = view_siblings(batch.curves, batch.siblings, past.now, SIBLING_LAGS)
    own = _own(batch, past, view)
    targets, own_candidates = _targets(batch, past, own)
    compared = compare(batch, own, view)
    return Features(
        own=own.features,
        targets=np.concatenate([targets, compared.trends], axis=-1),
        references=compared.references,
        pairs=compared.pairs,
        reference_mask=batch.references != NONE,
        own_candidates=own_candidates,
        pair_candidates=compared.candidates,
        size_candidates=compared.trend_candidates,
        level=own.level,
    )


def _own(batch: QueryBatch, past: Observed, view: SiblingView) -> Own:
    curves, rows = batch.curves, batch.rows
    values, mask = past.values, past.mask
    smooth_BL = np.stack([local_mean(past.x, values, mask, lag) for lag in LAGS], axis=1)
    span = -past.x.min(axis=1)
    # Half a grid step of slack: checkpoints rarely lie exactly at a lag.
    has_BL = (LAGS[None, :] == 0.0) | (LAGS[None, :] <= span[:, None] + 0.05)
    has_BL &= past.started[:, None]
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
    count = mask.sum(axis=1) * past.started
    # Where the table has no standard errors, the scatter around the smoothed past stands in: two
    # degrees of freedom go to the curve, and fewer than five points say nothing.
    residual = np.where(mask, values - _blend(past, smooth_BL), 0.0)
    scatter = np.sqrt((residual**2).sum(axis=1) / np.maximum(count - 2, 1)) * (count > 4)
    scatter = np.clip(scatter, 0.0, 0.1)
    noise = np.maximum(np.where(stderr > 0, stderr, scatter), 0.002)
    known_end = np.isfinite(batch.planned)
    left = np.where(known_end, batch.planned - past.now, 0.0)
    rate = learning_rate_of(batch, past.now[:, None])[:, 0]
    log_params, blur = batch.log_params, _blur(batch)
    recent = [_mean_of_last(values, mask, n) for n in RECENT]
    columns = [
        level,
        CHANGE * (values[:, -1] - level),
        np.isfinite(chance),
        CHANGE * np.nan_to_num(level - chance),
        np.tanh(np.nan_to_num(level - chance) / (2.0 * noise)),  # is it above chance for sure?
        past.started,
        np.log(np.maximum(count, 1)) / 3.0,
        np.minimum(span, 12.0) / 5.0,
        CHANGE * stderr,
        stderr > 0,
        CHANGE * scatter,
        log_params > 0,
        np.where(log_params > 0, _scaled("params", log_params + blur[:, 0]), 0.0),
        _scaled("tokens", past.now + blur[:, 1]),
        known_end,
        left / 3.0,
        np.minimum(shots, 10) / 5.0,
        *(curves.metrics[rows] == code for code in range(len(METRICS))),
        has_loss,
        np.where(has_loss, np.clip(np.nan_to_num(loss) - 3.0, -3.0, 3.0), 0.0),
        np.where(has_loss, np.clip(loss_slope, -2.0, 2.0), 0.0),
        np.isfinite(rate),
        np.nan_to_num(rate),
        np.log1p(view.known.sum(axis=1)) / 3.0,
        *(CHANGE * view.change).T,
        *(view.changed > 0).T,
        *(CHANGE * (mean - level) for mean in recent),
        *(CHANGE * np.where(has_BL[:, 1:], smooth_BL[:, 1:] - level[:, None], 0.0)).T,
        *has_BL[:, 1:].T,
        *(CHANGE * (fitted_BW - level[:, None])).T,
        *(CHANGE * slopes_BW).T,
    ]
    return Own(
        features=columns_of(columns),
        now=past.now,
        level=level.astype(np.float32),
        smooth_BL=smooth_BL.astype(np.float32),
        has_BL=has_BL,
        slopes_BW=slopes_BW.astype(np.float32),
        loss=loss.astype(np.float32),
        learning_rate=rate,
        recent=recent[0].astype(np.float32),
        started=past.started,
    )


def _targets(batch: QueryBatch, past: Observed, own: Own) -> tuple[Float32Array, Float32Array]:
    x_BH = np.nan_to_num(batch.targets, nan=0.0)
    ahead = np.where(np.isfinite(batch.targets), x_BH - past.now[:, None], 0.0)
    known_end = np.isfinite(batch.planned)[:, None]
    left = np.where(known_end, batch.planned[:, None] - x_BH, 0.0)
    # A line is extended by no more than twice what it was fitted to.
    lines = [
        np.clip(own.slopes_BW[:, [w]] * np.minimum(ahead, 2.0 * WINDOWS[w]), -0.3, 0.3)
        for w in range(len(WINDOWS))
    ]
    laws = power_laws(past, ahead, own.level)
    log_params, blur = batch.log_params, _blur(batch)
    params = np.where(log_params > 0, _scaled("params", log_params + blur[:, 0]), 0.0)
    tokens = _scaled("tokens", x_BH + blur[:, [1]])
    rate = learning_rate_of(batch, x_BH)
    fall = np.nan_to_num(own.learning_rate[:, None] - rate)
    columns = [
        ahead / 3.0,
        np.sqrt(np.maximum(ahead, 0.0)),
        np.exp(-np.maximum(ahead, 0.0)),
        tokens,
        np.where(log_params > 0, tokens.T + params, 0.0).T,
        np.where(known_end, np.exp(-np.maximum(left, 0.0)), 0.0),
        np.clip(left, -1.0, 6.0) / 3.0,
        *(CHANGE * line for line in lines),
        *(CHANGE * law for law in laws),
        np.nan_to_num(rate),
        fall,
    ]
    level = own.level[:, None]
    recent = np.broadcast_to(own.recent[:, None], ahead.shape)
    changes = [recent, level + lines[1], level + lines[2], *(level + law for law in laws)]
    own_candidates = np.stack([np.broadcast_to(level, ahead.shape), *changes], axis=-1)
    return columns_of(columns), own_candidates.astype(np.float32)


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


def _mean_of_last(values: npt.NDArray, mask: npt.NDArray, count: int) -> npt.NDArray:
    """The mean of the last `count` observed values, fewer where there are fewer."""
    rank = np.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
    counted = mask & (rank <= count)
    return np.asarray((values * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1))


def _blur(batch: QueryBatch) -> npt.NDArray:
    return np.zeros((len(batch), 2)) if batch.blur is None else batch.blur


def _scaled(what: str, values: npt.NDArray) -> npt.NDArray:
    centre, scale = _CENTRES[what]
    return np.clip((values - centre) / scale, -_CLIP, _CLIP)
