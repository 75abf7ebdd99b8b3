"""Numbers as text, with only the digits that are known."""

import math
from typing import Final

WIDE: Final = 0.1
"""80 % intervals wider than this, in accuracy, are shown in whole percentage points."""


def format_count(value: float) -> str:
    """Return 1.5e9 as `1.5B`: K, M, B and T as in token and parameter counts."""
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def tokens(value: float) -> str:
    """Return a token count with the two digits that a forecast knows."""
    return format_count(float(f"{value:.2g}"))


def points(value: float, width: float) -> str:
    """Return an accuracy in percent, with a decimal if its 80 % interval (`width`) is narrow."""
    return f"{100 * value:.{_decimals(width)}f}"


def difference(value: float, width: float) -> str:
    """Return a difference of accuracies in percentage points, with its sign."""
    return f"{100 * value:+.{_decimals(width)}f}"


def score(value: float, width: float, unit: str = "%") -> str:
    """Return a score without its unit: in percent, or with the digits that a width leaves known.

    Args:
        value: a fraction for the unit `%`, else in that unit.
        width: of its 80 % interval; 0 where it was observed.
        unit: of the metric.
    """
    return points(value, width) if unit == "%" else f"{value:.{_known(value, width)}f}"


def change(value: float, width: float, unit: str = "%") -> str:
    """Return a difference of scores, with its sign; arguments as those of `score`."""
    return difference(value, width) if unit == "%" else f"{value:+.{_known(value, width)}f}"


def with_unit(text: str, unit: str) -> str:
    """Return a number with its unit behind it."""
    return f"{text} {unit}".rstrip()


def _known(value: float, width: float) -> int:
    """Decimals: two digits of the width, or four of an observed value."""
    size, digits = (width, 2) if width > 0 else (abs(value), 4)
    return 0 if size == 0 else max(0, min(6, digits - 1 - math.floor(math.log10(size))))


def percent(probability: float) -> str:
    """Return a probability in whole percent; nothing is certain."""
    if probability < 0.01:
        return "<1 %"
    if probability > 0.99:
        return ">99 %"
    return f"{100 * probability:.0f} %"


def _decimals(width: float) -> int:
    return 0 if width > WIDE else 1
