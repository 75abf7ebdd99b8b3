"""Figures of a backtest, each in a wide layout and a narrow one (one column, for a phone)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from neuneu.core.formatting import format_count
from neuneu.data.arrays import FloatArray
from neuneu.data.scales import PERCENT
from neuneu.reports.style import (
    CHANCE,
    FAINT,
    MAX_PANELS,
    MUTED,
    NARROW_INCHES,
    TRUTH,
    WIDE_INCHES,
    draw_forecast,
    draw_legend,
    figure_style,
    forecaster_styles,
    kept_points,
    new_figure,
    panel_grid,
    percent_axis,
    score_axis,
    shorten,
    size_colors,
    token_axis,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ForecastPanel:
    """One trajectory with its forecasts: k context points, h targets.

    `forecasts` maps a forecaster to {level: (h,) values in `unit`}; one with more than the median
    has intervals.
    """

    title: str
    context_tokens: FloatArray
    context_values: FloatArray
    target_tokens: FloatArray
    target_values: FloatArray
    forecasts: Mapping[str, Mapping[float, FloatArray]]
    chance: float | None = None
    unit: str = PERCENT


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One run's line: tokens and values (n,), its name and parameter count."""

    run: str
    params: float
    tokens: FloatArray
    values: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskPanel:
    """Accuracies of several runs on one task; chance None where it is unknown."""

    title: str
    chance: float | None
    curves: Sequence[Curve] = field(default_factory=tuple)


def plot_trajectories(panels: Sequence[ForecastPanel], *, narrow: bool = False) -> Figure:
    """Small multiples: observed context, outcomes, and what each forecaster predicted."""
    panels = panels[: 6 if narrow else MAX_PANELS]
    styles = forecaster_styles([name for panel in panels for name in panel.forecasts])
    with figure_style():
        units = {panel.unit for panel in panels} or {PERCENT}
        figure, grid = panel_grid(
            len(panels), narrow=narrow, columns=3, row_inches=2.15,
            label="accuracy" if units == {PERCENT} else ", ".join(sorted(units)),
        )  # fmt: skip
        for panel, axes in zip(panels, grid, strict=True):
            _draw_panel(axes, panel, styles)
        handles: list[Any] = [
            Line2D([], [], color=TRUTH, marker="o", ms=4, lw=1, label="observed"),
            Line2D([], [], color=FAINT, lw=2, label="end of context"),
            Line2D([], [], color=TRUTH, marker="o", ms=4, mfc="white", ls="none", label="outcome"),
        ]
        for name, style in styles.items():
            handles.append(Line2D([], [], lw=1.8, label=name, **style))
            if any(0.1 in panel.forecasts.get(name, {}) for panel in panels):
                label = "50 and 80 % intervals"
                handles.append(Patch(color=style["color"], alpha=0.3, lw=0, label=label))
        if any(panel.chance is not None for panel in panels):
            handles.append(Line2D([], [], label="chance", **CHANCE))
        draw_legend(figure, handles, narrow=narrow)
    return figure


def plot_horizon(
    by_forecaster: Mapping[str, Mapping[str, Any]], *, unit: str = PERCENT, narrow: bool = False
) -> Figure:
    """Mean absolute error by target tokens / context tokens, with 95 % intervals.

    Args:
        by_forecaster: forecaster -> the `by_horizon` section of its summary.
        unit: of the metric.
        narrow: the phone layout.
    """
    counts = {
        label: s["n_trajectories"] for bins in by_forecaster.values() for label, s in bins.items()
    }
    bins = list(counts)
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.75, 3.4)
        axes = figure.add_subplot()
        for index, (name, style) in enumerate(forecaster_styles(by_forecaster).items()):
            offset = 0.08 * (index - (len(by_forecaster) - 1) / 2.0)
            scores = {bins.index(b) + offset: s["mae"] for b, s in by_forecaster[name].items()}
            _draw_estimates(axes, scores, label=name, **style)
        names = [label.replace("-", "–") + "×" for label in bins]
        if not narrow:
            names = [
                f"{name}\nn = {counts[label]:,}" for name, label in zip(names, bins, strict=True)
            ]
        axes.set_xticks(range(len(bins)), names, rotation=60 if narrow else 0)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("target tokens / context tokens" + ("" if narrow else " (n trajectories)"))
        percent_axis(axes, "mean absolute error (points)", points=True)
        if unit != PERCENT:
            score_axis(axes, unit, f"mean absolute error ({unit})" if unit else None)
        draw_legend(figure, axes.get_legend_handles_labels()[0], narrow=narrow)
    return figure


def plot_coverage(overall: Mapping[str, Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Coverage of the 50, 80 and 90 % intervals against their nominal level.

    Args:
        overall: forecaster with intervals -> the `overall` section of its summary.
        narrow: the phone layout.
    """
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else 4.6, NARROW_INCHES if narrow else 4.2)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (3, 3)))
        for x, y, text, rotation in (
            (0.3, 0.33, "nominal", 45),
            (0.72, 0.36, "too narrow", 0),
            (0.22, 0.78, "too wide", 0),
        ):
            axes.text(x, y, text, color=MUTED, fontsize=8, rotation=rotation, ha="center")
        for index, (name, style) in enumerate(forecaster_styles(overall).items()):
            shift = 0.012 * (index - (len(overall) - 1) / 2.0)
            levels = {b / 100 + shift: overall[name].get(f"coverage_{b}") for b in (50, 80, 90)}
            _draw_estimates(axes, levels, label=name, **style)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xticks([0, 0.5, 0.8, 0.9, 1.0], ["0", "50 %", "80 %", "90 %  ", ""])
        percent_axis(axes, "outcomes inside the interval")
        axes.set_xlabel("nominal level of the interval")
        draw_legend(figure, axes.get_legend_handles_labels()[0], narrow=narrow)
    return figure


def plot_losses(
    curves: Sequence[Curve], *, name: str, unit: str = "nats per token", narrow: bool = False
) -> Figure:
    """Validation loss against training tokens, one line per run.

    Args:
        curves: at most `MAX_PANELS` runs; darker lines are larger models.
        name: the validation set.
        unit: unit of the losses.
        narrow: the phone layout.
    """
    curves = sorted(curves, key=lambda curve: curve.params)[:MAX_PANELS]
    every = np.concatenate([curve.values for curve in curves])
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.75, 3.8)
        axes = figure.add_subplot()
        for curve, color in zip(curves, size_colors([c.params for c in curves]), strict=True):
            keep = kept_points(len(curve.tokens))
            axes.plot(curve.tokens[keep], curve.values[keep], color=color, lw=1.5, label=curve.run)
        if every.max() > 4.0 * every.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(axis="y", which="minor", length=0)
        token_axis(axes, log=_spans_decades(curves))
        axes.set_xlabel("training tokens")
        axes.set_ylabel(f"loss ({unit})")
        axes.set_title(name)
        draw_legend(figure, axes.get_legend_handles_labels()[0], narrow=narrow)
    return figure


def plot_above_chance(panels: Sequence[TaskPanel], *, narrow: bool = False) -> Figure:
    """Accuracy above chance over training tokens, one panel per task and one line per run."""
    panels = panels[: 6 if narrow else MAX_PANELS]
    sizes: dict[str, float] = {c.run: c.params for panel in panels for c in panel.curves}
    runs = sorted(sizes, key=lambda run: (sizes[run], run))
    colors = dict(zip(runs, size_colors([sizes[run] for run in runs]), strict=True))
    log = _spans_decades([curve for panel in panels for curve in panel.curves])
    with figure_style():
        figure, grid = panel_grid(
            len(panels), narrow=narrow, columns=4, row_inches=1.9,
            label="accuracy above chance (points)",
        )  # fmt: skip
        for panel, axes in zip(panels, grid, strict=True):
            for curve in panel.curves:
                keep = kept_points(len(curve.tokens))
                values = curve.values[keep] - (panel.chance or 0.0)
                axes.plot(curve.tokens[keep], values, color=colors[curve.run], lw=1.3)
            if panel.chance is not None:
                axes.axhline(0.0, **CHANCE)
            title = shorten(panel.title, 28)
            axes.set_title(title if panel.chance is not None else f"{title} (absolute)")
            token_axis(axes, log=log)
            percent_axis(axes, points=True)
        handles = [
            Line2D([], [], color=colors[run], lw=2.5, label=f"{run} ({format_count(sizes[run])})")
            for run in runs
        ]
        draw_legend(figure, handles, narrow=narrow)
    return figure


def _draw_panel(axes: Axes, panel: ForecastPanel, styles: Mapping[str, Mapping[str, Any]]) -> None:
    end, value = float(panel.context_tokens[-1]), float(panel.context_values[-1])
    keep, seen = kept_points(len(panel.target_tokens)), kept_points(len(panel.context_tokens))
    tokens = panel.target_tokens[keep]
    axes.axvline(end, color=FAINT, lw=1.2, zorder=0)
    for name, levels in panel.forecasts.items():
        thinned = {level: values[keep] for level, values in levels.items()}
        draw_forecast(axes, (end, value), tokens, thinned, **styles[name])
    observed = panel.context_tokens[seen], panel.context_values[seen]
    axes.plot(*observed, color=TRUTH, marker="o", ms=3, lw=1)
    axes.plot(
        tokens, panel.target_values[keep], color=TRUTH, ls="none", marker="o", ms=2.6,
        mfc="white", mew=0.8, zorder=3,
    )  # fmt: skip
    axes.set_title("\n".join(shorten(line, 36) for line in panel.title.split("\n")))
    token_axis(axes, log=end < 0.05 * float(tokens[-1]))
    score_axis(axes, panel.unit)
    low, high = axes.get_ylim()
    if high - low < 0.04:
        low, high = (low + high) / 2 - 0.02, (low + high) / 2 + 0.02
    if panel.chance is not None:
        low, high = _draw_chance(axes, panel.chance, low, high)
    axes.set_ylim(low, high)


def _draw_chance(axes: Axes, chance: float, low: float, high: float) -> tuple[float, float]:
    """Draws the chance line, or says where it is when it would squeeze the data; new limits."""
    margin = 0.6 * (high - low)
    if low - margin <= chance <= high + margin:
        axes.axhline(chance, zorder=1, **CHANCE)
        pad = 0.04 * (high - low)
        return min(low, chance - pad), max(high, chance + pad)
    below = chance < low
    axes.text(
        0.98, 0.03 if below else 0.97, f"{'↓' if below else '↑'} chance {100 * chance:.3g} %",
        transform=axes.transAxes, ha="right", va="bottom" if below else "top",
        color=MUTED, fontsize=7.5,
    )  # fmt: skip
    return low, high


def _draw_estimates(axes: Axes, scores: Mapping[float, Any], **style: Any) -> None:
    """A line through estimates {x: {value, low, high} or None}, with their intervals as bars."""
    known = {x: score for x, score in scores.items() if score is not None}
    if known:
        value, low, high = (
            np.array([score[key] for score in known.values()], dtype=float)
            for key in ("value", "low", "high")
        )
        error = np.abs([value - low, high - value])
        axes.errorbar(list(known), value, error, marker="o", ms=4, elinewidth=1, **style)


def _spans_decades(curves: Sequence[Curve]) -> bool:
    tokens = np.concatenate([curve.tokens for curve in curves])
    return bool(tokens.max() > 50.0 * tokens[tokens > 0].min())
