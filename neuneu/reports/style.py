"""How figures look: palette, axes, legends, forecasts, and saving without pyplot."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.scales import PERCENT

INK: Final = "#222222"
MUTED: Final = "#666666"
FAINT: Final = "#d9d9d9"
TRUTH: Final = "#111111"
CHANCE: Final[dict[str, Any]] = {"color": MUTED, "lw": 0.9, "ls": (0, (2, 2))}

PALETTE: Final = ("#0072b2", "#c44e00", "#00795a", "#9b4f96", "#8a6d00", "#3a8fb7")
"""Okabe and Ito's hues, darkened until text in them reads on white (contrast above 4.5)."""

_FIXED: Final = {
    "persistence": {"color": MUTED, "ls": (0, (4, 2))},
    "power-law": {"color": PALETTE[1], "ls": (0, (1, 1))},
    "logistic-law": {"color": PALETTE[3], "ls": (0, (6, 1))},
}

WIDE_INCHES: Final = 9.6
NARROW_INCHES: Final = 3.7

MAX_PANELS: Final = 12
MAX_POINTS: Final = 80

_STYLE: Final = Path(__file__).parent / "templates" / "figures.mplstyle"
_LEGEND_WIDTH: Final = 125
"""Characters that fit side by side in the wide layout."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Applies the style inside the block and leaves matplotlib's settings as they were."""
    with matplotlib.rc_context(fname=_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure with a canvas of its own, without global state; size in inches."""
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def panel_grid(
    n: int, *, narrow: bool, columns: int, row_inches: float, label: str = "accuracy"
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels over training tokens, row by row; one column in the narrow layout."""
    columns = 1 if narrow else min(columns, max(n, 1))
    rows = max(math.ceil(n / columns), 1)
    figure = new_figure(NARROW_INCHES if narrow else WIDE_INCHES, row_inches * rows + 0.7)
    figure.supylabel(label, fontsize=9, color=INK)
    figure.supxlabel("training tokens", fontsize=9, color=INK)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(n)]


def forecaster_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and line style of each forecaster; trained ones are solid and take blue first."""
    taken = {style["color"] for style in _FIXED.values()}
    free = [color for color in PALETTE if color not in taken]
    styles: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(names):
        trained = len(styles.keys() - _FIXED.keys())
        styles[name] = _FIXED.get(name) or {"color": free[trained % len(free)], "ls": "-"}
    return styles


def size_colors(sizes: Sequence[float]) -> list[Any]:
    """A colour for each parameter count, light for small to dark for large."""
    ranks = sorted(set(sizes))
    scale = matplotlib.colormaps["viridis_r"]
    last = max(len(ranks) - 1, 1)
    return [scale(0.18 + 0.82 * ranks.index(size) / last) for size in sizes]


def shorten(name: str, limit: int) -> str:
    """A long name with its middle left out, so that titles do not run into the next panel.

    Dollars are escaped, or matplotlib takes what is between two of them for a formula.
    """
    tail = (limit - 1) // 2
    short = name if len(name) <= limit else f"{name[: limit - 1 - tail]}…{name[-tail:]}"
    return short.replace("$", r"\$")


def kept_points(n: int, limit: int = MAX_POINTS) -> IntArray:
    """Indices of at most `limit` of n points, evenly spaced, both ends among them."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64))


def draw_forecast(
    axes: Axes,
    start: tuple[FloatArray | float, FloatArray | float],
    tokens: FloatArray,
    levels: Mapping[float, FloatArray],
    *,
    crowded: bool = False,
    **style: Any,
) -> None:
    """Draws a median with its 50 and 80 % intervals.

    Args:
        axes: where to draw.
        start: tokens and value where observation ends; lines begin there, to be one with it. Empty
            arrays where nothing was observed.
        tokens: (h,) of the forecast.
        levels: level -> (h,) accuracies.
        crowded: only the 80 % interval, fainter.
        **style: of the median's line.
    """
    x = np.append(start[0], tokens)
    lines = {level: np.append(start[1], values) for level, values in levels.items()}
    wide, inner = (0.1, 0.9, 0.09 if crowded else 0.16), (0.25, 0.75, 0.28)
    for low, high, alpha in (wide,) if crowded else (wide, inner):
        if low in lines and high in lines and not np.isnan(lines[low] + lines[high]).any():
            area = {"color": style["color"], "alpha": alpha, "lw": 0, "zorder": 2}
            axes.fill_between(x, lines[low], lines[high], **area)
    axes.plot(x, lines[0.5], zorder=4, **style)


def token_axis(axes: Axes, *, log: bool) -> None:
    """Token ticks with K, M, B, T."""
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))


def percent_axis(axes: Axes, label: str | None = None, *, points: bool = False) -> None:
    """Fractions as percent, or as points for differences and errors."""
    unit = "" if points else " %"
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}{unit}"))
    axes.set_ylabel(label or "")


def score_axis(axes: Axes, unit: str, label: str | None = None) -> None:
    """Scores in their unit: accuracies in percent."""
    percent_axis(axes, label)
    if unit != PERCENT:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def draw_legend(figure: Figure, handles: Sequence[Any], *, narrow: bool) -> None:
    """One legend above all panels, in as many columns as fit."""
    lengths = [len(handle.get_label()) for handle in handles] or [1]
    one_row = sum(length + 6 for length in lengths) <= _LEGEND_WIDTH
    columns = len(handles) if one_row else max(1, _LEGEND_WIDTH // (max(lengths) + 7))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2 if narrow else min(columns, max(len(handles), 1)),
        handlelength=2.0,
        columnspacing=1.3,
        fontsize=8.5,
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Writes an SVG or PNG (by suffix), whole or not at all.

    Raises:
        UserError: another suffix.
    """
    with figure_style():
        # The first pass sizes the decorations, the second places the axes around them; the layout
        # is then kept, since the solver costs more than the drawing.
        figure.draw_without_rendering()
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
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
