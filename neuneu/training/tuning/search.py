"""Ray Tune's searchers and schedulers: how trials are drawn, and which are stopped."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

from neuneu.core.errors import UserError
from neuneu.training.tuning.space import Parameter

Scheduler = Literal["asha", "pbt", "none"]

_FIXED: Final = ("cross_run.network.", "model.", "max_ahead", "optim.batch_size")
"""Keys that a state depends on: the network's shape, the steps of an epoch."""


def mutable(space: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Return the parameters that population based training may change during a trial.

    Raises:
        UserError: there are none.
    """
    found = tuple(p for p in space if not p.key.startswith(_FIXED))
    if not found:
        raise UserError(
            "scheduler pbt changes parameters while trials train; this space has only the "
            "network's shape or the length of an epoch. Take asha, or another space."
        )
    return found


def domain(parameter: Parameter) -> Any:
    """Return a parameter's range for Ray Tune."""
    from ray import tune

    if parameter.kind == "choice":
        return tune.choice(list(parameter.values))
    assert parameter.low is not None, parameter.key
    assert parameter.high is not None, parameter.key
    if parameter.kind == "int":
        low, high = int(parameter.low), int(parameter.high) + 1
        return tune.lograndint(low, high) if parameter.log else tune.randint(low, high)
    make = tune.loguniform if parameter.log else tune.uniform
    return make(parameter.low, parameter.high)


def searcher(
    kind: Scheduler, space: Sequence[Parameter], objectives: Sequence[str], seed: int
) -> Any:
    """Return Optuna's TPE, or random draws for a population; the first trial has the defaults."""
    defaults = [{p.key: p.default for p in space}]
    if kind == "pbt":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(points_to_evaluate=defaults, random_state=seed)
    from ray.tune.search.optuna import OptunaSearch

    several = len(objectives) > 1
    return OptunaSearch(
        metric=list(objectives) if several else objectives[0],
        mode=["min"] * len(objectives) if several else "min",
        points_to_evaluate=defaults,
        seed=seed,
    )


def scheduler(
    kind: Scheduler,
    space: Sequence[Parameter],
    metric: str,
    *,
    epochs: int,
    grace: int,
    reduction: float,
    seed: int,
) -> Any:
    """Return the scheduler that stops trials or lets them resume from another's weights.

    Args:
        kind: asynchronous successive halving (arXiv 1810.05934), population based training
            (arXiv 1711.09846), or none.
        space: the search space.
        metric: metric to minimise.
        epochs: epochs of an uninterrupted trial.
        grace: epochs before the first comparison; in a population also between comparisons.
        reduction: factor of halving: one in `reduction` trials continues.
        seed: random seed of a population's changes.
    """
    from ray.tune import schedulers

    if kind == "none":
        return schedulers.FIFOScheduler()
    grace = min(grace, epochs)
    if kind == "asha":
        return schedulers.AsyncHyperBandScheduler(
            time_attr="epoch", metric=metric, mode="min",
            grace_period=grace, reduction_factor=reduction,
            max_t=epochs + 1,  # at `epochs` it would stop trials before they are exported
        )  # fmt: skip
    random.seed(seed)  # it draws from the global generator
    changing = mutable(space)
    return schedulers.PopulationBasedTraining(
        time_attr="epoch", metric=metric, mode="min",
        perturbation_interval=grace, burn_in_period=grace,
        hyperparam_mutations={
            p.key: list(p.values) if p.kind == "choice" else domain(p) for p in changing
        },
        custom_explore_fn=partial(_inside, space=changing), log_config=False,
    )  # fmt: skip


def _inside(config: dict[str, Any], space: Sequence[Parameter]) -> dict[str, Any]:
    """Clip numbers to their ranges, which factors of 1.2 and 0.8 leave."""
    for p in space:
        if p.kind != "choice":
            assert p.low is not None, p.key
            assert p.high is not None, p.key
            value = min(max(config[p.key], p.low), p.high)
            config[p.key] = round(value) if p.kind == "int" else value
    return config
