"""What training minimises: a proper score of the quantiles, weighted.

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
"""One point of accuracy: a task with less scatter than that counts no more."""

_TAIL = 1e-3


@config_dataclass
class ObjectiveConfig:
    """A proper score, and what a sample weighs.

    `score`: `pinball`, the mean over levels, or `log`, the negative logarithm of the density
    that the quantiles draw. `tails`: a level weighs (level (1 - level))^-tails, so that 0.5 makes
    rare outcomes count as much as common ones. `horizon`: a sample weighs ahead^-horizon, where
    ahead is the distance to its target in ln tokens (or checkpoints), at least 0.1. `noise`: it
    weighs noise^-noise, where noise is the scatter of its task's accuracies. Weights have the
    mean 1 in the batch of a step, so that none of them changes the step size by itself.
    """

    score: Literal["pinball", "log"] = "pinball"
    tails: Annotated[float, pydantic.Field(ge=0.0, le=2.0)] = 0.0
    horizon: Annotated[float, pydantic.Field(ge=-1.0, le=1.0)] = 0.0
    noise: Annotated[float, pydantic.Field(ge=0.0, le=2.0)] = 0.0


def objective(
    config: ObjectiveConfig, predicted_BQ: Tensor, target_B: Tensor, levels_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """(what is minimised, the plain pinball loss) of each sample, both (B,)."""
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
    """What each sample of a step's whole batch weighs, whoever computes it; mean 1.

    Args:
        config: by what.
        ahead: distance of each to its target.
        noise: scatter of its task, of the same shape or one that broadcasts to it.
        counted: false where there is no sample: those do not enter the mean. None: all are.
    """
    weight = np.maximum(np.nan_to_num(ahead, nan=1.0), 0.1) ** -config.horizon
    weight = weight * np.maximum(noise, NOISE_FLOOR) ** -config.noise
    mean = weight.mean(where=True if counted is None else counted) if weight.size else 1.0
    return np.asarray(weight / (mean if np.isfinite(mean) else 1.0), dtype=np.float32)


def log_score(predicted_BQ: Tensor, target_B: Tensor, levels_Q: Tensor) -> Tensor:
    """Negative log density of (B,) outcomes, in nats, where the density is that of the quantiles.

    Between two levels it is uniform; beyond the outermost it falls off exponentially, as steep
    as makes the mass there right and the density continuous in scale: rate = mass / width, where
    width is that of the neighbouring interval per unit of its mass. Quantiles must not cross.
    """
    width_BQ = (predicted_BQ[:, 1:] - predicted_BQ[:, :-1]).clamp(min=_TAIL)
    mass_Q = levels_Q[1:] - levels_Q[:-1]
    density_BQ = torch.log(mass_Q / width_BQ)
    place_B = torch.searchsorted(
        predicted_BQ.detach().contiguous(), target_B.unsqueeze(-1)
    ).squeeze(-1)
    inner_B = density_BQ.gather(
        1, (place_B - 1).clamp(0, width_BQ.shape[1] - 1).unsqueeze(-1)
    ).squeeze(-1)
    low_B = _tail(predicted_BQ[:, 0] - target_B, levels_Q[0], width_BQ[:, 0] / mass_Q[0])
    high_B = _tail(target_B - predicted_BQ[:, -1], 1.0 - levels_Q[-1], width_BQ[:, -1] / mass_Q[-1])
    count = predicted_BQ.shape[1]
    log_density_B = torch.where(place_B == 0, low_B, torch.where(place_B == count, high_B, inner_B))
    return -log_density_B


def _tail(beyond_B: Tensor, mass: Tensor, spread_B: Tensor) -> Tensor:
    """Log density at `beyond` an outer quantile: mass x rate x exp(-rate x beyond)."""
    rate_B = 1.0 / (mass * spread_B)
    return torch.log(mass * rate_B) - rate_B * beyond_B.clamp(min=0.0)
