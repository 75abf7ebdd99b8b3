"""Which parameters made the difference: Optuna's importance on a study rebuilt from trials."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuneu.reports.tuning.results import Dimension, Results


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Share of the differences between trials that each parameter explains; they add up to 1.

    `missing` says why there are none. `trials` is how many they rest on, `constant` are
    parameters that did not vary among those.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    trials: int = 0
    constant: tuple[str, ...] = ()
    missing: str = ""


def parameter_importance(
    results: Results, values: Mapping[str, float], *, least: int
) -> Importance:
    """fANOVA: the variance of a forest's predictions that each parameter accounts for.

    Args:
        results: the experiment, whose space says what was searched and how.
        values: trial id -> main objective, all from one epoch.
        least: how many trials it takes.
    """
    given = [(trial, values[trial.id]) for trial in results.trials if trial.id in values]
    if len(given) < least:
        return Importance(
            trials=len(given),
            missing=(
                f"Too few trials to say which parameters matter: it takes {least} that finished "
                "or were stopped, with a value at one epoch."
            ),
        )
    dimensions = [d for d in results.plan.space if all(d.key in t.parameters for t, _ in given)]
    columns = {d.key: [_plain(d, t.parameters[d.key]) for t, _ in given] for d in dimensions}
    varied = [d for d in dimensions if len(set(columns[d.key])) > 1]
    constant = tuple(d.key for d in results.plan.space if d not in varied)
    if not varied:
        missing = "No parameter varied among the trials: none can be said to matter."
    elif len({value for _, value in given}) == 1:
        missing = "All trials reached the same value: no parameter made a difference."
    else:
        try:
            shares = _fanova(
                {d.key: columns[d.key] for d in varied}, varied, [value for _, value in given],
                results.plan.objectives[0].mode,
            )  # fmt: skip
        except ImportError as error:
            missing = f"Not computed: {error.name} is missing; install neuneu[tune,analysis]."
        else:
            return Importance(shares=shares, trials=len(given), constant=constant)
    return Importance(trials=len(given), constant=constant, missing=missing)


def _fanova(
    columns: Mapping[str, Sequence[Any]],
    dimensions: Sequence[Dimension],
    values: Sequence[float],
    mode: str,
) -> dict[str, float]:
    import optuna
    import sklearn  # noqa: F401 - what fANOVA needs; without it optuna's own error has no name

    distributions = {d.key: _distribution(d, columns[d.key]) for d in dimensions}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    optuna.logging.set_verbosity(verbosity)
    for row, value in enumerate(values):
        study.add_trial(
            optuna.trial.create_trial(
                params={key: column[row] for key, column in columns.items()},
                distributions=distributions,
                value=value,
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _distribution(dimension: Dimension, column: Sequence[Any]) -> Any:
    """The range that was searched, widened to what was tried: some schedulers leave it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )  # fmt: skip

    if dimension.kind == "choice":
        choices = [_plain(dimension, value) for value in dimension.values]
        return CategoricalDistribution(list(dict.fromkeys([*choices, *column])))
    bounds = [bound for bound in (dimension.low, dimension.high) if bound is not None]
    low, high = min([*bounds, *column]), max([*bounds, *column])
    log = dimension.log and low > 0
    if dimension.kind == "int":
        return IntDistribution(round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log)


def _plain(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna takes it: choices that are lists or mappings become text."""
    if dimension.kind == "int":
        return round(value)
    if dimension.kind == "float":
        return float(value)
    return json.dumps(value, sort_keys=True)
