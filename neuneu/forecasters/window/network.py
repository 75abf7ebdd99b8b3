"""The forecasting network: [CLS; loss prompt; (accuracy, gap) ...] -> quantiles of accuracy.

Shapes: B samples, K context points (padded), C distinct checkpoints, W loss values,
P prompt tokens (0 or 1), S = 1 + P + K, D width, A features of a point, Q levels.
"""

import torch
from torch import Tensor, nn

from neuneu.forecasters.window.batching import Batch
from neuneu.forecasters.window.config import ModelConfig
from neuneu.forecasters.window.encoders import build_encoder
from neuneu.forecasters.window.layers import Block, OrderedHead, PlainHead, rotary_angles

CHANGE_SCALE = 10.0
"""Changes of accuracy are a few points: scaled to the size of the accuracies themselves."""


PIECES = 6
MIN_PIECE = 16
MIN_SAVED = 0.1
"""A batch is split into pieces of similar length where that saves a tenth of the work."""


class Transformer(nn.Module):
    """Everything between the loss prompt and the head; 18,916,864 parameters in `paper`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = config.width // 2
        self.head_width = config.width // config.heads
        self.with_change = config.point_features == "accuracy_and_change"
        self.accuracy = nn.Linear(2 if self.with_change else 1, half)
        self.gap = nn.Linear(1, half)
        self.cls = nn.Parameter(torch.randn(config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, prompt_BPD: Tensor, accuracy_BK: Tensor, gap_BK: Tensor, mask_BK: Tensor
    ) -> Tensor:
        """The final state of [CLS], (B, D)."""
        features_BKA = accuracy_BK.unsqueeze(-1)
        if self.with_change:
            last_B1 = last_observation(accuracy_BK, mask_BK).unsqueeze(-1)
            change_BK = CHANGE_SCALE * (accuracy_BK - last_B1)
            features_BKA = torch.stack((accuracy_BK, change_BK), dim=-1)
        points_BKD = torch.cat(
            (self.accuracy(features_BKA), self.gap(gap_BK.unsqueeze(-1))), dim=-1
        )
        B, P = prompt_BPD.shape[:2]
        cls_B1D = self.cls.expand(B, 1, -1)
        x_BSD = torch.cat((cls_B1D, prompt_BPD.to(points_BKD.dtype), points_BKD), dim=1)
        mask_BS = torch.cat((mask_BK.new_ones(B, 1 + P), mask_BK), dim=1)
        angles = rotary_angles(x_BSD.shape[1], self.head_width, x_BSD.device)
        for block in self.blocks:
            x_BSD = block(x_BSD, mask_BS, angles)
        return self.norm(x_BSD[:, 0])


class Network(nn.Module):
    """Encoder of the loss prompt, transformer and quantile head, built from one config."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, config.width)
        self.transformer = Transformer(config)
        head = OrderedHead if config.head == "ordered" else PlainHead
        self.head = head(config.width, config.levels)

    def forward(self, batch: Batch) -> Tensor:
        """Quantiles (B, Q) of the target accuracies, float32, not clipped to [0, 1]."""
        prompt_CPD = self.encode(batch["losses_CW"])
        return self.answer(
            prompt_CPD[batch["loss_index_B"]],
            batch["accuracy_BK"],
            batch["gap_BK"],
            batch["mask_BK"],
        )

    def encode(self, losses_CW: Tensor) -> Tensor:
        """Prompt tokens (C, P, D) of distinct loss vectors: each is encoded once."""
        prompt_CPD: Tensor = self.encoder(losses_CW)
        return prompt_CPD

    def answer(
        self, prompt_BPD: Tensor, accuracy_BK: Tensor, gap_BK: Tensor, mask_BK: Tensor
    ) -> Tensor:
        """Quantiles (B, Q) from prompts that are encoded already."""
        pieces = _by_length(mask_BK)
        states = []
        for rows, longest in pieces:
            states.append(
                self.transformer(
                    prompt_BPD[rows],
                    accuracy_BK[rows, :longest],
                    gap_BK[rows, :longest],
                    mask_BK[rows, :longest],
                )
            )
        state_BD = torch.cat(states)
        if len(pieces) > 1:
            state_BD = state_BD[torch.cat([rows for rows, _ in pieces]).argsort()]
        raw_BQ: Tensor = self.head(state_BD)
        if self.config.target == "absolute":
            return raw_BQ
        return raw_BQ + last_observation(accuracy_BK, mask_BK).unsqueeze(-1)


def _by_length(mask_BK: Tensor) -> list[tuple[Tensor, int]]:
    """(rows, longest context) of pieces of a batch, so that short contexts are padded less.

    Only on a CPU, where work is what counts; a GPU would wait for the lengths.
    """
    B, K = mask_BK.shape
    everything = [(torch.arange(B, device=mask_BK.device), K)]
    if mask_BK.device.type != "cpu" or B < MIN_PIECE * 2:
        return everything
    count_B = mask_BK.sum(dim=1)
    order = count_B.argsort(stable=True)
    pieces = [
        (rows, int(count_B[rows[-1]])) for rows in order.tensor_split(min(PIECES, B // MIN_PIECE))
    ]
    saved = 1.0 - sum(len(rows) * (2 + longest) for rows, longest in pieces) / (B * (2 + K))
    return pieces if saved > MIN_SAVED else everything


def last_observation(accuracy_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """The accuracy at each sample's last context point, (B,)."""
    last_B1 = mask_BK.sum(dim=1, keepdim=True) - 1
    return accuracy_BK.gather(1, last_B1).squeeze(1)


def parameter_counts(network: Network) -> dict[str, int]:
    """Trainable parameters of `encoder`, `transformer` and `head`, and their `total`."""
    counts = {
        part: sum(p.numel() for p in getattr(network, part).parameters())
        for part in ("encoder", "transformer", "head")
    }
    return counts | {"total": sum(counts.values())}
