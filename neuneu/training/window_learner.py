"""Learner of the published design: a sample is one context and one target of a trajectory.

Samples of one checkpoint (its tasks and distances) share its loss vector. They are drawn in
groups, so that a batch holds few vectors, each encoded and moved once.
Shapes: B samples, Q levels, R loss vectors of W values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from neuneu.data.arrays import IntArray
from neuneu.data.quantiles import MEDIAN, common_levels, inside_80, pinball_torch
from neuneu.forecasters.window.batching import (
    Batch,
    drop_inner,
    grouped_order,
    make_batch,
    to_device,
)
from neuneu.forecasters.window.encoders import READS
from neuneu.forecasters.window.export import Provenance, save_model
from neuneu.forecasters.window.network import Network
from neuneu.forecasters.window.windows import Samples
from neuneu.training.data import TrainingData
from neuneu.training.learner import Part, Ranks, passes
from neuneu.training.objective import objective, sample_weights

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig

EVALUATION_BATCH: Final = 1024
BANK_SHARE: Final = 0.25
"""Largest share of a GPU's free memory for the loss vectors; else they stay in main memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowLearner:
    """Trains a `Network` on the samples of `data`; see `Learner` for the methods."""

    data: TrainingData
    config: "TrainConfig"

    @property
    def digest(self) -> str:
        """Digest of the training data."""
        return self.data.digest

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimiser steps of one pass over the training samples."""
        return math.ceil(len(self.data.train) / batch_size)

    def build(self) -> nn.Module:
        """Return a fresh network."""
        return Network(self.data.model)

    def draw(self, epoch: int, index: int, ranks: Ranks) -> tuple[list[Part], int]:
        """Return this rank's part of a batch; draws depend on (seed, epoch, index) only."""
        data, config = self.data, self.config
        rows = self._rows(epoch, index)
        samples = data.train.take(rows)
        generator = np.random.default_rng([config.seed, epoch, index])
        kept_BK = drop_inner(samples, config.drop, generator)
        weight_B = self._weights(samples)
        bank = self._bank(ranks.device)
        parts = [
            Part(
                inputs=make_batch(
                    data.series,
                    samples.take(chosen),
                    kept_BK=kept_BK[chosen],
                    weight_B=weight_B[chosen],
                    bank=bank,
                ),
                count=count,
            )
            for chosen, count in passes(len(rows), ranks, config.optim.micro_batch or len(rows))
        ]
        return parts, len(rows)

    def losses(self, network: nn.Module, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Return the training loss and the pinball loss of each sample."""
        device = next(network.parameters()).device
        batch = to_device(inputs, device)
        quantiles_BQ = network(batch).float()
        levels_Q = torch.tensor(self.data.model.levels, device=device)
        loss_B, pinball_B = objective(
            self.config.objective, quantiles_BQ, batch["target_B"], levels_Q
        )
        return loss_B * batch["weight_B"], pinball_B

    def evaluate(self, network: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Return metrics over the validation samples; see `evaluate`."""
        return evaluate(network, self.data, ranks)

    def save(
        self, folder: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]
    ) -> None:
        """Write a forecaster with these weights."""
        data: dict[str, Any] = {
            "training_runs": self.data.runs,
            "metrics": self.data.metrics,
            "corpus_hash": self.data.corpus_hash,
            "loss_names": list(self.config.loss_names),
        }
        save_model(folder, self.data.model, weights, Provenance(**{**provenance, **data}))

    def _rows(self, epoch: int, index: int) -> IntArray:
        group = self.config.checkpoint_group
        if READS[self.data.model.encoder.kind] != "words":
            group = 1  # repeating the input of other encoders costs nothing
        order = _epoch_order(self.data, self.config.seed, epoch, group)
        size = self.config.optim.batch_size
        return order[index * size : (index + 1) * size]

    def _weights(self, samples: Samples) -> npt.NDArray[np.float32]:
        series = self.data.series
        first_B, positions = series.starts[samples.trajectory], series.positions
        ahead_B = positions[first_B + samples.target] - positions[first_B + samples.end]
        return sample_weights(self.config.objective, ahead_B, series.noise[samples.trajectory])

    def _bank(self, device: torch.device | None) -> Tensor | None:
        if device is None or device.type != "cuda":
            return None
        return _bank_on(self.data, device)


def evaluate(
    network: nn.Module, data: TrainingData, ranks: Ranks | None = None
) -> dict[str, float]:
    """Return metrics over all validation samples; empty without any.

    `pinball` is the mean over samples and the published levels (`common_levels`), `mae` the mean
    absolute error of the median, `coverage_80` the share of targets inside the 0.1 to 0.9 interval
    (absent without those levels). Quantiles are clipped to [0, 1], as in forecasts.
    """
    ranks = ranks or Ranks()
    levels = data.model.levels
    if not len(data.validation):
        return {}
    device = next(network.parameters()).device
    levels_Q = torch.tensor(levels, device=device)
    shared = common_levels(levels)
    sums = torch.zeros(4, dtype=torch.float64)
    network.eval()
    starts = range(0, len(data.validation), EVALUATION_BATCH)
    for start in list(starts)[ranks.rank :: ranks.world]:
        rows = np.arange(start, min(start + EVALUATION_BATCH, len(data.validation)))
        batch = to_device(make_batch(data.series, data.validation.take(rows)), device)
        with torch.no_grad():
            quantiles_BQ = network(batch).float().clamp(0.0, 1.0)
        y_B = batch["target_B"]
        sums[0] += len(rows)
        loss_BQ = pinball_torch(quantiles_BQ[:, shared], y_B, levels_Q[shared])
        sums[1] += loss_BQ.mean(dim=1).sum().cpu()
        sums[2] += (quantiles_BQ[:, levels.index(MEDIAN)] - y_B).abs().sum().cpu()
        if 0.1 in levels and 0.9 in levels:
            sums[3] += inside_80(quantiles_BQ, y_B, levels).sum().cpu()
    count, pinball, error, inside = ranks.sum(sums).tolist()
    metrics = {"pinball": pinball / count, "mae": error / count}
    if 0.1 in levels and 0.9 in levels:
        metrics["coverage_80"] = inside / count
    return metrics


@lru_cache(maxsize=1)
def _epoch_order(data: TrainingData, seed: int, epoch: int, group: int) -> IntArray:
    """Return the order of an epoch's samples; cached, since there can be millions."""
    generator = np.random.default_rng([seed, epoch])
    if group == 1:
        return generator.permutation(len(data.train))
    series, samples = data.series, data.train
    rows = series.loss_rows[series.starts[samples.trajectory] + samples.end]
    return grouped_order(rows, group, generator)


@lru_cache(maxsize=1)
def _bank_on(data: TrainingData, device: torch.device) -> Tensor | None:
    """Return all loss vectors on a GPU, if they fit; batches then move indices only."""
    losses: Any = data.series.losses
    free, _ = torch.cuda.mem_get_info(device)
    if losses.nbytes > BANK_SHARE * free:
        return None
    return torch.from_numpy(losses).to(device)
