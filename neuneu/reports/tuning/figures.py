"""Figures of a search, most of them Optuna's; each in a wide and a narrow layout."""

import warnings
from collections.abc import Callable
from typing import Any, Final

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
from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.study import labels, make_study
from neuneu.training.tuning.experiment import STATUS_LABELS

_LONG: Final = 20
"""From this number of epochs on, the axis is logarithmic: most progress is in the first few."""

_CURVES: Final = {"finished": PALETTE[0], "stopped": "#9a9a9a", "failed": "#b3261e"}


def draw_figures(analysis: Analysis) -> dict[str, dict[str, str]]:
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


def _plots(analysis: Analysis, *, narrow: bool) -> dict[str, tuple[Callable[[], Any], float]]:
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


def _plot_curves(analysis: Analysis) -> Any:
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
