"""Training loss: a weighted proper score of the quantiles.

Shapes: B samples, Q levels.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from torch import Tensor

from neuneu.core.config import config_dataclass
from neuneu.data.quantiles import pinball_torch

NOISE_FLOOR = 0.01
"""One point of accuracy; a task with less scatter does not count more."""

_TAIL = 1e-3


@config_dataclass
class ObjectiveConfig:
    """A proper score and the weights of samples.

    `score`: `pinball`, the mean over levels, or `log`, the negative log density between the
    quantiles. `tails`: the weight of a level is (level (1 - level))^-tails; 0.5 makes rare outcomes
    count as much as common ones. `horizon`: the weight of a sample is ahead^-horizon, where ahead
    is the distance to its target in ln tokens (or checkpoints), at least 0.1. `noise`: it is also
    noise^-noise, where noise is the scatter of its task's accuracies. Weights have mean 1 in the
    batch of a step, so that none of them changes the step size.
    """

    score: Literal["pinball", "log"] = "pinball"
    tails: Annotated[float, pydantic.Field(ge=0.0, le=2.0)] = 0.0
    horizon: Annotated[float, pydantic.Field(ge=-1.0, le=1.0)] = 0.0
    noise: Annotated[float, pydantic.Field(ge=0.0, le=2.0)] = 0.0


def objective(
    config: ObjectiveConfig, predicted_BQ: Tensor, target_B: Tensor, levels_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the training loss and the plain pinball loss of each sample, both (B,)."""
    pinball_BQ = pinball_torch(predicted_BQ, target_B, levels_Q)
    plain_B = pinball_BQ.mean(dim=-1)
    if config.score == "log":
        return log_score(predicted_BQ, target_B, levels_Q), plain_B.detach()
    if config.tails:
        weight_Q = (levels_Q * (1.0 - levels_Q)) ** -config.tails
        return (pinball_BQ * (weight_Q / weight_Q.mean())).mean(dim=-1), plain_B.detach()
    return plain_B, plain_B.detach()


def sample_weights(
    config: ObjectiveConfig,
    ahead: npt.NDArray[np.floating],
    noise: npt.NDArray[np.floating],
    counted: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the weights of all samples of a step, on every rank; mean 1.

    Args:
        config: the weighting.
        ahead: distance of each sample to its target.
        noise: scatter of its task, broadcast to the same shape.
        counted: false for padding, which does not enter the mean. None: no padding.
    """
    weight = np.maximum(np.nan_to_num(ahead, nan=1.0), 0.1) ** -config.horizon
    weight = weight * np.maximum(noise, NOISE_FLOOR) ** -config.noise
    mean = weight.mean(where=True if counted is None else counted) if weight.size else 1.0
    return np.asarray(weight / (mean if np.isfinite(mean) else 1.0), dtype=np.float32)


def log_score(predicted_BQ: Tensor, target_B: Tensor, levels_Q: Tensor) -> Tensor:
    """Return the negative log density of (B,) outcomes, in nats.

    Between two levels the density is uniform. Beyond the outermost it falls off exponentially with
    the right mass, on the scale of the neighbouring interval: rate = 1 / (mass x spread), where
    spread is that interval's width per unit of its mass. Quantiles must not cross.
    """
    width_BQ = (predicted_BQ[:, 1:] - predicted_BQ[:, :-1]).clamp(min=_TAIL)
    mass_Q = levels_Q[1:] - levels_Q[:-1]
    density_BQ = torch.log(mass_Q / width_BQ)
    index_B = torch.searchsorted(
        predicted_BQ.detach().contiguous(), target_B.unsqueeze(-1)
    ).squeeze(-1)
    inner_B = density_BQ.gather(
        1, (index_B - 1).clamp(0, width_BQ.shape[1] - 1).unsqueeze(-1)
    ).squeeze(-1)
    low_B = _tail(predicted_BQ[:, 0] - target_B, levels_Q[0], width_BQ[:, 0] / mass_Q[0])
    high_B = _tail(target_B - predicted_BQ[:, -1], 1.0 - levels_Q[-1], width_BQ[:, -1] / mass_Q[-1])
    count = predicted_BQ.shape[1]
    log_density_B = torch.where(index_B == 0, low_B, torch.where(index_B == count, high_B, inner_B))
    return -log_density_B


def _tail(beyond_B: Tensor, mass: Tensor, spread_B: Tensor) -> Tensor:
    """Return the log density `beyond` an outer quantile: mass x rate x exp(-rate x beyond)."""
    rate_B = 1.0 / (mass * spread_B)
    return torch.log(mass * rate_B) - rate_B * beyond_B.clamp(min=0.0)
