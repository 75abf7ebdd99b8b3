"""Figures of answers for papers: trajectories with bands, and the ranking, as PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuneu.core.formatting import percent
from neuneu.reports.answers.curves import LEVELS, Curve, read_curves, row_key
from neuneu.reports.answers.phrasing import task_name
from neuneu.reports.answers.runs import labels, task_labels
from neuneu.reports.answers.tables import Row
from neuneu.reports.folder import FIGURES_FOLDER, read_folder
from neuneu.reports.style import (
    INK,
    MAX_PANELS,
    MUTED,
    PALETTE,
    WIDE_INCHES,
    draw_legend,
    figure_style,
    new_figure,
    panel_grid,
    percent_axis,
    save_figure,
    shorten,
    token_axis,
)
from neuneu.reports.thinning import kept_points

MAX_RUNS: Final = 30
"""Runs in the ranking."""

CROWDED: Final = 2
"""With more runs than this in a panel, only the 80 % bands are drawn: six would be mud."""


def write_answer_figures(folder: Path) -> list[Path]:
    """Draws what the answers of a folder allow into folder/figures.

    `forecast` has a panel a task (the first twelve) with the runs that are expected to end
    highest (at most six); `ranking` the first thirty runs.

    Returns:
        The files written.

    Raises:
        UserError: a file that neuneu did not write.
    """
    found = read_folder(folder)
    figures: dict[str, Figure] = {}
    if found.forecasts is not None and found.observed is not None:
        curves = read_curves(found.forecasts, found.observed)
        figures["forecast"] = plot_forecast(found.answers["forecast"].rows, curves)
    if "rank" in found.answers:
        figures["ranking"] = plot_ranking(found.answers["rank"].rows)
    written = []
    for name, figure in figures.items():
        for suffix in (".svg", ".png"):
            path = folder / FIGURES_FOLDER / f"{name}{suffix}"
            save_figure(figure, path)
            written.append(path)
    return written


def plot_forecast(rows: Sequence[Row], curves: Mapping[Any, Curve]) -> Figure:
    """Small multiples: a panel a task, a colour a run, 50 and 80 % bands.

    Args:
        rows: of a forecast's answer.
        curves: by `row_key`.
    """
    panels: dict[str, list[tuple[str, Row]]] = {}
    for row, run, task in zip(rows, labels("forecast", rows), task_labels(rows), strict=True):
        if row_key(row) in curves:
            panels.setdefault(task, []).append((run, row))
    chosen = dict(list(panels.items())[:MAX_PANELS])
    colors = dict(zip(_highest(chosen), PALETTE, strict=False))
    height = 3.2 if len(chosen) == 1 else 2.15
    with figure_style():
        figure, grid = panel_grid(len(chosen), narrow=False, columns=3, row_inches=height)
        for (task, members), axes in zip(chosen.items(), grid, strict=True):
            shown = {run: curves[row_key(row)] for run, row in members if run in colors}
            for run, curve in shown.items():
                _draw_curve(axes, curve, colors[run], crowded=len(shown) > CROWDED)
            chance = members[0][1].get("chance")
            if chance is not None:
                axes.axhline(chance, color=MUTED, lw=0.9, ls=(0, (2, 2)), zorder=1)
            axes.set_title(shorten(task, 36))
            token_axis(axes, log=any(_is_far(curve) for curve in shown.values()), label=None)
            percent_axis(axes, None)
        figure.supylabel("accuracy", fontsize=9, color=INK)
        figure.supxlabel("training tokens", fontsize=9, color=INK)
        crowded = any(sum(run in colors for run, _ in m) > CROWDED for m in chosen.values())
        draw_legend(figure, _handles(colors, rows, crowded=crowded), narrow=False)
    return figure


def plot_ranking(rows: Sequence[Row]) -> Figure:
    """Runs by rank: the median and the 80 % band at the end, the present, and the probability of
    being the best.

    Args:
        rows: of a ranking's answer.
    """
    rows = rows[:MAX_RUNS]
    places = np.arange(len(rows))
    with figure_style():
        figure = new_figure(WIDE_INCHES * 0.75, 0.9 + 0.26 * len(rows))
        axes = figure.add_subplot()
        for place, row in zip(places, rows, strict=True):
            axes.plot([row["q0.1"], row["q0.9"]], [place, place], color=PALETTE[0], lw=4, alpha=0.3)
            axes.plot(row["present"], place, marker="o", ms=5, mfc="white", color=MUTED)
            axes.plot(row["q0.5"], place, marker="o", ms=5, color=PALETTE[0])
            axes.annotate(
                percent(row["best"]), (1.0, place), xycoords=("axes fraction", "data"),
                xytext=(8, 0), textcoords="offset points", va="center", annotation_clip=False,
            )  # fmt: skip
        axes.annotate(
            "is the best", (1.0, -0.9), xycoords=("axes fraction", "data"), xytext=(8, 0),
            textcoords="offset points", va="center", color=MUTED, annotation_clip=False,
        )  # fmt: skip
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(places, [shorten(row["run"], 40) for row in rows])
        axes.grid(visible=True, axis="x")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.set_xlabel(f"accuracy on {shorten(task_name(rows[0]), 50)}")
        handles = [
            Line2D([], [], color=PALETTE[0], marker="o", ls="none", label="expected at the end"),
            Patch(color=PALETTE[0], alpha=0.3, lw=0, label="80 % band"),
            Line2D([], [], color=MUTED, marker="o", mfc="white", ls="none", label="now"),
        ]
        draw_legend(figure, handles, narrow=False)
    return figure


def _highest(panels: Mapping[str, Sequence[tuple[str, Row]]]) -> list[str]:
    """Runs, first those on most of the tasks, then those that are expected to end highest."""
    ends: dict[str, list[float]] = {}
    for members in panels.values():
        for run, row in members:
            ends.setdefault(run, []).append(row["q0.5"])
    return sorted(ends, key=lambda run: (-len(ends[run]), -float(np.mean(ends[run])), run))


def _draw_curve(axes: Axes, curve: Curve, color: str, *, crowded: bool) -> None:
    seen, ahead = kept_points(len(curve.tokens)), kept_points(len(curve.places))
    axes.plot(curve.tokens[seen], curve.values[seen], color=color, marker="o", ms=2.2, lw=0.8)
    # Forecasts start where observation ends, so that the eye can follow one line.
    tokens = np.append(curve.tokens[-1], curve.places[ahead])
    levels = np.vstack([np.full(len(LEVELS), curve.values[-1]), curve.quantiles[ahead]]).T
    low, inner_low, middle, inner_high, high = levels
    bands = ((low, high, 0.09),) if crowded else ((low, high, 0.16), (inner_low, inner_high, 0.28))
    for bottom, top, alpha in bands:
        if not np.isnan(bottom + top).any():
            axes.fill_between(tokens, bottom, top, color=color, alpha=alpha, lw=0)
    axes.plot(tokens, middle, color=color)


def _is_far(curve: Curve) -> bool:
    return bool(curve.tokens[-1] < 0.05 * curve.places[-1])


def _handles(colors: Mapping[str, str], rows: Sequence[Row], *, crowded: bool) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=color, lw=1.8, label=shorten(run, 40)) for run, color in colors.items()
    ]
    handles.append(Line2D([], [], color=MUTED, marker="o", ms=3, lw=0.8, label="observed"))
    handles.append(
        Patch(color=MUTED, alpha=0.3, lw=0, label="80 % band" if crowded else "50 and 80 % bands")
    )
    if any(row.get("chance") is not None for row in rows):
        handles.append(Line2D([], [], color=MUTED, lw=0.9, ls=(0, (2, 2)), label="chance"))
    return handles
