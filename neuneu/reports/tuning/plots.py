"""Figures of a tuning; each has a wide layout and a narrow one (a phone)."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from neuneu.reports.style import (
    INK,
    MUTED,
    NARROW_INCHES,
    PALETTE,
    WIDE_INCHES,
    draw_legend,
    figure_style,
    figure_svg,
    new_figure,
    settle_layout,
    shorten,
)
from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.parallel_plot import plot_parallel
from neuneu.reports.tuning.results import Trial
from neuneu.reports.tuning.words import labels

_FINISHED, _BEST, _DEFAULT, _STOPPED = PALETTE[0], PALETTE[1], PALETTE[2], "#9a9a9a"
_LONG: Final = 20
"""From so many epochs on the early ones, where most is learnt, get a log axis."""


def draw_figures(analysis: Analysis) -> dict[str, dict[str, str]]:
    """The figures that the data allow: name -> its wide and its narrow SVG."""
    figures: dict[str, Callable[..., Figure]] = {}
    if any(trial.reports for trial in analysis.results.trials):
        figures["curves"] = plot_curves
    if analysis.stops:
        figures["stops"] = plot_stops
    if len(analysis.front) > 0:
        figures["front"] = plot_front
    if analysis.importance.shares:
        figures["importance"] = plot_importance
    if analysis.results.plan.space and analysis.best is not None:
        figures["parallel"] = plot_parallel
    drawn: dict[str, dict[str, str]] = {}
    for name, plot in figures.items():
        drawn[name] = {}
        for layout in ("wide", "narrow"):
            figure = plot(analysis, narrow=layout == "narrow")
            settle_layout(figure)
            drawn[name][layout] = figure_svg(figure, name=f"{name}-{layout}")
    return drawn


def plot_curves(analysis: Analysis, *, narrow: bool = False) -> Figure:
    """The main objective after every epoch, a line a trial; a dot where one was stopped."""
    metric = analysis.main.metric
    best, default = analysis.best, analysis.default
    seen: dict[str, dict[str, Any]] = {}
    every: list[float] = []
    with figure_style():
        figure = _single(narrow, 3.9)
        axes = figure.add_subplot()
        for trial in sorted(analysis.results.trials, key=lambda t: t.status == "finished"):
            points = [(r.epoch, r.metrics[metric]) for r in trial.reports if metric in r.metrics]
            if not points:
                continue
            style = _curve_style(
                trial,
                best is not None and trial.id == best.trial.id,
                default is not None and trial.id == default.trial.id,
            )
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, markevery=[-1], **style)
            every += values
            seen.setdefault(style["label"], style)
        axes.set_ylabel(analysis.main.words)
        _value_axis(axes, every)
        _epoch_axis(axes, analysis.results.plan.epochs)
        handles = [Line2D([], [], **style) for style in seen.values()]
        draw_legend(figure, sorted(handles, key=lambda h: str(h.get_label())), narrow=narrow)
    return figure


def _curve_style(trial: Trial, best: bool, default: bool) -> dict[str, Any]:
    if best:
        return {"color": _BEST, "lw": 2.2, "label": "best", "zorder": 5, "marker": "o", "ms": 4}
    if default:
        return {
            "color": _DEFAULT, "lw": 2.0, "ls": (0, (5, 1.5)), "label": "defaults", "zorder": 4,
            "marker": "o", "ms": 4,
        }  # fmt: skip
    if trial.status == "finished":
        return {"color": _FINISHED, "lw": 1.1, "alpha": 0.7, "label": "finished", "zorder": 3}
    if trial.status == "failed":
        return {"color": "#b3261e", "lw": 0.9, "marker": "x", "ms": 5, "label": "failed"}
    if trial.status == "stopped":
        return {"color": _STOPPED, "lw": 0.9, "marker": "o", "ms": 2.5, "label": "stopped early"}
    return {"color": MUTED, "lw": 1.0, "ls": (0, (2, 2)), "label": "running or interrupted"}


def plot_stops(analysis: Analysis, *, narrow: bool = False) -> Figure:
    """How many trials were stopped after which epoch, and how many finished."""
    stops, finished = analysis.stops, analysis.counts["finished"]
    rungs = [(f"epoch {stop.epoch}", stop.trials, _STOPPED) for stop in stops]
    rungs.append(("to the end", finished, _FINISHED))
    with figure_style():
        figure = _single(narrow, 0.8 + 0.27 * len(rungs))
        axes = figure.add_subplot()
        _bars(axes, rungs, lambda count: f"{count:.0f}")
    return figure


def plot_importance(analysis: Analysis, *, narrow: bool = False) -> Figure:
    """The share of the differences that each parameter explains, largest first."""
    names = labels([d.key for d in analysis.results.plan.space])
    shares = sorted(analysis.importance.shares.items(), key=lambda item: -item[1])
    rows = [(shorten(names[key], 26 if narrow else 44), v, _FINISHED) for key, v in shares]
    with figure_style():
        figure = _single(narrow, 0.8 + 0.27 * len(rows))
        axes = figure.add_subplot()
        _bars(axes, rows, lambda share: f"{100 * share:.0f} %")
        axes.set_xlabel("share of the differences explained")
    return figure


def plot_front(analysis: Analysis, *, narrow: bool = False) -> Figure:
    """Both objectives of every trial, and the line of those that no other beats in both."""
    x_of, y_of = analysis.results.plan.objectives
    groups: dict[str, list[tuple[float, float]]] = {"finished": [], "not finished": []}
    for s in analysis.ranked[x_of.metric]:
        if y_of.metric in s.values:
            name = "finished" if s.trial.status == "finished" else "not finished"
            groups[name].append((s.values[x_of.metric], s.values[y_of.metric]))
    front = [(s.values[x_of.metric], s.values[y_of.metric]) for s in analysis.front]
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.62, 3.9)
        axes = figure.add_subplot()
        axes.grid(axis="x")
        styles: dict[str, dict[str, Any]] = {
            "finished": {"color": _FINISHED, "marker": "o", "ms": 5, "ls": "none"},
            "not finished": {
                "color": _STOPPED, "marker": "o", "ms": 4.5, "ls": "none", "mfc": "white",
            },
        }  # fmt: skip
        handles = []
        for name, points in groups.items():
            if points:
                axes.plot(*zip(*points, strict=True), zorder=3, **styles[name])
                handles.append(Line2D([], [], label=name, **styles[name]))
        line: dict[str, Any] = {"color": _BEST, "lw": 1.4, "marker": "o", "ms": 6}
        axes.plot(*zip(*front, strict=True), zorder=4, **line)
        handles.append(Line2D([], [], label="Pareto front", **line))
        for s, (x, y) in zip(analysis.front, front, strict=True):
            axes.annotate(
                str(s.trial.number), (x, y), xytext=(5, 5), textcoords="offset points",
                fontsize=8, color=INK,
            )  # fmt: skip
        axes.set_xlabel(_direction(x_of.words, x_of.mode))
        axes.set_ylabel(_direction(y_of.words, y_of.mode))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.margins(0.08)
        draw_legend(figure, handles, narrow=narrow)
    return figure


def _bars(axes: Axes, rows: Sequence[tuple[str, float, str]], text: Callable[[float], str]) -> None:
    names, values, colors = zip(*rows, strict=True)
    places = range(len(rows))
    axes.barh(places, values, color=colors, height=0.62)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_xlim(0, max(values) * 1.12 or 1)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            text(value), (value, place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=INK,
        )  # fmt: skip


def _single(narrow: bool, height: float) -> Figure:
    return new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.8, height)


def _direction(words: str, mode: str) -> str:
    return f"{words} ({'less' if mode == 'min' else 'more'} is better)"


def _value_axis(axes: Axes, values: list[float]) -> None:
    """Logarithmic where the worst would squeeze the rest."""
    if values and min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _epoch_axis(axes: Axes, epochs: int) -> None:
    if epochs >= _LONG:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("epoch")
