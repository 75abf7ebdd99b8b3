"""Samples -> padded tensors, vectorised.

Shapes: B samples, K context points (the longest of the batch), C distinct checkpoints whose
loss vectors the batch needs, W values of a loss vector.
"""

from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from neuneu.windows import Samples, Series


class Batch(TypedDict):
    """What the network reads. Context points come first in a row, padding (zeros) after."""

    accuracy_BK: Tensor  # (B, K) float32 accuracies of the context points
    gap_BK: Tensor  # (B, K) float32 distance to the next kept point; the last one's to the target
    mask_BK: Tensor  # (B, K) bool, true at context points; at least one a row
    losses_CW: Tensor  # (C, W) nats, each distinct loss vector once
    loss_index_B: Tensor  # (B,) int64 row of losses_CW: the one at the end of the context
    target_B: Tensor  # (B,) float32 accuracy to forecast; NaN where it is not known


def make_batch(
    series: Series,
    samples: Samples,
    *,
    drop: float = 0.0,
    generator: np.random.Generator | None = None,
) -> Batch:
    """Gathers samples into one padded batch.

    Args:
        series: the flat arrays.
        samples: B >= 1 samples of it.
        drop: probability of leaving out an inner context point (neither first nor last).
        generator: draws which points are left out; required when drop > 0.
    """
    first_B = series.starts[samples.trajectory]
    place_K = np.arange(int(samples.end.max()) + 1)
    keep_BK = place_K <= samples.end[:, None]
    if drop > 0:
        assert generator is not None, "dropping context points needs a generator"
        inner_BK = (place_K > 0) & (place_K < samples.end[:, None])
        keep_BK &= ~(inner_BK & (generator.random(keep_BK.shape) < drop))
    row, place = np.nonzero(keep_BK)
    slot = (np.cumsum(keep_BK, axis=1) - 1)[row, place]
    count_B = keep_BK.sum(axis=1)
    shape = (len(samples), int(count_B.max()))
    mask_BK = np.arange(shape[1]) < count_B[:, None]

    checkpoint_BK = np.zeros(shape, dtype=np.int64)
    checkpoint_BK[row, slot] = first_B[row] + place
    next_BK = np.roll(checkpoint_BK, -1, axis=1)
    last = (np.arange(shape[0]), count_B - 1)
    next_BK[last] = first_B + samples.target

    values, positions = series.values, series.positions
    gap_BK = np.where(mask_BK, positions[next_BK] - positions[checkpoint_BK], 0.0)
    used_C, index_B = np.unique(series.loss_rows[checkpoint_BK[last]], return_inverse=True)
    return Batch(
        accuracy_BK=torch.from_numpy(np.where(mask_BK, values[checkpoint_BK], np.float32(0))),
        gap_BK=torch.from_numpy(gap_BK.astype(np.float32)),
        mask_BK=torch.from_numpy(mask_BK),
        losses_CW=torch.from_numpy(series.losses[used_C]),
        loss_index_B=torch.from_numpy(index_B.reshape(-1).astype(np.int64)),
        target_B=torch.from_numpy(values[first_B + samples.target]),
    )


def shard(batch: Batch, rank: int, world: int) -> tuple[Batch, int]:
    """Every `world`-th sample from `rank` on, and how many of its samples count.

    A rank beyond the samples of a small last batch gets its first sample and the count 0,
    because data-parallel ranks must all take part in every step. Loss vectors that the shard
    does not use are left out.
    """
    rows = torch.arange(len(batch["target_B"]))[rank::world]
    count = len(rows)
    if count == 0:
        rows = torch.zeros(1, dtype=torch.int64)
    used_C, index_B = torch.unique(batch["loss_index_B"][rows], return_inverse=True)
    return (
        Batch(
            accuracy_BK=batch["accuracy_BK"][rows],
            gap_BK=batch["gap_BK"][rows],
            mask_BK=batch["mask_BK"][rows],
            losses_CW=batch["losses_CW"][used_C],
            loss_index_B=index_B,
            target_B=batch["target_B"][rows],
        ),
        count,
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    return Batch(
        accuracy_BK=batch["accuracy_BK"].to(device),
        gap_BK=batch["gap_BK"].to(device),
        mask_BK=batch["mask_BK"].to(device),
        losses_CW=batch["losses_CW"].to(device),
        loss_index_B=batch["loss_index_B"].to(device),
        target_B=batch["target_B"].to(device),
    )
