"""The transformer's parts: rotary self-attention, pre-norm blocks, quantile heads.

Shapes: B samples, S sequence positions, D width, H heads, E = D / H, Q quantile levels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from neuneu.data.quantiles import MEDIAN
from neuneu.forecasters.window.config import ModelConfig

ROPE_BASE = 10_000.0
INITIAL_INCREMENT = -4.0
"""softplus(-4) = 0.018: neighbouring quantiles start two points of accuracy apart."""


def rotary_angles(length: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (S, E / 2) float32, of the angles of positions 0 .. S - 1.

    Rotary position embedding (Su et al. 2021, arXiv 2104.09864).
    """
    half = head_width // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=device, dtype=torch.float64) / half)
    position = torch.arange(length, device=device, dtype=torch.float64)
    angle = position[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHSE: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates each position by its angles.

    Dot products of rotated queries and keys depend on the distance of their positions only.
    """
    cos, sin = (part.to(x_BHSE.dtype) for part in angles)
    first, second = x_BHSE.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class SelfAttention(nn.Module):
    """Bidirectional multi-head attention with rotary positions and biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Attends to the positions whose mask is true; `angles` as of `rotary_angles`."""
        qkv = self.qkv(x_BSD).unflatten(-1, (3, self.heads, -1))
        q_BHSE, k_BHSE, v_BHSE = qkv.permute(2, 0, 3, 1, 4)
        attended_BHSE = fn.scaled_dot_product_attention(
            rotate(q_BHSE, angles),
            rotate(k_BHSE, angles),
            v_BHSE,
            attn_mask=mask_BS[:, None, None, :],
        )
        return self.out(attended_BHSE.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.norm_2 = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.GELU(),
            nn.Linear(config.feed_forward, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Same shape out as in."""
        x_BSD = x_BSD + self.dropout(self.attention(self.norm_1(x_BSD), mask_BS, angles))
        return x_BSD + self.dropout(self.feed_forward(self.norm_2(x_BSD)))


class PlainHead(nn.Module):
    """The published head: one linear layer, one output a level; quantiles can cross."""

    def __init__(self, width: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(levels))

    def forward(self, x_BD: Tensor) -> Tensor:
        """Quantiles (B, Q)."""
        return self.linear(x_BD)


class OrderedHead(nn.Module):
    """The median, and softplus increments away from it: quantiles cannot cross.

    Differs from the published head: the same linear layer with the same number of outputs,
    but output j is no longer quantile j. The median is its output as it is; each other output
    goes through softplus and is added (above) or subtracted (below), cumulatively.
    """

    def __init__(self, width: int, levels: Sequence[float]) -> None:
        super().__init__()
        self.median = list(levels).index(MEDIAN)
        self.linear = nn.Linear(width, len(levels))
        with torch.no_grad():
            # Start at "no change, a few points wide": a random start costs hundreds of steps.
            self.linear.weight.mul_(0.1)
            self.linear.bias.fill_(INITIAL_INCREMENT)
            self.linear.bias[self.median] = 0.0

    def forward(self, x_BD: Tensor) -> Tensor:
        """Quantiles (B, Q), non-decreasing in the level; further leading axes are kept."""
        raw_BQ = self.linear(x_BD)
        raw_BQ = raw_BQ.to(torch.promote_types(raw_BQ.dtype, torch.float32))  # bf16 is too coarse
        median_B1 = raw_BQ[..., self.median : self.median + 1]
        down = fn.softplus(raw_BQ[..., : self.median]).flip(-1).cumsum(-1).flip(-1)
        up = fn.softplus(raw_BQ[..., self.median + 1 :]).cumsum(-1)
        return torch.cat((median_B1 - down, median_B1, median_B1 + up), dim=-1)
