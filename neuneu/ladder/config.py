"""The config of a ladder: sizes, optimizer, resources and when to save checkpoints."""

from pathlib import Path
from typing import Final

import pydantic

from neuneu.core.config import config_dataclass
from neuneu.ladder.text import SAFE_NAME, TextConfig
from neuneu.ladder.tokenizer import MIN_VOCAB_SIZE

_FEED_FORWARD_MULTIPLE: Final = 32


@config_dataclass
class SizeConfig:
    """One size of a ladder: the shape of the model and its training budget.

    `tokens` is the number of training tokens, rounded up to whole batches of `batch_tokens`; `lr`
    is the peak learning rate.
    """

    width: pydantic.PositiveInt
    layers: pydantic.PositiveInt
    heads: pydantic.PositiveInt
    tokens: pydantic.PositiveInt
    batch_tokens: pydantic.PositiveInt = 512
    lr: pydantic.PositiveFloat = 3e-3
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width}: expected a multiple of 2 x heads = {2 * self.heads}, "
                "because rotary embeddings need an even width per head"
            )

    @property
    def total_steps(self) -> int:
        """Number of training steps: the budget, rounded up to whole batches."""
        return -(-self.tokens // self.batch_tokens)

    @property
    def feed_forward_width(self) -> int:
        """8/3 of the width, rounded up, so that SwiGLU costs as much as a plain 4-fold layer."""
        multiple = _FEED_FORWARD_MULTIPLE
        return -(-8 * self.width // (3 * multiple)) * multiple


@config_dataclass
class OptimConfig:
    """Optimization of all sizes: AdamW, linear warm-up, cosine decay to `final_lr_fraction`."""

    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, lt=1)
    final_lr_fraction: float = pydantic.Field(default=0.1, ge=0, le=1)
    weight_decay: float = pydantic.Field(default=0.1, ge=0)
    beta1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(default=0.95, ge=0, lt=1)
    clip_norm: pydantic.PositiveFloat = 1.0


@config_dataclass
class ResourcesConfig:
    """Resources of a run. A small machine is used best by many runs with one CPU each.

    `max_concurrent_runs` defaults to as many as fit on the cluster. If a worker dies, all workers
    restart from the latest states, up to `max_failures` times. Weights are reproduced bit for bit
    only with the same number of CPUs per run.
    """

    cpus_per_run: pydantic.PositiveInt = 1
    gpu: bool = False
    max_concurrent_runs: pydantic.PositiveInt | None = None
    max_failures: pydantic.NonNegativeInt = 2


def _demo_sizes() -> dict[str, SizeConfig]:
    return {
        "xs": SizeConfig(width=64, layers=2, heads=2, tokens=600_000, tied_embeddings=True),
        "s": SizeConfig(width=96, layers=3, heads=3, tokens=440_000),
        "m": SizeConfig(width=128, layers=4, heads=4, tokens=380_000, tied_embeddings=True),
    }


@config_dataclass
class SuiteConfig:
    """A ladder. The defaults are the demo: six runs, about four minutes on two CPU cores.

    Each run saves step 0 and `checkpoints` later steps, `early_checkpoints` of them spaced
    geometrically and the rest evenly. Setting `sizes` replaces the default sizes.
    """

    output: Path = Path("runs/suite")
    family: str = "neuneu-llama"
    suite: str = "demo"
    text: TextConfig = TextConfig()
    vocab_size: int = pydantic.Field(default=2_048, ge=MIN_VOCAB_SIZE)
    context_length: pydantic.PositiveInt = 256
    sizes: dict[str, SizeConfig] = pydantic.Field(default_factory=_demo_sizes, min_length=1)
    seeds: tuple[pydantic.NonNegativeInt, ...] = pydantic.Field(default=(0,), min_length=1)
    optim: OptimConfig = OptimConfig()
    checkpoints: pydantic.PositiveInt = 14
    early_checkpoints: pydantic.NonNegativeInt = 3
    resources: ResourcesConfig = ResourcesConfig()

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            if not SAFE_NAME.fullmatch(name):
                raise ValueError(f"size {name!r}: expected letters, digits and . _ + - only")
            if size.batch_tokens % self.context_length:
                raise ValueError(
                    f"sizes.{name}.batch_tokens {size.batch_tokens}: expected a multiple of "
                    f"context_length {self.context_length}"
                )
            try:
                checkpoint_steps(size.total_steps, self.checkpoints, self.early_checkpoints)
            except ValueError as error:
                raise ValueError(f"sizes.{name}: {error}") from error


def checkpoint_steps(total_steps: int, checkpoints: int, early: int) -> tuple[int, ...]:
    """Return step 0 and `checkpoints` later steps, `early` spaced geometrically, the rest evenly.

    Steps strictly increase; the last one is `total_steps`.

    >>> checkpoint_steps(100, 5, 1)
    (0, 5, 25, 50, 75, 100)

    Raises:
        ValueError: There are fewer steps than checkpoints, or no evenly spaced checkpoint is left.
    """
    if not 0 <= early < checkpoints:
        raise ValueError(
            f"early_checkpoints: expected 0 to checkpoints - 1 = {checkpoints - 1}, found {early}"
        )
    if total_steps < checkpoints:
        raise ValueError(
            f"{total_steps} training steps cannot hold {checkpoints} checkpoints; "
            "give the size more tokens, smaller batches or fewer checkpoints"
        )
    spacing = total_steps / (checkpoints - early)
    targets = [spacing ** (j / (early + 1)) for j in range(1, early + 1)]
    targets += [spacing * j for j in range(1, checkpoints - early + 1)]
    steps = [0]
    for index, target in enumerate(targets, 1):
        latest = total_steps - (checkpoints - index)
        steps.append(min(max(round(target), steps[-1] + 1), latest))
    return tuple(steps)
