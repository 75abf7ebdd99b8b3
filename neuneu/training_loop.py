"""The optimisation itself: deterministic, resumable at any step, data-parallel by sharding.

Nothing here knows Ray. Every random draw is a function of (seed, epoch, batch), so a state
needs no generator, and n ranks take the same samples per step as one.
Shapes: B samples of the global batch, Q levels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from neuneu.batching import Batch, make_batch, shard, to_device
from neuneu.quantiles import MEDIAN, pinball_torch
from neuneu.training_data import TrainingData
from neuneu.trajectories import IntArray

if TYPE_CHECKING:
    from neuneu.training import TrainConfig

EVALUATION_BATCH = 1024


class DivergedError(ArithmeticError):
    """The loss or its gradient became NaN or infinite."""


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


@dataclass
class FitState:
    """How far a fit has come, besides weights and optimiser.

    `history` has one row an epoch. `epoch_loss` is the pinball loss summed over the samples of
    the unfinished epoch. `best` holds score, step and weights of the best epoch so far.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_loss: float = 0.0
    best: dict[str, Any] | None = None


def steps_per_epoch(config: "TrainConfig", data: TrainingData) -> int:
    """Optimiser steps of one pass over the training samples."""
    return math.ceil(len(data.train) / config.optim.batch_size)


def total_steps(config: "TrainConfig", data: TrainingData) -> int:
    """Optimiser steps of the whole fit."""
    steps = config.optim.epochs * steps_per_epoch(config, data)
    return steps if config.optim.max_steps is None else min(steps, config.optim.max_steps)


def learning_rate(config: "TrainConfig", step: int, total: int) -> float:
    """Linear warm-up to the peak, then half a cosine to zero at `total`."""
    peak, warmup = config.optim.learning_rate, max(1, round(config.optim.warmup_fraction * total))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimizer(config: "TrainConfig", network: nn.Module) -> torch.optim.AdamW:
    """AdamW over all parameters, as published."""
    return torch.optim.AdamW(
        network.parameters(),
        lr=config.optim.learning_rate,
        weight_decay=config.optim.weight_decay,
    )


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    config: "TrainConfig",
    state: FitState,
    *,
    save: Callable[[FitState], None],
    tick: Callable[[int, int, float], None],
    ranks: Ranks | None = None,
) -> None:
    """Trains `network` in place from `state` to the end.

    Args:
        network: a `Network`, or one wrapped for data-parallel training.
        optimizer: of its parameters.
        data: samples.
        config: the training config.
        state: updated in place.
        save: called at the end of each epoch and every `checkpoint_steps` steps.
        tick: called after each step with (steps done, steps in all, pinball loss).
        ranks: this process among several.

    Raises:
        DivergedError: on every rank in the same step, when the gradient is not finite.
    """
    ranks = ranks or Ranks()
    device = next(network.parameters()).device
    levels_Q = torch.tensor(data.model.levels, device=device)
    per_epoch, total = steps_per_epoch(config, data), total_steps(config, data)
    unreduced = torch.zeros((), dtype=torch.float64)
    while state.step < total:
        epoch, index = divmod(state.step, per_epoch)
        batch, size, count = _training_batch(data, config, epoch, index, ranks)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step, total)
        torch.manual_seed(hash((config.seed, state.step, ranks.rank)) % 2**63)  # dropout's
        network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            quantiles_BQ = network(to_device(batch, device))
        loss_B = pinball_torch(quantiles_BQ.float(), batch["target_B"].to(device), levels_Q).mean(
            dim=1
        )
        loss_sum = loss_B[:count].sum() if count else loss_B.sum() * 0.0
        optimizer.zero_grad(set_to_none=True)
        # Data-parallel training averages gradients over ranks; shards can differ in size.
        (loss_sum * (ranks.world / size)).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"training diverged at step {state.step}: the gradient's norm is {norm.item()}. "
                "Lower optim.learning_rate or look for extreme losses in the data."
            )
        optimizer.step()
        unreduced += loss_sum.detach().cpu()
        state.step += 1
        tick(state.step, total, float(loss_sum.detach()) / max(count, 1))
        ends_epoch = state.step % per_epoch == 0 or state.step == total
        every = config.checkpoint_steps
        if ends_epoch or (every is not None and state.step % every == 0):
            state.epoch_loss += float(ranks.sum(unreduced))
            unreduced = torch.zeros_like(unreduced)
            if ends_epoch:
                _end_epoch(network, data, config, state, ranks)
            save(state)


def evaluate(
    network: nn.Module, data: TrainingData, ranks: Ranks | None = None
) -> dict[str, float]:
    """Validation metrics over all validation samples; empty without any.

    `pinball` is the mean over samples and levels; `mae` that of the median; `coverage_80` the
    share of targets within the 0.1 to 0.9 band (absent without those levels). Quantiles are
    clipped to [0, 1], as they are when forecasting.
    """
    ranks = ranks or Ranks()
    levels = data.model.levels
    if not len(data.validation):
        return {}
    device = next(network.parameters()).device
    levels_Q = torch.tensor(levels, device=device)
    sums = torch.zeros(4, dtype=torch.float64)
    bare = bare_network(network)
    bare.eval()
    starts = range(0, len(data.validation), EVALUATION_BATCH)
    for start in list(starts)[ranks.rank :: ranks.world]:
        rows = np.arange(start, min(start + EVALUATION_BATCH, len(data.validation)))
        batch = to_device(make_batch(data.series, data.validation.take(rows)), device)
        with torch.no_grad():
            quantiles_BQ = bare(batch).float().clamp(0.0, 1.0)
        y_B = batch["target_B"]
        sums[0] += len(rows)
        sums[1] += pinball_torch(quantiles_BQ, y_B, levels_Q).mean(dim=1).sum().cpu()
        sums[2] += (quantiles_BQ[:, levels.index(MEDIAN)] - y_B).abs().sum().cpu()
        if 0.1 in levels and 0.9 in levels:
            low_B = quantiles_BQ[:, levels.index(0.1)]
            high_B = quantiles_BQ[:, levels.index(0.9)]
            sums[3] += ((low_B <= y_B) & (y_B <= high_B)).sum().cpu()
    count, pinball, error, inside = ranks.sum(sums).tolist()
    metrics = {"pinball": pinball / count, "mae": error / count}
    if 0.1 in levels and 0.9 in levels:
        metrics["coverage_80"] = inside / count
    return metrics


def bare_network(network: nn.Module) -> nn.Module:
    """The network inside a data-parallel wrapper, or itself."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return cast(nn.Module, network.module)
    return network


def _training_batch(
    data: TrainingData, config: "TrainConfig", epoch: int, index: int, ranks: Ranks
) -> tuple[Batch, int, int]:
    """This rank's shard, the size of the global batch, and how many of the shard count."""
    order = _epoch_order(config.seed, epoch, len(data.train))
    size = config.optim.batch_size
    rows = order[index * size : (index + 1) * size]
    generator = np.random.default_rng([config.seed, epoch, index])
    batch = make_batch(data.series, data.train.take(rows), drop=config.drop, generator=generator)
    if ranks.world == 1:
        return batch, len(rows), len(rows)
    part, count = shard(batch, ranks.rank, ranks.world)
    return part, len(rows), count


@lru_cache(maxsize=1)
def _epoch_order(seed: int, epoch: int, count: int) -> IntArray:
    """The order of an epoch's samples; drawn once an epoch, there can be millions."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _end_epoch(
    network: nn.Module, data: TrainingData, config: "TrainConfig", state: FitState, ranks: Ranks
) -> None:
    per_epoch = steps_per_epoch(config, data)
    batch_size = config.optim.batch_size
    done = (state.step - 1) % per_epoch + 1
    samples = min(done * batch_size, len(data.train))
    row = {
        "epoch": float(len(state.history) + 1),
        "step": float(state.step),
        "learning_rate": learning_rate(config, state.step - 1, total_steps(config, data)),
        "train_pinball": state.epoch_loss / samples,
    }
    metrics = evaluate(network, data, ranks)
    row |= {f"validation_{name}": value for name, value in metrics.items()}
    state.history.append(row)
    state.epoch_loss = 0.0
    better = metrics and (state.best is None or metrics["pinball"] < state.best["score"])
    if config.keep == "best" and better:
        weights = bare_network(network).state_dict()
        state.best = {
            "score": metrics["pinball"],
            "step": state.step,
            "weights": {name: value.detach().cpu().clone() for name, value in weights.items()},
        }
