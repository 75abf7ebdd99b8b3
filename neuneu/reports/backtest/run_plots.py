"""Figures of the runs themselves: their losses, and their accuracies above chance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from neuneu.core.formatting import format_count
from neuneu.data.trajectories import FloatArray
from neuneu.reports.style import (
    INK,
    MAX_PANELS,
    MUTED,
    NARROW_INCHES,
    WIDE_INCHES,
    draw_legend,
    figure_style,
    label_line_ends,
    new_figure,
    panel_grid,
    percent_axis,
    shorten,
    size_colors,
    token_axis,
)
from neuneu.reports.thinning import kept_points


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


def plot_losses(
    curves: Sequence[Curve], *, name: str, unit: str = "nats a token", narrow: bool = False
) -> Figure:
    """Validation loss against training tokens, a line a run, labelled at its end.

    Args:
        curves: at most `MAX_PANELS` runs; darker lines are larger models.
        name: the validation set.
        unit: unit of the losses.
        narrow: the phone layout.
    """
    curves = sorted(curves, key=lambda curve: curve.params)[:MAX_PANELS]
    colors = size_colors([curve.params for curve in curves])
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.75, 3.8)
        axes = figure.add_subplot()
        ends = []
        for curve, color in zip(curves, colors, strict=True):
            tokens, values = _thin(curve.tokens, curve.values)
            axes.plot(tokens, values, color=color, lw=1.5)
            ends.append((float(tokens[-1]), float(values[-1]), curve.run, None))
        every = np.concatenate([curve.values for curve in curves])
        low, high = float(every.min()), float(every.max())
        if high > 4.0 * low:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.tick_params(axis="y", which="minor", length=0)
        token_axis(axes, log=_spans_decades(curves))
        axes.set_ylabel(f"loss ({unit})")
        axes.set_title(name)
        if narrow:
            draw_legend(figure, _run_handles(curves, colors), narrow=True)
        else:
            label_line_ends(axes, ends)
    return figure


def plot_above_chance(panels: Sequence[TaskPanel], *, narrow: bool = False) -> Figure:
    """Accuracy above chance over training tokens, a panel a task and a line a run."""
    panels = panels[: 6 if narrow else MAX_PANELS]
    sizes: dict[str, float] = {c.run: c.params for panel in panels for c in panel.curves}
    runs = sorted(sizes, key=lambda run: (sizes[run], run))
    colors = dict(zip(runs, size_colors([sizes[run] for run in runs]), strict=True))
    log = _spans_decades([curve for panel in panels for curve in panel.curves])
    with figure_style():
        figure, grid = panel_grid(len(panels), narrow=narrow, columns=4, row_inches=1.9)
        for panel, axes in zip(panels, grid, strict=True):
            for curve in panel.curves:
                tokens, values = _thin(curve.tokens, curve.values)
                axes.plot(tokens, values - (panel.chance or 0.0), color=colors[curve.run], lw=1.3)
            if panel.chance is not None:
                axes.axhline(0.0, color=MUTED, lw=0.9, ls=(0, (2, 2)))
            title = shorten(panel.title, 28)
            axes.set_title(title if panel.chance is not None else f"{title} (absolute)")
            token_axis(axes, log=log, label=None)
            percent_axis(axes, None, points=True)
        figure.supylabel("accuracy above chance (points)", fontsize=9, color=INK)
        figure.supxlabel("training tokens", fontsize=9, color=INK)
        handles = [
            Line2D([], [], color=colors[run], lw=2.5, label=f"{run} ({format_count(sizes[run])})")
            for run in runs
        ]
        draw_legend(figure, handles, narrow=narrow)
    return figure


def _run_handles(curves: Sequence[Curve], colors: Sequence[Any]) -> list[Line2D]:
    return [
        Line2D([], [], color=color, lw=2.5, label=curve.run)
        for curve, color in zip(curves, colors, strict=True)
    ]


def _thin(tokens: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    keep = kept_points(len(tokens))
    return tokens[keep], values[keep]


def _spans_decades(curves: Sequence[Curve]) -> bool:
    tokens = np.concatenate([curve.tokens for curve in curves])
    return bool(tokens.max() > 50.0 * tokens[tokens > 0].min())
