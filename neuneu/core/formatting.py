"""Numbers as text, with only the digits that are known."""

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


def percent(probability: float) -> str:
    """Return a probability in whole percent; nothing is certain."""
    if probability < 0.01:
        return "<1 %"
    if probability > 0.99:
        return ">99 %"
    return f"{100 * probability:.0f} %"


def _decimals(width: float) -> int:
    return 0 if width > WIDE else 1
