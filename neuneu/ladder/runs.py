"""The runs of a ladder: one for each size, recipe and seed, with all that decides its weights."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from neuneu.core.config import config_dataclass, config_to_dict
from neuneu.data.checkpoints import METADATA_FILE
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.language_model import SizeConfig
from neuneu.ladder.schedule import checkpoint_steps


@config_dataclass
class OptimConfig:
    """What all sizes share: AdamW, linear warm-up, cosine decay to `final_lr_fraction`."""

    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, lt=1)
    final_lr_fraction: float = pydantic.Field(default=0.1, ge=0, le=1)
    weight_decay: float = pydantic.Field(default=0.1, ge=0)
    beta1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(default=0.95, ge=0, lt=1)
    clip_norm: pydantic.PositiveFloat = 1.0


@config_dataclass
class ResourcesConfig:
    """What a run gets. One CPU a run, runs side by side, makes the most of a small machine.

    `max_concurrent_runs` of None means as many as the cluster holds. When a worker dies, all are
    started again and go on from the latest states, up to `max_failures` times. Weights are
    reproduced bit for bit only with the same number of CPUs a run.
    """

    cpus_per_run: pydantic.PositiveInt = 1
    gpu: bool = False
    max_concurrent_runs: pydantic.PositiveInt | None = None
    max_failures: pydantic.NonNegativeInt = 2


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One training run; equal plans give equal weights on the same machine and threads."""

    family: str
    suite: str
    size_name: str
    recipe: str
    seed: int
    size: SizeConfig
    optim: OptimConfig
    vocab_size: int
    context_length: int
    checkpoints: int
    early_checkpoints: int
    folder: SuiteFolder

    @property
    def name(self) -> str:
        """`<size>-<recipe>-s<seed>`."""
        return f"{self.size_name}-{self.recipe}-s{self.seed}"

    @property
    def batch_sequences(self) -> int:
        """Sequences of `context_length` tokens in a batch."""
        return self.size.batch_tokens // self.context_length

    @property
    def total_steps(self) -> int:
        """Training steps."""
        return math.ceil(self.size.tokens / self.size.batch_tokens)

    @property
    def planned_tokens(self) -> int:
        """Tokens at the end: the budget, rounded up to whole batches."""
        return self.total_steps * self.size.batch_tokens

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps saved, 0 included."""
        return checkpoint_steps(self.total_steps, self.checkpoints, self.early_checkpoints)

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder.checkpoint(self.name, step)

    def has_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is saved, whole."""
        return (self.checkpoint(step) / METADATA_FILE).exists()

    @property
    def finished(self) -> bool:
        """Whether every checkpoint and the training losses are saved."""
        return self.folder.losses(self.name).exists() and all(
            map(self.has_checkpoint, self.checkpoint_steps)
        )

    @property
    def cost_flops(self) -> float:
        """About 6 x weights x tokens, without building the model."""
        size = self.size
        layer = 4 * size.width**2 + 3 * size.width * size.feed_forward_width
        weights = self.vocab_size * size.width + size.layers * layer
        return 6.0 * weights * self.planned_tokens

    def identity(self) -> dict[str, Any]:
        """All that decides the weights, given the text, as JSON types."""
        return {
            "recipe": self.recipe,
            "seed": self.seed,
            "size": config_to_dict(self.size),
            "optim": config_to_dict(self.optim),
            "checkpoint_steps": list(self.checkpoint_steps),
        }


def balanced_shares(plans: Iterable[RunPlan], shares: int) -> list[list[RunPlan]]:
    """Divides runs into shares of about equal cost: the dearest first, each to the least share."""
    divided: list[list[RunPlan]] = [[] for _ in range(shares)]
    costs = [0.0] * shares
    for plan in sorted(plans, key=lambda plan: plan.cost_flops, reverse=True):
        least = costs.index(min(costs))
        divided[least].append(plan)
        costs[least] += plan.cost_flops
    return divided
