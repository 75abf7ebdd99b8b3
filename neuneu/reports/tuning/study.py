"""A search as an Optuna study: importances of its parameters, and Optuna's plots."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from neuneu.reports.style import (
    MUTED,
    NARROW_INCHES,
    PALETTE,
    WIDE_INCHES,
    figure_style,
    figure_svg,
)
from neuneu.training.tuning.experiment import STATUS_LABELS, Experiment
from neuneu.training.tuning.space import Parameter

if TYPE_CHECKING:
    from neuneu.reports.tuning.analysis import Analysis

_LONG_LABEL: Final = 12
_LONG: Final = 20
"""From this number of epochs on, the axis is logarithmic: most is learnt in the first few."""

_CURVES: Final = {"finished": PALETTE[0], "stopped": "#9a9a9a", "failed": "#b3261e"}


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


def draw_figures(analysis: "Analysis") -> dict[str, dict[str, str]]:
    """The figures that the trials allow: name -> its wide and its narrow SVG."""
    drawn: dict[str, dict[str, str]] = {}
    for layout, width in (("wide", WIDE_INCHES), ("narrow", NARROW_INCHES)):
        for name, (plot, height) in _plots(analysis, narrow=layout == "narrow").items():
            with (
                figure_style(),
                matplotlib.rc_context({"savefig.bbox": "tight"}),
                warnings.catch_warnings(action="ignore"),  # of experimental functions
            ):
                axes = np.ravel(plot())
                figure = axes[0].figure
                for each in figure.axes:
                    each.set(title="", facecolor="white")
                    if name == "importance":
                        each.get_legend().remove()  # it would name the objective once more
                figure.suptitle("")
                figure.set_layout_engine("none")
                figure.set_size_inches(width * (0.6 if name == "contour" else 0.8), height)
                drawn.setdefault(name, {})[layout] = figure_svg(figure, name=f"{name}-{layout}")
                plt.close(figure)
    return drawn


def _plots(analysis: "Analysis", *, narrow: bool) -> dict[str, tuple[Callable[[], Any], float]]:
    """Name -> a function that draws it, and its height in inches."""
    import optuna
    import optuna.visualization.matplotlib as plots

    experiment, main = analysis.experiment, analysis.main
    ranked = analysis.finished or analysis.ranked[main.metric]
    if not ranked:
        return {}
    plotted: dict[str, tuple[Callable[[], Any], float]] = {
        "curves": (lambda: _plot_curves(analysis), 3.6)
    }
    ends = {s.trial.id: (s.values[main.metric],) for s in ranked}
    history = make_study(experiment, ends)
    plotted["history"] = (
        lambda: plots.plot_optimization_history(history, target_name=main.label), 3.2,
    )  # fmt: skip
    if analysis.front:
        objectives = experiment.plan.objectives
        both = [s for s in ranked if len(s.values) == len(objectives)]
        pairs = make_study(
            experiment, {s.trial.id: [s.values[o.metric] for o in objectives] for s in both}
        )
        names = [o.label for o in objectives]
        plotted["front"] = lambda: plots.plot_pareto_front(pairs, target_names=names), 3.6
    compared = analysis.compared
    study = history
    if compared is not None:
        study = make_study(experiment, {i: (value,) for i, value in compared.values.items()})
    shares = analysis.importance.shares
    keys = sorted((p.key for p in experiment.plan.space), key=lambda key: -shares.get(key, 0.0))
    params = [labels(keys)[key] for key in keys]
    if shares:
        varied = [labels(keys)[key] for key in keys if key in shares]
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        plotted["importance"] = (
            lambda: plots.plot_param_importances(
                study, evaluator, varied, target_name=main.label
            ),
            0.8 + 0.27 * len(varied),
        )  # fmt: skip
        plotted["slice"] = (
            lambda: plots.plot_slice(study, varied[: 1 if narrow else 4], target_name=main.label),
            3.2,
        )
        if len(varied) > 1:
            plotted["contour"] = (
                lambda: plots.plot_contour(study, varied[:2], target_name=main.label),
                3.6,
            )
    if params:
        plotted["parallel"] = (
            lambda: plots.plot_parallel_coordinate(
                study, params[: 3 if narrow else 6], target_name=main.label
            ),
            3.6,
        )
    return plotted


def _plot_curves(analysis: "Analysis") -> Any:
    """The first objective after each epoch, a line per trial that ends in a dot."""
    metric, best, default = analysis.main.metric, analysis.best, analysis.default
    _, axes = plt.subplots()
    for trial in analysis.experiment.trials:
        points = [(r.epoch, r.metrics[metric]) for r in trial.reports if metric in r.metrics]
        if not points:
            continue
        style: dict[str, Any] = {"color": _CURVES.get(trial.status, MUTED), "lw": 1}
        style["label"] = STATUS_LABELS[trial.status]
        if default is not None and trial.id == default.trial.id:
            style = {"color": PALETTE[2], "lw": 2, "ls": "--", "zorder": 3, "label": "defaults"}
        if best is not None and trial.id == best.trial.id:
            style = {"color": PALETTE[1], "lw": 2, "zorder": 4, "label": "best"}
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, markevery=[-1], **style)
    handles = {str(line.get_label()): line for line in axes.get_lines()}
    axes.legend(
        handles=[handles[label] for label in sorted(handles)],
        bbox_to_anchor=(1.02, 1),
        loc="upper left",
    )
    if analysis.experiment.plan.epochs >= _LONG:
        axes.set_xscale("log")
    axes.set(xlabel="epoch", ylabel=analysis.main.label)
    return axes


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
