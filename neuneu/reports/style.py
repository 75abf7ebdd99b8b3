"""How figures look: palette, units on axes, direct labels, and saving without pyplot."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from neuneu.core.errors import UserError
from neuneu.core.files import atomic_path
from neuneu.core.formatting import format_count

INK: Final = "#222222"
MUTED: Final = "#666666"
FAINT: Final = "#d9d9d9"
TRUTH: Final = "#111111"

PALETTE: Final = ("#0072b2", "#c44e00", "#00795a", "#9b4f96", "#8a6d00", "#3a8fb7")
"""Okabe and Ito's hues, darkened until text in them reads on white (contrast above 4.5)."""

_FIXED: Final = {"persistence": MUTED, "power-law": PALETTE[1], "logistic-law": PALETTE[3]}
_DASHES: Final = {"persistence": (0, (4, 2)), "power-law": (0, (1, 1)), "logistic-law": (0, (6, 1))}
SOLID: Final = "-"

WIDE_INCHES: Final = 9.6
NARROW_INCHES: Final = 3.7

MAX_PANELS: Final = 12

_STYLE: Final = Path(__file__).parent / "templates" / "figures.mplstyle"


@contextmanager
def figure_style() -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with matplotlib.rc_context(fname=_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure with its own canvas, known to no global state; size in inches."""
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def forecaster_colors(names: Sequence[str]) -> dict[str, str]:
    """A colour a forecaster: baselines keep theirs, trained ones take blue first."""
    free = [color for color in PALETTE if color not in _FIXED.values()]
    trained = [name for name in names if name not in _FIXED]
    return {name: _FIXED.get(name) or free[trained.index(name) % len(free)] for name in names}


def forecaster_dash(name: str) -> Any:
    """The line style of a forecaster, so that colour is never the only difference."""
    return _DASHES.get(name, SOLID)


def size_colors(sizes: Sequence[float]) -> list[Any]:
    """A colour a run from its parameter count, light for small to dark for large."""
    ranks = sorted(set(sizes))
    scale = matplotlib.colormaps["viridis_r"]
    last = max(len(ranks) - 1, 1)
    return [scale(0.18 + 0.82 * ranks.index(size) / last) for size in sizes]


def shorten(name: str, limit: int) -> str:
    """A long name with its middle left out: titles must not run into the next panel.

    Dollars are escaped, or matplotlib takes what is between two of them for a formula.
    """
    tail = (limit - 1) // 2
    short = name if len(name) <= limit else f"{name[: limit - 1 - tail]}…{name[-tail:]}"
    return short.replace("$", r"\$")


def token_axis(axes: Axes, *, log: bool, label: str | None = "training tokens") -> None:
    """Token ticks with K, M, B, T."""
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    if label:
        axes.set_xlabel(label)


def percent_axis(axes: Axes, label: str | None = "accuracy", *, points: bool = False) -> None:
    """Fractions shown as per cent, or as points for differences and errors."""
    unit = "" if points else " %"
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}{unit}"))
    if label:
        axes.set_ylabel(label)


def label_line_ends(
    axes: Axes, ends: Sequence[tuple[float, float, str, Any]], *, gap_points: float = 11.0
) -> None:
    """Writes each label right of the axes, moved apart, with a thin leader to its line's end.

    Args:
        axes: axes whose limits are final.
        ends: (x, y, label, colour) in data units.
        gap_points: least distance between the middles of two labels.
    """
    right = axes.get_xlim()[1]
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    scale = 72.0 / figure.dpi
    wanted = sorted(
        ((axes.transData.transform((x, y))[1] * scale, x, y, text, color)
         for x, y, text, color in ends),
        key=lambda end: end[0],
    )  # fmt: skip
    placed: list[float] = []
    for height, *_ in wanted:
        placed.append(max(height, placed[-1] + gap_points) if placed else height)
    # Labels pushed up as a block are moved back by half of the push: the block stays centred.
    push = (placed[-1] - wanted[-1][0]) / 2.0 if placed else 0.0
    for (height, x, y, text, color), at in zip(wanted, placed, strict=True):
        axes.annotate(
            text,
            (right, y),
            xytext=(8, at - push - height),
            textcoords="offset points",
            color=INK if color is None else color,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
        tip = axes.transData.inverted().transform(
            axes.transData.transform((right, y))
            + np.array([6 / scale, (at - push - height) / scale])
        )
        axes.plot([x, tip[0]], [y, tip[1]], color="#bbbbbb", lw=0.6, clip_on=False, zorder=0)
    axes.set_xlim(right=right)


def panel_grid(
    n: int, *, narrow: bool, columns: int, row_inches: float
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, row by row; one column in the narrow layout."""
    columns = 1 if narrow else min(columns, max(n, 1))
    rows = max(math.ceil(n / columns), 1)
    figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES, row_inches * rows + 0.7)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(n)]


def draw_legend(figure: Figure, handles: Sequence[Any], *, narrow: bool) -> None:
    """One legend above all panels."""
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2 if narrow else _legend_columns([h.get_label() for h in handles]),
        handlelength=2.0,
        columnspacing=1.3,
        fontsize=8.5,
    )


def _legend_columns(labels: Sequence[str]) -> int:
    """As many columns as fit side by side in the wide layout: about 125 characters."""
    widest = max((len(label) for label in labels), default=1) + 7
    one_row = sum(len(label) + 6 for label in labels) <= 125
    return len(labels) if one_row else max(1, min(len(labels), 125 // widest))


def settle_layout(figure: Figure) -> None:
    """Computes the layout and keeps it: the solver costs more than the drawing."""
    with figure_style():
        # The first pass sizes the decorations, the second places the axes around them.
        figure.draw_without_rendering()
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes an SVG or PNG (by suffix), whole or not at all.

    Raises:
        UserError: another suffix.
    """
    settle_layout(figure)
    if path.suffix == ".svg":
        content = figure_svg(figure, name=path.stem).encode()
    elif path.suffix == ".png":
        buffer = io.BytesIO()
        with figure_style():
            figure.savefig(buffer, format="png", dpi=160)
        content = buffer.getvalue()
    else:
        raise UserError(f"{path}: expected a figure ending in .svg or .png.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def figure_svg(figure: Figure, *, name: str) -> str:
    """The figure as one `<svg>` element for inlining: no prologue, no metadata, own ids.

    Args:
        figure: any figure.
        name: prefix of the element's ids, so that several can stand in one page.
    """
    buffer = io.StringIO()
    with figure_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    # Coordinates need no more than two decimals; numbers that are read stay as they are.
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
