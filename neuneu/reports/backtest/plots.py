"""Figures of forecasts: each function returns one matplotlib figure, saved elsewhere.

Every figure has a wide layout and a narrow one (one column, for a phone).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuneu.data.trajectories import FloatArray
from neuneu.reports.style import (
    FAINT,
    INK,
    MAX_PANELS,
    MUTED,
    NARROW_INCHES,
    TRUTH,
    WIDE_INCHES,
    draw_legend,
    figure_style,
    forecaster_colors,
    forecaster_dash,
    label_line_ends,
    new_figure,
    panel_grid,
    percent_axis,
    shorten,
    token_axis,
)
from neuneu.reports.thinning import kept_points


@dataclass(frozen=True, kw_only=True, eq=False)
class ForecastPanel:
    """One trajectory with its forecasts: k context points, h targets.

    `forecasts` maps a forecaster to {level: (h,) accuracies}; one with more than the median
    gets bands.
    """

    title: str
    context_tokens: FloatArray
    context_values: FloatArray
    target_tokens: FloatArray
    target_values: FloatArray
    forecasts: Mapping[str, Mapping[float, FloatArray]]
    chance: float | None = None


def plot_trajectories(panels: Sequence[ForecastPanel], *, narrow: bool = False) -> Figure:
    """Small multiples: observed context, what came after, and what each forecaster said."""
    panels = panels[: 6 if narrow else MAX_PANELS]
    names = list(dict.fromkeys(name for panel in panels for name in panel.forecasts))
    colors = forecaster_colors(names)
    with figure_style():
        figure, grid = panel_grid(len(panels), narrow=narrow, columns=3, row_inches=2.15)
        for panel, axes in zip(panels, grid, strict=True):
            _draw_forecast_panel(axes, panel, colors)
        figure.supylabel("accuracy", fontsize=9, color=INK)
        figure.supxlabel("training tokens", fontsize=9, color=INK)
        draw_legend(figure, _forecast_handles(panels, names, colors), narrow=narrow)
    return figure


def plot_horizon(by_forecaster: Mapping[str, Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Mean absolute error by target tokens / context tokens, with 95 % intervals.

    Args:
        by_forecaster: forecaster -> the `by_horizon` section of its summary.
        narrow: the phone layout.
    """
    names = list(by_forecaster)
    colors = forecaster_colors(names)
    bins = list(dict.fromkeys(label for name in names for label in by_forecaster[name]))
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES * 0.75, 3.4)
        axes = figure.add_subplot()
        ends = []
        for index, name in enumerate(names):
            offset = 0.08 * (index - (len(names) - 1) / 2.0)
            points = [
                (bins.index(label) + offset, scores["mae"])
                for label, scores in by_forecaster[name].items()
                if scores["mae"] is not None
            ]
            if not points:
                continue
            x = np.array([at for at, _ in points])
            y = np.array([score["value"] for _, score in points])
            axes.plot(x, y, color=colors[name], ls=forecaster_dash(name), marker="o", ms=4)
            for at, score in points:
                if score["low"] is not None:
                    axes.plot(
                        [at, at], [score["low"], score["high"]], color=colors[name], lw=1, alpha=0.7
                    )
            ends.append((x[-1], y[-1], name, colors[name]))
        counts = {
            label: s["n_trajectories"] for n in names for label, s in by_forecaster[n].items()
        }
        axes.set_xticks(
            range(len(bins)),
            [_times(label) + ("" if narrow else f"\nn = {counts[label]:,}") for label in bins],
        )
        if narrow:
            axes.tick_params(axis="x", rotation=60)
        axes.set_xlim(-0.4, len(bins) - 0.7)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel(
            "how far ahead: target tokens / tokens at the end of the context (n trajectories)"
        )
        percent_axis(axes, "mean absolute error (points)", points=True)
        if narrow:
            axes.set_xlabel("target tokens / context tokens")
            draw_legend(
                figure,
                [
                    Line2D([], [], color=colors[name], ls=forecaster_dash(name), label=name)
                    for name in names
                ],
                narrow=True,
            )
        else:
            label_line_ends(axes, ends)
    return figure


def plot_coverage(overall: Mapping[str, Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Share of outcomes inside the 50, 80 and 90 % bands against what the bands promise.

    Args:
        overall: forecaster with bands -> the `overall` section of its summary.
        narrow: the phone layout.
    """
    colors = forecaster_colors(list(overall))
    with figure_style():
        figure = new_figure(NARROW_INCHES if narrow else 4.6, NARROW_INCHES if narrow else 4.2)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (3, 3)))
        axes.text(0.3, 0.33, "as promised", color=MUTED, fontsize=8, rotation=45, ha="center")
        axes.text(0.72, 0.36, "bands too narrow", color=MUTED, fontsize=8, ha="center")
        axes.text(0.22, 0.78, "bands too wide", color=MUTED, fontsize=8, ha="center")
        ends = []
        for index, (name, scores) in enumerate(overall.items()):
            shift = 0.012 * (index - (len(overall) - 1) / 2.0)
            bands = [(b, scores.get(f"coverage_{b}")) for b in (50, 80, 90)]
            known = [(b / 100 + shift, score) for b, score in bands if score is not None]
            if not known:
                continue
            x = [at for at, _ in known]
            y = [score["value"] for _, score in known]
            axes.plot(x, y, color=colors[name], marker="o", ms=5, lw=1.2)
            for at, score in known:
                if score["low"] is not None:
                    axes.plot([at, at], [score["low"], score["high"]], color=colors[name], lw=1)
            ends.append((x[-1], y[-1], name, colors[name]))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xticks([0, 0.5, 0.8, 0.9, 1.0], ["0", "50 %", "80 %", "90 %  ", ""])
        percent_axis(axes, "outcomes inside the band")
        axes.set_xlabel("what the band promises")
        if len(ends) == 1:
            axes.set_title(ends[0][2], color=ends[0][3])
        else:
            draw_legend(
                figure,
                [Line2D([], [], color=color, marker="o", label=name) for *_, name, color in ends],
                narrow=narrow,
            )
    return figure


def _draw_forecast_panel(axes: Axes, panel: ForecastPanel, colors: Mapping[str, str]) -> None:
    end = float(panel.context_tokens[-1])
    axes.axvline(end, color=FAINT, lw=1.2, zorder=0)
    keep = kept_points(len(panel.target_tokens))
    tokens = panel.target_tokens[keep]
    # Forecasts start where observation ends, so that the eye can follow one line.
    origin = np.array([end]), np.array([panel.context_values[-1]])
    for name, levels in panel.forecasts.items():
        for low, high, alpha in ((0.1, 0.9, 0.16), (0.25, 0.75, 0.28)):
            if low in levels and high in levels:
                axes.fill_between(
                    np.append(origin[0], tokens),
                    np.append(origin[1], levels[low][keep]),
                    np.append(origin[1], levels[high][keep]),
                    color=colors[name],
                    alpha=alpha,
                    lw=0,
                    zorder=2,
                )
        axes.plot(
            np.append(origin[0], tokens),
            np.append(origin[1], levels[0.5][keep]),
            color=colors[name],
            ls=forecaster_dash(name),
            zorder=4,
        )
    seen = kept_points(len(panel.context_tokens))
    axes.plot(
        panel.context_tokens[seen], panel.context_values[seen], color=TRUTH, marker="o", ms=3, lw=1
    )
    axes.plot(
        tokens, panel.target_values[keep], color=TRUTH, ls="none", marker="o", ms=2.6,
        mfc="white", mew=0.8, zorder=3,
    )  # fmt: skip
    axes.set_title("\n".join(shorten(line, 36) for line in panel.title.split("\n")))
    token_axis(axes, log=end < 0.05 * float(tokens[-1]), label=None)
    percent_axis(axes, None)
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
        axes.axhline(chance, color=MUTED, lw=0.9, ls=(0, (2, 2)), zorder=1)
        pad = 0.04 * (high - low)
        return min(low, chance - pad), max(high, chance + pad)
    below = chance < low
    axes.text(
        0.98, 0.03 if below else 0.97, f"{'↓' if below else '↑'} chance {100 * chance:.3g} %",
        transform=axes.transAxes, ha="right", va="bottom" if below else "top",
        color=MUTED, fontsize=7.5,
    )  # fmt: skip
    return low, high


def _forecast_handles(
    panels: Sequence[ForecastPanel], names: Sequence[str], colors: Mapping[str, str]
) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=TRUTH, marker="o", ms=4, lw=1, label="observed"),
        Line2D([], [], color=FAINT, lw=2, label="end of context"),
        Line2D([], [], color=TRUTH, marker="o", ms=4, mfc="white", ls="none", label="outcome"),
    ]
    for name in names:
        handles.append(
            Line2D([], [], color=colors[name], ls=forecaster_dash(name), lw=1.8, label=name)
        )
        if any(0.1 in panel.forecasts.get(name, {}) for panel in panels):
            handles.append(Patch(color=colors[name], alpha=0.3, lw=0, label="50 and 80 % bands"))
    if any(panel.chance is not None for panel in panels):
        handles.append(Line2D([], [], color=MUTED, lw=0.9, ls=(0, (2, 2)), label="chance"))
    return handles


def _times(label: str) -> str:
    return label.replace("-", "–") + "×"
