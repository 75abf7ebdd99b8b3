"""Parallel coordinates: a line a trial through its parameters to what it reached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuneu.reports.style import INK, MUTED, NARROW_INCHES, WIDE_INCHES, figure_style, new_figure
from neuneu.reports.tuning.analysis import Analysis
from neuneu.reports.tuning.results import Dimension
from neuneu.reports.tuning.words import labels, number, parameter, unit_place

_MOST: Final = 10
"""More parameters than this do not fit; those that matter least are left out."""

_WIDEST: Final = 12
"""Characters that fit beside an axis."""

_OTHERS: Final = "#cfcfcf"


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """One axis: its name, and its ticks as (place from 0 to 1, text)."""

    name: str
    ticks: tuple[tuple[float, str], ...]


def plot_parallel(analysis: Analysis, *, narrow: bool = False) -> Figure:
    """Parameters in their ranges, then the main objective at the epoch compared; dark is better.

    Trials without a value at that epoch are grey and end before the objective. The narrow layout
    runs downwards.
    """
    dimensions = _shown(analysis)
    names = labels([d.key for d in analysis.results.plan.space])
    values, title = _values(analysis)
    loss = analysis.main.loss
    worst, best = max(values.values(), key=loss), min(values.values(), key=loss)
    middle = (worst + best) / 2
    scales = [_scale(d, names[d.key]) for d in dimensions]
    scales.append(
        _Scale(
            name=title, ticks=((0.0, number(worst)), (0.5, number(middle)), (1.0, number(best)))
        )
    )  # fmt: skip
    order = sorted(values, key=lambda trial: -loss(values[trial]))
    colors = matplotlib.colormaps["viridis_r"]
    with figure_style():
        height = 0.75 * len(scales) + 0.6 if narrow else 3.8
        figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES, height)
        axes = figure.add_subplot()
        for trial in analysis.results.trials:
            places = [unit_place(d, trial.parameters.get(d.key)) for d in dimensions]
            value = values.get(trial.id)
            if value is None:
                style: dict[str, Any] = {"color": _OTHERS, "lw": 0.8, "zorder": 1}
            else:
                places.append((worst - value) / (worst - best) if worst != best else 1.0)
                place = order.index(trial.id) / max(len(order) - 1, 1)
                style = {"color": colors(0.12 + 0.85 * place), "lw": 0.9 + 1.3 * place**4}
                style |= {"alpha": 0.85, "zorder": 2 + place}
            _line(axes, places, style, narrow=narrow)
        for at, scale in enumerate(scales):
            _draw_scale(axes, at, scale, narrow=narrow)
        _clear(axes, len(scales), narrow=narrow)
    return figure


def _shown(analysis: Analysis) -> list[Dimension]:
    shares = analysis.importance.shares
    space = sorted(analysis.results.plan.space, key=lambda d: -shares.get(d.key, 0.0))
    return space[:_MOST]


def _values(analysis: Analysis) -> tuple[dict[str, float], str]:
    words = analysis.main.words
    if analysis.compared is not None:
        return dict(analysis.compared.values), f"{words}\nafter epoch {analysis.compared.epoch}"
    ranked = analysis.finished or analysis.ranked[analysis.main.metric]
    return {s.trial.id: s.values[analysis.main.metric] for s in ranked}, words


def _scale(dimension: Dimension, name: str) -> _Scale:
    if dimension.kind == "choice":
        n = len(dimension.values)
        ticks = tuple(((i + 0.5) / n, _choice(v)) for i, v in enumerate(dimension.values))
    else:
        ends = [(0.0, dimension.low), (1.0, dimension.high)]
        ticks = tuple((place, number(end)) for place, end in ends)
    return _Scale(name=name.replace(".", ".\n"), ticks=ticks)


def _choice(value: Any) -> str:
    """A choice beside its axis; what would reach into the next axis is told by its length."""
    text = parameter(value)
    long = isinstance(value, list | tuple) and len(text) > _WIDEST
    return f"{len(value)} values" if long else text


def _line(
    axes: Axes, places: Sequence[float | None], style: dict[str, Any], *, narrow: bool
) -> None:
    across = list(range(len(places)))
    along = [float("nan") if place is None else place for place in places]
    axes.plot(*((along, across) if narrow else (across, along)), **style)


def _draw_scale(axes: Axes, at: int, scale: _Scale, *, narrow: bool) -> None:
    if narrow:
        axes.plot([0, 1], [at, at], color=MUTED, lw=0.8, zorder=8)
        axes.annotate(
            scale.name.replace("\n", " " if " " in scale.name else ""), (0, at), xytext=(0, 5),
            textcoords="offset points", fontsize=8, color=INK, zorder=9,
            bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.6},
        )  # fmt: skip
    else:
        axes.plot([at, at], [0, 1], color=MUTED, lw=0.8, zorder=8)
        axes.annotate(
            scale.name, (at, 1), xytext=(0, 16), textcoords="offset points", ha="center",
            va="bottom", fontsize=8, color=INK, annotation_clip=False,
        )  # fmt: skip
    for place, text in scale.ticks:
        end = 2 * place - 1
        axes.annotate(
            text,
            (place, at) if narrow else (at, place),
            xytext=(-6 * end if abs(end) == 1 else 0, -4) if narrow else (4, 5 * end),
            textcoords="offset points",
            ha="center" if narrow else "left",
            va="top" if narrow else "center",
            fontsize=7.5,
            color=MUTED,
            zorder=9,
            annotation_clip=False,
            bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
        )


def _clear(axes: Axes, scales: int, *, narrow: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    along, across = (axes.set_xlim, axes.set_ylim) if narrow else (axes.set_ylim, axes.set_xlim)
    along(-0.04, 1.04)
    if narrow:
        across(scales - 0.55, -0.55)
    else:
        across(-0.4, scales - 0.45)
