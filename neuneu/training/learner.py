"""Interface between the training loop and a trainable model.

It has two implementations: `WindowLearner` (the published design: one target of one context per
sample) and `CrossRunLearner` (many targets of one context, with reference runs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from neuneu.data.arrays import IntArray


@dataclass
class Ranks:
    """Rank of this process among the data-parallel ones."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, on every rank, in CPU memory."""
        if self.world == 1:
            return values
        reduced = values.to(self.device)  # NCCL only reduces tensors on a GPU
        torch.distributed.all_reduce(reduced)
        return reduced.cpu()

    def share(self, size: int) -> slice:
        """This rank's contiguous share of a batch of `size`; shares do not overlap."""
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Input of one forward pass on one rank.

    `inputs` are the learner's own; only the first `count` samples count (a rank whose share is
    empty takes part with one sample that does not).
    """

    inputs: Any
    count: int


def passes(size: int, ranks: Ranks, limit: int) -> list[tuple[IntArray, int]]:
    """Split this rank's share of a batch into passes.

    Args:
        size: samples of the global batch.
        ranks: rank of this process.
        limit: maximum number of samples per pass.

    Returns:
        For each pass its samples, as indices into the batch, and how many of them count.
    """
    mine = np.arange(size)[ranks.share(size)]
    if not len(mine):
        return [(np.arange(1), 0)]
    return [(rows, len(rows)) for rows in np.split(mine, range(limit, len(mine), limit))]


class Learner(Protocol):
    """Draws batches, builds the network, evaluates and saves it; must be safe to pickle."""

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with the training data."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimiser steps between two evaluations."""

    def build(self) -> nn.Module:
        """Return a fresh network, drawn from torch's global generator."""

    def draw(self, epoch: int, index: int, ranks: Ranks) -> tuple[list[Part], int]:
        """Return this rank's passes of batch `index` of an epoch, and the global batch size.

        Together, the ranks draw the same samples whatever their number.
        """

    def losses(self, network: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return the training loss and the pinball loss of each sample, both (n,) float32."""

    def evaluate(self, network: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Return metrics on validation runs, `pinball` among them; empty without any."""

    def save(
        self, folder: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]
    ) -> None:
        """Write a forecaster with these weights into a local folder."""
