"""How a search draws its trials and which of them it stops: Ray Tune's searchers and schedulers."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

from neuneu.core.errors import UserError
from neuneu.training.tuning.space import Parameter

Scheduler = Literal["asha", "pbt", "none"]

_FIXED: Final = ("cross_run.network.", "model.", "max_ahead", "optim.batch_size")
"""What a state cannot be carried over a change of: the network's shape, the steps of an epoch."""


def mutable(space: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """The parameters that population based training may change while a trial trains.

    Raises:
        UserError: none of them is.
    """
    found = tuple(p for p in space if not p.key.startswith(_FIXED))
    if not found:
        raise UserError(
            "scheduler pbt changes parameters while trials train; this space has only the "
            "network's shape or the length of an epoch. Take asha, or another space."
        )
    return found


def domain(parameter: Parameter) -> Any:
    """A parameter's range as Ray Tune has it."""
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
    """Optuna's TPE, or for a population random draws; the first trial has the defaults."""
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
    """Which trials are stopped, or go on from another's weights.

    Args:
        kind: asynchronous successive halving (arXiv 1810.05934), population based training
            (arXiv 1711.09846), or none.
        space: what is searched.
        metric: what is compared, to be small.
        epochs: reports of an undisturbed trial.
        grace: epochs before the first comparison; of a population also between them.
        reduction: of halving, how many trials come to one that goes on.
        seed: of a population's changes.
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
    random.seed(seed)  # what it draws with
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
    """The config with numbers brought back to their ranges; factors of 1.2 and 0.8 leave them."""
    for p in space:
        if p.kind != "choice":
            assert p.low is not None, p.key
            assert p.high is not None, p.key
            value = min(max(config[p.key], p.low), p.high)
            config[p.key] = round(value) if p.kind == "int" else value
    return config
