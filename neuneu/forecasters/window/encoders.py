"""Encoders of the loss prompt: what a checkpoint's validation losses tell the transformer.

Shapes: C distinct checkpoints, W loss values a checkpoint (words; 1 for `mean`; 0 for `none`),
P prompt tokens (1, or 0 for `none`), D width, N statistics of the losses.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, Literal

import torch
from torch import Tensor, nn

from neuneu.forecasters.window.config import EncoderConfig, EncoderKind

MAX_LOSS_NATS: Final = 20.0

Reads = Literal["words", "mean", "nothing"]
"""Which losses go in: those of single words, a mean in nats a token, or none."""

READS: Final[dict[EncoderKind, Reads]] = {
    "cnn": "words",
    "histogram": "words",
    "quantiles": "words",
    "sets": "words",
    "mean": "mean",
    "none": "nothing",
}


class TokenLossCnn(nn.Module):
    """The published encoder: 1-D convolutions over p = exp(-loss) in word order."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        if config.units is None:
            raise ValueError("encoder.units is None: the CNN needs the number of words it reads")
        self.units = length = config.units
        cnn, stages, before = config.cnn, [], 1
        for channels in cnn.channels:
            stages += [
                nn.Conv1d(before, channels, cnn.kernel, cnn.stride, cnn.padding),
                nn.GroupNorm(min(cnn.max_groups, channels), channels),
                nn.GELU(),
            ]
            before, length = channels, (length + 2 * cnn.padding - cnn.kernel) // cnn.stride + 1
            if length < 1:
                raise ValueError(f"encoder.cnn: {config.units} words are too few for its strides")
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(before * length, width)

    def forward(self, losses_CW: Tensor) -> Tensor:
        """One prompt token a checkpoint (C, 1, D)."""
        assert losses_CW.shape[1] == self.units
        p_CW = probability(losses_CW).to(self.linear.weight.dtype)
        # In bfloat16 a step took 1.4 s on a GPU, in float32 0.025 s (docs/results/gpu.md):
        # convolutions of so few channels have no fast kernels there.
        on_gpu = p_CW.device.type == "cuda"
        with torch.autocast("cuda", enabled=False) if on_gpu else nullcontext():
            stages_CN = self.stages(p_CW.unsqueeze(1)).flatten(1)
        return self.linear(stages_CN).unsqueeze(1)


class PooledLosses(nn.Module):
    """Reads N statistics of the losses, so that any text of any length will do.

    Two linear layers with GELU between turn them into one prompt token.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(count, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, losses_CW: Tensor) -> Tensor:
        """One prompt token a checkpoint (C, 1, D)."""
        dtype = next(self.parameters()).dtype
        return self.layers(self.statistics(losses_CW).to(dtype)).unsqueeze(1)

    def statistics(self, losses_CW: Tensor) -> Tensor:
        """Statistics (C, N) of order one."""
        raise NotImplementedError


class LossHistogram(PooledLosses):
    """The share of words in each bin.

    Bin n of N holds p (or loss / 20 nats) in [n / N, (n + 1) / N); shares are multiplied by N,
    so that a uniform distribution reads 1 everywhere.
    """

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config.histogram.bins, width)
        self.of, self.bins = config.histogram.of, config.histogram.bins

    def statistics(self, losses_CW: Tensor) -> Tensor:
        """Shares times N, (C, N) float32; each row sums to N."""
        if self.of == "probability":
            unit_CW = probability(losses_CW)
        else:
            unit_CW = losses_CW.float().clamp(0.0, MAX_LOSS_NATS) / MAX_LOSS_NATS
        bin_CW = (unit_CW * self.bins).long().clamp(max=self.bins - 1)
        counts_CN = torch.zeros(len(losses_CW), self.bins, device=losses_CW.device)
        counts_CN.scatter_add_(1, bin_CW, torch.ones_like(bin_CW, dtype=counts_CN.dtype))
        return counts_CN * (self.bins / losses_CW.shape[1])


class LossQuantiles(PooledLosses):
    """Evenly spaced quantiles of the word losses: n of N is that of share (n + 0.5) / N."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__(config.quantiles, width)
        self.count = config.quantiles

    def statistics(self, losses_CW: Tensor) -> Tensor:
        """Centred and scaled nats (C, N)."""
        return standard(self.quantiles(losses_CW))

    def quantiles(self, losses_CW: Tensor) -> Tensor:
        """Nats (C, N), the nearest word's."""
        shares_N = (torch.arange(self.count, device=losses_CW.device) + 0.5) / self.count
        sorted_CW = losses_CW.float().clamp(0.0, MAX_LOSS_NATS).sort(dim=1).values
        # torch.quantile takes at most 16 million values; a gather has no such limit.
        place_N = (shares_N * (losses_CW.shape[1] - 1)).round().long()
        return sorted_CW[:, place_N]


class SetMeans(PooledLosses):
    """The mean word loss of each of several validation sets, which follow one another."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        if not config.sets:
            raise ValueError("encoder.sets is empty: give the number of words of each set")
        super().__init__(len(config.sets), width)
        self.lengths = config.sets

    def statistics(self, losses_CW: Tensor) -> Tensor:
        """Centred and scaled nats (C, N)."""
        return standard(self.means(losses_CW))

    def means(self, losses_CW: Tensor) -> Tensor:
        """Nats a word of each set (C, N)."""
        if losses_CW.shape[1] < sum(self.lengths):
            raise ValueError(f"encoder.sets: {sum(self.lengths)} words, found {losses_CW.shape[1]}")
        parts = losses_CW[:, : sum(self.lengths)].float().split(self.lengths, dim=1)
        return torch.stack([part.clamp(0.0, MAX_LOSS_NATS).mean(dim=1) for part in parts], dim=1)


class MeanLoss(nn.Module):
    """One mean validation loss, standardised with the training checkpoints' mean and deviation."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        if config.loss_mean is None or config.loss_std is None:
            raise ValueError("encoder.loss_mean and loss_std are None: `mean` standardises by them")
        self.loss_mean, self.loss_std = config.loss_mean, config.loss_std
        self.linear = nn.Linear(1, width)

    def forward(self, losses_CW: Tensor) -> Tensor:
        """One prompt token a checkpoint (C, 1, D)."""
        assert losses_CW.shape[1] == 1
        standard_C1 = (losses_CW.to(self.linear.weight.dtype) - self.loss_mean) / self.loss_std
        return self.linear(standard_C1).unsqueeze(1)


class NoLoss(nn.Module):
    """No prompt token at all."""

    def __init__(self, config: EncoderConfig, width: int) -> None:
        super().__init__()
        del config
        self.width = width

    def forward(self, losses_CW: Tensor) -> Tensor:
        """An empty prompt (C, 0, D)."""
        return torch.empty(len(losses_CW), 0, self.width, device=losses_CW.device)


_ENCODERS: Final[dict[EncoderKind, Callable[[EncoderConfig, int], nn.Module]]] = {
    "cnn": TokenLossCnn,
    "histogram": LossHistogram,
    "quantiles": LossQuantiles,
    "sets": SetMeans,
    "mean": MeanLoss,
    "none": NoLoss,
}


def build_encoder(config: EncoderConfig, width: int) -> nn.Module:
    """The encoder that a config names: losses in nats (C, W) -> prompt tokens (C, P, D).

    Raises:
        ValueError: a property of the training data that the encoder needs is still None.
    """
    return _ENCODERS[config.kind](config, width)


def standard(nats: Tensor) -> Tensor:
    """Word losses on a scale of order one: small models lie between 4 and 14 nats a word."""
    return (nats - 8.0) / 4.0


def probability(losses: Tensor) -> Tensor:
    """p = exp(-loss) in [0, 1), float32; losses are clipped to 20 nats first."""
    p = torch.exp(-losses.float().clamp(max=MAX_LOSS_NATS))
    return p.clamp(0.0, 1.0 - torch.finfo(torch.float32).eps)
