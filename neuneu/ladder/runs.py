"""The runs of a ladder, one per size, recipe and seed, and what determines their weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuneu.core.config import config_to_dict
from neuneu.data.checkpoints import METADATA_FILE
from neuneu.ladder.config import SizeConfig, SuiteConfig, checkpoint_steps
from neuneu.ladder.folders import SuiteFolder


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """One training run; equal plans give equal weights on the same machine and threads."""

    config: SuiteConfig
    size_name: str
    recipe: str
    seed: int
    folder: SuiteFolder

    @property
    def name(self) -> str:
        """`<size>-<recipe>-s<seed>`."""
        return f"{self.size_name}-{self.recipe}-s{self.seed}"

    @property
    def size(self) -> SizeConfig:
        """The shape and training budget of the model."""
        return self.config.sizes[self.size_name]

    @property
    def planned_tokens(self) -> int:
        """Number of training tokens: the budget, rounded up to whole batches."""
        return self.size.total_steps * self.size.batch_tokens

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps at which checkpoints are saved, including 0."""
        config = self.config
        return checkpoint_steps(self.size.total_steps, config.checkpoints, config.early_checkpoints)

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder.checkpoint(self.name, step)

    def has_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is complete."""
        return (self.checkpoint(step) / METADATA_FILE).exists()

    @property
    def finished(self) -> bool:
        """Whether all checkpoints and the training losses are saved."""
        return self.folder.losses(self.name).exists() and all(
            map(self.has_checkpoint, self.checkpoint_steps)
        )

    @property
    def cost_flops(self) -> float:
        """Approximate training FLOPs, 6 x weights x tokens, without building the model."""
        size = self.size
        layer = 4 * size.width**2 + 3 * size.width * size.feed_forward_width
        weights = self.config.vocab_size * size.width + size.layers * layer
        return 6.0 * weights * self.planned_tokens

    def identity(self) -> dict[str, Any]:
        """Everything that determines the weights, given the text, as JSON types."""
        return {
            "recipe": self.recipe,
            "seed": self.seed,
            "size": config_to_dict(self.size),
            "optim": config_to_dict(self.config.optim),
            "checkpoint_steps": list(self.checkpoint_steps),
        }


def plan_runs(config: SuiteConfig, recipes: Sequence[str], folder: SuiteFolder) -> list[RunPlan]:
    """Plan one run per size, recipe and seed."""
    return [
        RunPlan(config=config, size_name=size_name, recipe=recipe, seed=seed, folder=folder)
        for size_name in config.sizes
        for recipe in recipes
        for seed in config.seeds
    ]


def balanced_shares(plans: Iterable[RunPlan], shares: int) -> list[list[RunPlan]]:
    """Divide runs into shares of similar cost: most expensive first, each to the cheapest share."""
    divided: list[list[RunPlan]] = [[] for _ in range(shares)]
    costs = [0.0] * shares
    for plan in sorted(plans, key=lambda plan: plan.cost_flops, reverse=True):
        least = costs.index(min(costs))
        divided[least].append(plan)
        costs[least] += plan.cost_flops
    return divided
