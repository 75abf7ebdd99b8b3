"""Attention heads, padded with zeros to a size that kernels support; the function stays the same.

Engines scale the products of queries and keys by 1 / sqrt(size) and rotate dimensions i and
i + size / 2 of a head by position x theta^(-2 i / size). So padding multiplies queries by what the
scale loses, puts each half of a head at the beginning of a padded half, and raises theta until the
true dimensions have their old frequencies.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Sizes that vLLM supports on CPUs (`CPUAttentionBackend`), and FlashAttention (multiples of 8, at
# most 256) and Triton (at least 32) on GPUs.
KERNEL_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_NEIGHBOURS: Final = 64
# Of float32.
_MAX_LOG: Final = 88.0
_MAX_ERROR: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of a model: their number, and their dimensions before and after padding."""

    count: int
    size: int
    padded: int

    @property
    def are_padded(self) -> bool:
        """Whether the heads need padding."""
        return self.padded != self.size

    def theta(self, theta: float) -> float:
        """Return the rotary base with which the true dimensions keep the frequencies of `theta`.

        That is theta^(padded / size). Engines compute frequencies in float32, and an error of
        3e-8 is 6e-5 radians at position 2,048. So this returns the float32 number nearby whose
        frequencies are closest.

        Raises:
            CheckpointError: float32 holds no such base.
        """
        if not self.are_padded:
            return theta
        expected = _frequencies(np.array([theta]), self.size, self.size // 2)
        steps = np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1).astype(np.float64)
        exponent = min(self.padded / self.size * math.log(theta), _MAX_LOG)
        nearby: npt.NDArray[np.float64] = math.exp(exponent) * (1 + steps * 2.0**-23)
        found = _frequencies(nearby, self.padded, self.size // 2)
        with np.errstate(invalid="ignore"):
            errors = found - expected
        best = int((errors**2).sum(axis=1).argmin())
        if not np.abs(errors[best]).max() <= _MAX_ERROR:  # also if NaN
            raise CheckpointError(
                f"config.json: rope_theta = {theta:g} with heads of {self.size} dimensions, which "
                f"no kernel supports: padded to {self.padded} they need a base that float32 lacks."
            )
        return float(np.float32(nearby[best]))

    def added_bytes(self, width: int) -> int:
        """Return an upper limit of the bytes that padding adds to a layer of this width."""
        if not self.are_padded:
            return 0
        queries_widened = 2 * self.size
        return self.count * width * (4 * 4 * (self.padded - self.size) + queries_widened)

    def pad_rows(self, weight: "torch.Tensor") -> "torch.Tensor":
        """Pad keys or values, (count x size, K) -> (count x padded, K)."""
        rows = weight.reshape(self.count, self.size, -1)
        result = rows.new_zeros(self.count, self.padded, rows.shape[2])
        half, start = self.size // 2, self.padded // 2
        result[:, :half] = rows[:, :half]
        result[:, start : start + half] = rows[:, half:]
        return result.reshape(self.count * self.padded, -1)

    def pad_queries(self, weight: "torch.Tensor") -> "torch.Tensor":
        """Pad queries like `pad_rows` and multiply them by sqrt(padded / size).

        Half precision becomes float32: it cannot hold the products.
        """
        import torch

        scaled = weight.to(torch.float64) * math.sqrt(self.padded / self.size)
        return self.pad_rows(scaled.to(torch.promote_types(weight.dtype, torch.float32)))

    def pad_columns(self, weight: "torch.Tensor") -> "torch.Tensor":
        """Pad the output projection, (N, count x size) -> (N, count x padded)."""
        return self.pad_rows(weight.T).T.contiguous()


def _frequencies(thetas: npt.NDArray[np.float64], size: int, count: int) -> npt.NDArray[np.float64]:
    """Return (thetas, count) radians per position, rounded as engines do."""
    exponents = (np.arange(0, 2 * count, 2).astype(np.float32) / np.float32(size)).astype(float)
    bases = thetas.astype(np.float32).astype(float)
    with np.errstate(all="ignore"):
        powers = (bases[:, None] ** exponents).astype(np.float32)
        return (np.float32(1) / powers).astype(float)


def kernel_heads(count: int, size: int) -> Heads:
    """Return heads padded to the smallest size that kernels support, if there is one."""
    padded = next((kernel for kernel in KERNEL_SIZES if kernel >= size), size)
    return Heads(count=count, size=size, padded=padded)
