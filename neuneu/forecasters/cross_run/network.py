"""The network: all targets of a query in one pass, with finished runs as references.

The median is a convex combination of forecasts that each follow from one comparison (no change;
this run's own line; what another run did from the aligned position on; what it scored there; the
trend in size) plus a learned correction. The weights show what a forecast rests on.
Shapes: B queries, H targets, R references, C candidates, D width, Q levels, F features.
"""

from dataclasses import fields

import torch
from torch import Tensor, nn

from neuneu.core.config import config_dataclass
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.forecasters.cross_run.comparison import PAIR_CANDIDATES, TREND_CANDIDATES
from neuneu.forecasters.cross_run.curves import Curves
from neuneu.forecasters.cross_run.features import Features
from neuneu.forecasters.window.layers import OrderedHead


@config_dataclass
class CrossRunConfig:
    """The shape of a network.

    `tasks` are the base tasks with an embedding of their own; all others share one. `families` are
    those trained on.
    """

    width: int = 96
    heads: int = 4
    blocks: int = 2
    task_width: int = 16
    dropout: float = 0.1
    levels: tuple[float, ...] = FORECAST_LEVELS
    tasks: tuple[str, ...] = ()
    families: tuple[str, ...] = ()


class Attention(nn.Module):
    """Targets read the references of their query; without references nothing is added."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, target_BHD: Tensor, pair_BHRD: Tensor, mask_BR: Tensor) -> Tensor:
        """Updated targets (B, H, D)."""
        B, H, R, D = pair_BHRD.shape
        N, head = self.heads, D // self.heads
        query = self.query(self.norm(target_BHD)).view(B * H, N, head)
        pairs = pair_BHRD.view(B * H, R, D)
        # q (W p + b) = (q W) p + q b, and what q b adds is the same for every reference. So keys
        # are not made for each pair, and values only of what a head has read: H of them, not H R.
        keys = torch.einsum("tnh,nhd->tdn", query, self.key.weight.view(N, head, D))
        scores = (pairs @ keys).view(B, H, R, N) * head**-0.5
        scores = scores.masked_fill(~mask_BR[:, None, :, None], -1e4)
        weights = scores.softmax(dim=2) * mask_BR[:, None, :, None]
        read = weights.view(B * H, R, N).transpose(1, 2) @ pairs
        value = torch.einsum("tnd,nhd->tnh", read, self.value.weight.view(N, head, D))
        bias = self.value.bias.view(N, head) * mask_BR.any(1).repeat_interleave(H)[:, None, None]
        read = (value + bias).reshape(B, H, D)
        target_BHD = target_BHD + self.out(read)
        return target_BHD + self.feed(target_BHD)


class CrossRunNetwork(nn.Module):
    """Maps features of queries to quantiles of future accuracy."""

    def __init__(self, config: CrossRunConfig, sizes: dict[str, int]) -> None:
        """Builds the layers; `sizes` are the widths of the feature arrays by name."""
        super().__init__()
        self.config = config
        self.sizes = dict(sizes)
        D, p = config.width, config.dropout
        self.task = nn.Embedding(len(config.tasks) + 1, config.task_width)
        self.own = _mlp(sizes["own"] + config.task_width, D, p)
        self.target = _mlp(sizes["targets"] + D, D, p)
        self.reference = _mlp(sizes["references"], D, p)
        self.pair_in = nn.Linear(sizes["pairs"], D)
        self.pair = nn.Sequential(nn.LayerNorm(D), nn.GELU(), nn.Linear(D, D), nn.GELU())
        self.attend = nn.ModuleList(Attention(D, config.heads, p) for _ in range(config.blocks))
        self.final = nn.LayerNorm(D)
        self.own_score = nn.Linear(D, sizes["own_candidates"] + TREND_CANDIDATES)
        self.pair_score = nn.Linear(D, PAIR_CANDIDATES)
        self.pair_query = nn.Linear(D, D)
        self.head = OrderedHead(D, config.levels)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """((B, H, Q) quantiles, not clipped; (B, H, C) weights of the candidates).

        `batch` holds the fields of `Features`, and `task` (B,) as of `task_index`.
        """
        own_BD = self.own(torch.cat([batch["own"], self.task(batch["task"])], dim=-1))
        B, H = batch["targets"].shape[:2]
        spread = own_BD[:, None, :].expand(B, H, -1)
        target_BHD = self.target(torch.cat([batch["targets"], spread], dim=-1)) + spread
        reference_BRD = self.reference(batch["references"])
        pair_BHRD = self.pair(
            self.pair_in(batch["pairs"]) + reference_BRD[:, None, :, :] + target_BHD[:, :, None, :]
        )
        mask_BR = batch["reference_mask"]
        for block in self.attend:
            target_BHD = block(target_BHD, pair_BHRD, mask_BR)
        state_BHD = self.final(target_BHD)
        weights, candidates = self._weights(state_BHD, pair_BHRD, batch)
        base_BH1 = (weights * candidates).sum(-1, keepdim=True)
        return base_BH1 + self.head(state_BHD), weights

    def _weights(
        self, state_BHD: Tensor, pair_BHRD: Tensor, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        B, H = state_BHD.shape[:2]
        own = self.own_score(state_BHD)
        pair = self.pair_score(pair_BHRD * self.pair_query(state_BHD)[:, :, None, :])
        pair = pair.masked_fill(~batch["reference_mask"][:, None, :, None], -1e4)
        weights = torch.cat([own, pair.reshape(B, H, -1)], dim=-1).softmax(dim=-1)
        candidates = torch.cat(
            [
                batch["own_candidates"],
                batch["size_candidates"],
                batch["pair_candidates"].reshape(B, H, -1),
            ],
            dim=-1,
        )
        return weights, candidates


def task_index(curves: Curves, config: CrossRunConfig) -> Tensor:
    """(T,) index of each trajectory's task among the embeddings: 0 for tasks not trained on."""
    index = {task: place for place, task in enumerate(config.tasks, start=1)}
    return torch.tensor([index.get(t.base_task, 0) for t in curves.trajectories])


def to_tensors(features: Features) -> dict[str, Tensor]:
    """The arrays of `Features` as tensors by name, without copying."""
    return {
        field.name: torch.from_numpy(getattr(features, field.name)) for field in fields(features)
    }


def sizes_of(features: Features) -> dict[str, int]:
    """The widths that a `CrossRunNetwork` is built with."""
    names = ("own", "targets", "references", "pairs", "own_candidates")
    return {name: int(getattr(features, name).shape[-1]) for name in names}


def _mlp(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width),
    )
