"""Quantile levels, and the pinball loss shared by training, calibration and evaluation."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

FORECAST_LEVELS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Levels of the `forecasts` table."""

PAPER_LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Levels of the published forecaster (arXiv 2601.19831)."""

MEDIAN: Final = 0.5


def common_levels(levels: Sequence[float]) -> list[int]:
    """Return the indices of the published levels, on which networks are compared.

    If a network lacks one of them, the indices of all its levels.
    """
    if not set(PAPER_LEVELS) <= set(levels):
        return list(range(len(levels)))
    return [list(levels).index(level) for level in PAPER_LEVELS]


def inside_80(quantiles: Any, target: Any, levels: Sequence[float]) -> Any:
    """Whether targets (...) lie in the 80 % interval of quantiles (..., Q), NumPy or torch.

    Its mean is the coverage. Both 0.1 and 0.9 must be among the levels.
    """
    low, high = (quantiles[..., list(levels).index(level)] for level in (0.1, 0.9))
    return (low <= target) & (target <= high)


def column(level: float) -> str:
    """Return the forecasts column of a level: 0.05 -> `q0.05`."""
    return f"q{level:g}"


def pinball_torch(
    predicted_BQ: torch.Tensor, target_B: torch.Tensor, levels_Q: torch.Tensor
) -> torch.Tensor:
    """Return the pinball loss (B, Q) of each prediction and level; Koenker and Bassett (1978).

    loss = max(level * (y - q), (level - 1) * (y - q)), in the unit of the target.
    """
    error_BQ = target_B.unsqueeze(-1) - predicted_BQ
    return torch.maximum(levels_Q * error_BQ, (levels_Q - 1.0) * error_BQ)


def pinball(
    predicted: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    levels: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """`pinball_torch` for NumPy: predicted (..., Q), target (...), levels (Q,) -> (..., Q)."""
    loss = pinball_torch(
        torch.from_numpy(np.asarray(predicted, dtype=np.float64)),
        torch.from_numpy(np.asarray(target, dtype=np.float64)),
        torch.from_numpy(np.asarray(levels, dtype=np.float64)),
    )
    return np.asarray(loss.numpy(), dtype=np.float64)
