"""Samples as padded tensors.

Shapes: B samples, K context points (the longest of the batch), C distinct checkpoints whose
loss vectors the batch needs, W values of a loss vector, M samples.
"""

from collections.abc import Mapping
from typing import TypedDict, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neuneu.data.arrays import IntArray
from neuneu.forecasters.window.windows import Samples, Series


class Batch(TypedDict):
    """Inputs of the network. In a row, context points come first, then padding (zeros)."""

    accuracy_BK: Tensor  # (B, K) float32 accuracies of the context points
    gap_BK: Tensor  # (B, K) float32 distance to the next kept point; the last one's to the target
    mask_BK: Tensor  # (B, K) bool, true at context points; at least one a row
    losses_CW: Tensor  # (C, W) nats, each distinct loss vector once
    loss_index_B: Tensor  # (B,) int64 row of losses_CW: the one at the end of the context
    target_B: Tensor  # (B,) float32 accuracy to forecast; NaN where it is not known
    weight_B: Tensor  # (B,) float32 weight in training; mean 1 over a step's batch


def make_batch(
    series: Series,
    samples: Samples,
    *,
    kept_BK: npt.NDArray[np.bool_] | None = None,
    weight_B: npt.NDArray[np.float32] | None = None,
    bank: Tensor | None = None,
) -> Batch:
    """Gathers samples into one padded batch.

    Args:
        series: the flat arrays.
        samples: B >= 1 samples of it.
        kept_BK: false at checkpoints of a context to leave out, see `drop_inner`; None keeps all.
            Columns beyond the longest context of these samples are not read.
        weight_B: weights in training; None: 1 each.
        bank: the loss vectors of `series` (R, W) on a device; None gathers from memory.
    """
    first_B = series.starts[samples.trajectory]
    place_K = np.arange(int(samples.end.max()) + 1)
    keep_BK = place_K <= samples.end[:, None]
    if kept_BK is not None:
        keep_BK &= kept_BK[:, : len(place_K)]
    row, position = np.nonzero(keep_BK)
    slot = (np.cumsum(keep_BK, axis=1) - 1)[row, position]
    count_B = keep_BK.sum(axis=1)
    shape = (len(samples), int(count_B.max()))
    mask_BK = np.arange(shape[1]) < count_B[:, None]

    checkpoint_BK = np.zeros(shape, dtype=np.int64)
    checkpoint_BK[row, slot] = first_B[row] + position
    next_BK = np.roll(checkpoint_BK, -1, axis=1)
    last = (np.arange(shape[0]), count_B - 1)
    next_BK[last] = first_B + samples.target

    values, positions = series.values, series.positions
    gap_BK = np.where(mask_BK, positions[next_BK] - positions[checkpoint_BK], 0.0)
    used_C, index_B = np.unique(series.loss_rows[checkpoint_BK[last]], return_inverse=True)
    losses_CW = (
        torch.from_numpy(series.losses[used_C])
        if bank is None
        else bank[torch.from_numpy(used_C).to(bank.device)]
    )
    return Batch(
        accuracy_BK=torch.from_numpy(np.where(mask_BK, values[checkpoint_BK], np.float32(0))),
        gap_BK=torch.from_numpy(gap_BK.astype(np.float32)),
        mask_BK=torch.from_numpy(mask_BK),
        losses_CW=losses_CW,
        loss_index_B=torch.from_numpy(index_B.reshape(-1).astype(np.int64)),
        target_B=torch.from_numpy(values[first_B + samples.target]),
        weight_B=(torch.ones(len(samples)) if weight_B is None else torch.from_numpy(weight_B)),
    )


def drop_inner(
    samples: Samples, chance: float, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """(B, K) false at inner checkpoints (neither first nor last) to drop at random."""
    place_K = np.arange(int(samples.end.max()) + 1)
    inner_BK = (place_K > 0) & (place_K < samples.end[:, None])
    kept_BK: npt.NDArray[np.bool_] = ~(inner_BK & (generator.random(inner_BK.shape) < chance))
    return kept_BK


def grouped_order(key_M: IntArray, group: int, generator: np.random.Generator) -> IntArray:
    """A random order (M,) in which samples of one key come in groups of at most `group`.

    Samples of one key share a checkpoint's loss vector, which is then encoded once for a group.
    Groups of all keys are shuffled.
    """
    order = generator.permutation(len(key_M))
    order = order[np.argsort(key_M[order], kind="stable")]
    keys = key_M[order]
    new = np.diff(keys, prepend=keys[:1] - 1) != 0
    first = np.flatnonzero(new)
    position = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    chunk = np.cumsum(new | (position % group == 0)) - 1
    rank = generator.permutation(int(chunk[-1]) + 1)
    return order[np.argsort(rank[chunk], kind="stable")]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    tensors = cast("Mapping[str, Tensor]", batch)
    return cast("Batch", {name: tensor.to(device) for name, tensor in tensors.items()})
