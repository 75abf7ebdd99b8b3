"""What is minimised: score, levels, weights, and what is left out while learning."""

from neuneu.data.quantiles import FORECAST_LEVELS, PAPER_LEVELS
from neuneu.training.tuning.space import Parameter, choice, real

_DENSE = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)


def _objective(prefix: str) -> tuple[Parameter, ...]:
    return (
        choice(
            f"{prefix}objective.score", ("pinball", "log"), default="pinball",
            reason="two proper scores: the log score punishes a confident miss without bound",
        ),
        real(
            f"{prefix}objective.tails", 0.0, 1.0, default=0.0,
            reason="pinball says little about rare outcomes; this weighs outer levels up",
        ),
        real(
            f"{prefix}objective.horizon", -0.5, 0.5, default=0.0,
            reason="far targets err more and so weigh more unless weighed down",
        ),
        real(
            f"{prefix}objective.noise", 0.0, 1.0, default=0.0,
            reason="noisy tasks teach little and weigh much",
        ),
    )  # fmt: skip


SPACE = (
    *_objective("cross_run."),
    choice(
        "cross_run.network.levels", (PAPER_LEVELS, FORECAST_LEVELS, _DENSE),
        default=FORECAST_LEVELS, reason="more levels draw the distribution more finely",
    ),
    real(
        "cross_run.task_dropout", 0.0, 0.7, default=0.3,
        reason="questions about unknown tasks: what carries over to unseen ones",
    ),
    real(
        "cross_run.sampling.alone", 0.1, 0.7, default=0.35,
        reason="questions without other runs; the own-past answer is learnt from them",
    ),
    real(
        "cross_run.sampling.smaller_only", 0.0, 1.0, default=0.6,
        reason="questions that see smaller runs only, as those about the largest run do",
    ),
    real(
        "cross_run.sampling.anchor_share", 0.0, 1.0, default=0.5,
        reason="pasts that end after a fifth of the checkpoints, as the protocol has it",
    ),
    real(
        "cross_run.sampling.thinned", 0.0, 0.6, default=0.2,
        reason="pasts with checkpoints left out: other evaluation schedules",
    ),
    *_objective(""),
    choice(
        "model.levels", (PAPER_LEVELS, FORECAST_LEVELS, _DENSE), default=FORECAST_LEVELS,
        reason="more levels draw the distribution more finely",
    ),
    choice(
        "model.head", ("ordered", "plain"), default="ordered",
        reason="ordered quantiles cannot cross; plain ones are how it was published",
    ),
    real("drop", 0.0, 0.7, default=0.4, reason="inner points of a context that are left out"),
    choice(
        "max_ahead", (5, 10, 20, None), default=10,
        reason="how many checkpoints a target may lie after its context",
    ),
)  # fmt: skip
