"""Figures of answers for papers: trajectories with intervals, and the ranking."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from neuneu.core.formatting import percent
from neuneu.data.scales import PERCENT
from neuneu.reports.answers.curves import LEVELS, Curve, read_curves, row_key
from neuneu.reports.answers.phrasing import task_name
from neuneu.reports.answers.runs import labels, task_labels
from neuneu.reports.answers.tables import Row, unit_of
from neuneu.reports.folder import FIGURES_FOLDER, read_folder
from neuneu.reports.style import (
    CHANCE,
    MAX_PANELS,
    MUTED,
    PALETTE,
    WIDE_INCHES,
    draw_forecast,
    draw_legend,
    figure_style,
    kept_points,
    new_figure,
    panel_grid,
    save_figure,
    score_axis,
    shorten,
    token_axis,
)

MAX_RUNS: Final = 30
"""Maximum number of runs in the ranking."""

CROWDED: Final = 2
"""With more runs than this in a panel, only 80 % intervals are drawn, or nothing can be seen."""


def write_answer_figures(folder: Path) -> list[Path]:
    """Draws what the answers of a folder allow into folder/figures, as SVG and PNG.

    `forecast` has a panel per task (the first twelve) with the runs that are expected to end
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
    """Small multiples: a panel per task, a colour per run, 50 and 80 % intervals.

    Args:
        rows: of a forecast's answer.
        curves: by `row_key`.
    """
    panels: dict[str, dict[str, Row]] = {}
    for row, run, task in zip(rows, labels("forecast", rows), task_labels(rows), strict=True):
        if row_key(row) in curves:
            panels.setdefault(task, {})[run] = row
    chosen = dict(list(panels.items())[:MAX_PANELS])
    colors = dict(zip(_highest(chosen.values()), PALETTE, strict=False))
    height = 3.2 if len(chosen) == 1 else 2.15
    any_crowded = any(len(members.keys() & colors.keys()) > CROWDED for members in chosen.values())
    with figure_style():
        figure, grid = panel_grid(
            len(chosen), narrow=False, columns=3, row_inches=height,
            label=_score_label([row for members in chosen.values() for row in members.values()]),
        )  # fmt: skip
        for (task, members), axes in zip(chosen.items(), grid, strict=True):
            shown = {run: curves[row_key(row)] for run, row in members.items() if run in colors}
            for run, curve in shown.items():
                seen, ahead = kept_points(len(curve.tokens)), kept_points(len(curve.grid))
                observed = curve.tokens[seen], curve.values[seen]
                axes.plot(*observed, color=colors[run], marker="o", ms=2.2, lw=0.8)
                draw_forecast(
                    axes, (curve.tokens[-1:], curve.values[-1:]), curve.grid[ahead],
                    dict(zip(LEVELS.values(), curve.quantiles[ahead].T, strict=True)),
                    crowded=len(shown) > CROWDED, color=colors[run],
                )  # fmt: skip
            chance = next(iter(members.values())).get("chance")
            if chance is not None:
                axes.axhline(chance, zorder=1, **CHANCE)
            axes.set_title(shorten(task, 36))
            far = any((curve.tokens[-1:] < 0.05 * curve.grid[-1]).all() for curve in shown.values())
            token_axis(axes, log=far)
            score_axis(axes, unit_of(next(iter(members.values()))))
        label = "80 % interval" if any_crowded else "50 and 80 % intervals"
        handles: list[Any] = [
            *(Line2D([], [], color=c, lw=1.8, label=shorten(run, 40)) for run, c in colors.items()),
            Line2D([], [], color=MUTED, marker="o", ms=3, lw=0.8, label="observed"),
            Patch(color=MUTED, alpha=0.3, lw=0, label=label),
        ]
        if any(row.get("chance") is not None for row in rows):
            handles.append(Line2D([], [], label="chance", **CHANCE))
        draw_legend(figure, handles, narrow=False)
    return figure


def plot_ranking(rows: Sequence[Row]) -> Figure:
    """Runs by rank: median and 80 % interval at the end, the score now, and the probability of
    being best.

    Args:
        rows: of a ranking's answer.
    """
    rows = rows[:MAX_RUNS]
    positions = np.arange(len(rows))
    low, middle, high, now = (
        np.array([row[key] for row in rows], dtype=np.float64)
        for key in ("q0.1", "q0.5", "q0.9", "present")
    )
    dot: dict[str, Any] = {"marker": "o", "ls": "none", "ms": 5}
    with figure_style():
        figure = new_figure(WIDE_INCHES * 0.75, 0.9 + 0.26 * len(rows))
        axes = figure.add_subplot()
        axes.hlines(positions, low, high, color=PALETTE[0], lw=4, alpha=0.3, label="80 % interval")
        axes.plot(now, positions, mfc="white", color=MUTED, label="now", **dot)
        axes.plot(middle, positions, color=PALETTE[0], label="expected at the end", **dot)
        texts = [(-0.9, "is best"), *enumerate(percent(row["best"]) for row in rows)]
        for position, text in texts:
            axes.annotate(
                text, (1.0, position), xycoords=("axes fraction", "data"), xytext=(8, 0),
                textcoords="offset points", va="center", annotation_clip=False,
            )  # fmt: skip
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(positions, [shorten(row["run"], 40) for row in rows])
        axes.grid(visible=True, axis="x")
        unit = unit_of(rows[0])
        what = _score_label(rows)
        factor, mark = (100, " %") if unit == PERCENT else (1, "")
        axes.xaxis.set_major_formatter(lambda value, _: f"{factor * value:.3g}{mark}")
        axes.set_xlabel(f"{what} on {shorten(task_name(rows[0]), 50)}")
        draw_legend(figure, axes.get_legend_handles_labels()[0], narrow=False)
    return figure


def _score_label(rows: Sequence[Row]) -> str:
    """What an axis shows: accuracy, or the units of other metrics, else their names."""
    found = {(unit_of(row), str(row.get("metric", "score"))) for row in rows}
    return ", ".join(sorted({
        "accuracy" if unit == PERCENT else unit or metric for unit, metric in found
    }))  # fmt: skip


def _highest(panels: Any) -> list[str]:
    """Runs, those on most tasks first, then those that are expected to end best."""
    ends: dict[str, list[float]] = {}
    for members in panels:
        for run, row in members.items():
            better = -1.0 if row.get("higher_is_better") is False else 1.0
            ends.setdefault(run, []).append(better * row["q0.5"])
    return sorted(ends, key=lambda run: (-len(ends[run]), -float(np.mean(ends[run])), run))
