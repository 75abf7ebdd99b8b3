"""A search as an Optuna study, and the importances of its parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from neuneu.training.tuning.experiment import Experiment
from neuneu.training.tuning.space import Parameter

_LONG_LABEL: Final = 12


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Fraction of the variance between trials that each parameter explains; they sum to 1.

    `missing` says why there are none; `trials` is the number of trials behind them, `constant`
    the parameters that did not vary among those.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    trials: int = 0
    constant: tuple[str, ...] = ()
    missing: str = ""


def parameter_importance(
    experiment: Experiment, values: Mapping[str, float], *, least: int
) -> Importance:
    """fANOVA importances.

    Args:
        experiment: the search, whose space says what was searched and how.
        values: first objective by trial id, all from one epoch.
        least: minimum number of trials.
    """
    if len(values) < least:
        return Importance(
            trials=len(values),
            missing=(
                f"Too few trials to say which parameters matter: {least} have to finish or be "
                "stopped with a value at the same epoch."
            ),
        )
    given = [trial.parameters for trial in experiment.trials if trial.id in values]
    varied = [
        p
        for p in experiment.plan.space
        if len({repr(parameters[p.key]) for parameters in given}) > 1
    ]
    constant = tuple(p.key for p in experiment.plan.space if p not in varied)
    missing = ""
    if not varied:
        missing = "No parameter varied among the trials, so none can be said to matter."
    elif len(set(values.values())) == 1:
        missing = "All trials reached the same value: no parameter made a difference."
    shares: dict[str, float] = {}
    if not missing:
        import optuna

        names = {
            label: key for key, label in labels([p.key for p in experiment.plan.space]).items()
        }
        found = optuna.importance.get_param_importances(
            make_study(experiment, {i: (value,) for i, value in values.items()}),
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            params=[label for label, key in names.items() if key not in constant],
        )
        shares = {names[label]: float(share) for label, share in found.items()}
    return Importance(shares=shares, trials=len(given), constant=constant, missing=missing)


def make_study(experiment: Experiment, values: Mapping[str, Sequence[float]]) -> Any:
    """An Optuna study of the trials that have `values`, by trial id."""
    import optuna
    from optuna.trial import TrialState, create_trial

    space = experiment.plan.space
    names = labels([p.key for p in space])
    distributions = {names[p.key]: _distribution(p) for p in space}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(next(iter(values.values()))))
    optuna.logging.set_verbosity(verbosity)
    study.add_trial(create_trial(state=TrialState.FAIL))  # Optuna counts from 0, we from 1
    for trial in experiment.trials:
        study.add_trial(
            create_trial(
                params={names[p.key]: _plain(p, trial.parameters[p.key]) for p in space},
                distributions=distributions,
                values=values[trial.id],
            )
            if trial.id in values
            else create_trial(state=TrialState.FAIL)
        )
    return study


def labels(keys: Sequence[str]) -> dict[str, str]:
    """Keys without the sections that all of them share: `optim.learning_rate`."""
    split = [key.split(".") for key in keys]
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*split, strict=False))))
    start = min(shared, min((len(parts) for parts in split), default=1) - 1)
    return {key: ".".join(parts[start:]) for key, parts in zip(keys, split, strict=True)}


def _distribution(parameter: Parameter) -> Any:
    from optuna import distributions

    if parameter.kind == "choice":
        return distributions.CategoricalDistribution(list(_choice_labels(parameter).values()))
    low, high = parameter.low, parameter.high
    if parameter.kind == "int":
        return distributions.IntDistribution(low, high, log=parameter.log)
    return distributions.FloatDistribution(low, high, log=parameter.log)


def _plain(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna takes it: choices become text."""
    if parameter.kind == "choice":
        return _choice_labels(parameter)[json.dumps(value)]
    return round(value) if parameter.kind == "int" else float(value)


def _choice_labels(parameter: Parameter) -> dict[str, str]:
    """The choices by their JSON; long lists by their length, where that tells them apart."""
    texts = {json.dumps(value): value for value in parameter.values}
    short = {
        text: f"{len(value)} values"
        if isinstance(value, list | tuple) and len(text) > _LONG_LABEL
        else text.strip('"')
        for text, value in texts.items()
    }
    return short if len(set(short.values())) == len(short) else {text: text for text in texts}
