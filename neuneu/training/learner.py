"""What the training loop asks of the thing that is trained.

Two are: `WindowLearner` (the published design: one target of one context a sample) and
`CrossRunLearner` (many targets of one past, with other runs to lean on).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass
class Ranks:
    """Where this process stands among the data-parallel ones."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every rank, in CPU memory."""
        if self.world == 1:
            return values
        reduced = values.to(self.device)  # NCCL reduces what lies on a GPU only
        torch.distributed.all_reduce(reduced)
        return reduced.cpu()

    def share(self, size: int) -> slice:
        """The samples of a batch of `size` that are this rank's: contiguous, none twice."""
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What one rank puts through the network in one pass.

    `inputs` are the learner's own; the first `count` of their samples count (a rank whose share
    is empty takes part with one sample that does not).
    """

    inputs: Any
    count: int


class Learner(Protocol):
    """Draws batches, builds the network and judges it; must be safe to pickle."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimiser steps between two evaluations."""

    def build(self) -> nn.Module:
        """A fresh network, drawn from torch's global generator."""

    def draw(self, epoch: int, index: int, ranks: Ranks) -> tuple[list[Part], int]:
        """(this rank's passes of batch `index` of an epoch, samples of the global batch).

        The same for any number of ranks, taken together.
        """

    def losses(self, network: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        """(what is minimised, the pinball loss) of each sample, both (n,) float32."""

    def evaluate(self, network: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Metrics on held-out runs, `pinball` among them; empty without any."""
