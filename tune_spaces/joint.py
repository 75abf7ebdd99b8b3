"""Shape, loss and optimiser together: the largest space, for a long search."""

from neuneu.training.tuning.space import Parameter, load_space, real


def _optimiser(prefix: str, rate: float, decay: float, warmup: float) -> tuple[Parameter, ...]:
    return (
        real(
            f"{prefix}optim.learning_rate", 3e-4, 6e-3, default=rate, log=True,
            reason="what matters most in every search of this kind",
        ),
        real(
            f"{prefix}optim.weight_decay", 1e-3, 0.5, default=decay, log=True,
            reason="keeps networks from learning runs by heart",
        ),
        real(
            f"{prefix}optim.warmup_fraction", 0.0, 0.2, default=warmup,
            reason="AdamW's first steps are noisy",
        ),
    )  # fmt: skip


SPACE = (
    *load_space("architecture"),
    *load_space("quantile_loss"),
    *_optimiser("cross_run.", 2e-3, 0.05, 0.05),
    *_optimiser("", 6e-4, 0.033, 0.1),
)
