"""Optimiser of all trainings: AdamW, warm-up, cosine decay, optional weight averaging."""

import math
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor, nn

from neuneu.core.config import config_dataclass

Share = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]


@config_dataclass
class OptimConfig:
    """AdamW with warm-up and cosine decay, by default with the published settings.

    `epochs`: passes over the samples, or reports where samples are drawn without end;
    `max_steps` ends earlier. `micro_batch`: maximum number of samples per pass, gradients
    accumulate (null: the whole batch). `final_fraction`: fraction of the peak learning rate at the
    end. `average_from`: fraction of the steps after which weights are averaged and the average is
    kept (null: keep the last weights).
    """

    learning_rate: pydantic.PositiveFloat = 6e-4
    weight_decay: pydantic.NonNegativeFloat = 0.033
    batch_size: pydantic.PositiveInt = 256
    micro_batch: pydantic.PositiveInt | None = None
    epochs: pydantic.PositiveInt = 3
    max_steps: pydantic.PositiveInt | None = None
    warmup_fraction: Share = 0.1
    final_fraction: Share = 0.0
    average_from: Share | None = None
    clip_norm: pydantic.PositiveFloat = 1.0


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Return the number of optimiser steps of a whole training."""
    steps = config.epochs * steps_per_epoch
    return steps if config.max_steps is None else min(steps, config.max_steps)


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Linear warm-up to the peak, then half a cosine down to `final_fraction` of it at `total`."""
    peak, warmup = config.learning_rate, max(1, round(config.warmup_fraction * total))
    if step < warmup:
        return peak * (step + 1) / warmup
    cosine = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return peak * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


def make_optimizer(config: OptimConfig, network: nn.Module) -> torch.optim.AdamW:
    """Return AdamW over all parameters, as published."""
    return torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's moments, but keep the settings that it was made with.

    They differ when a training resumes from the state of one with another config.
    """
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


def averages_at(config: OptimConfig, step: int, total: int) -> bool:
    """Return whether the weights after `step` steps go into the average."""
    if config.average_from is None:
        return False
    return step > min(config.average_from * total, total - 1)


def add_to_average(
    average: dict[str, Tensor] | None, count: int, network: nn.Module
) -> dict[str, Tensor]:
    """Return the mean of `count` averaged weights and those of `network`."""
    weights = {name: value.detach() for name, value in network.state_dict().items()}
    if average is None:
        return {name: value.clone() for name, value in weights.items()}
    for name, value in weights.items():
        if value.is_floating_point():
            average[name] = average[name].to(value.device)  # a state is resumed in main memory
            average[name] += (value - average[name]) / (count + 1)
        else:
            average[name] = value.clone()
    return average
