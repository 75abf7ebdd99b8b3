"""Numbers with as many digits as are known."""

from typing import Final

from neuneu.core.counts import format_count

WIDE: Final = 0.1
"""Bands wider than ten points of accuracy are told in whole points."""


def points(value: float, width: float) -> str:
    """An accuracy in percent; a decimal only where its 80 % band (`width`) is narrow."""
    return f"{100 * value:.0f}" if width > WIDE else f"{100 * value:.1f}"


def difference(value: float, width: float) -> str:
    """A difference of accuracies in points, with its sign."""
    return f"{100 * value:+.0f}" if width > WIDE else f"{100 * value:+.1f}"


def percent(probability: float) -> str:
    """A probability in whole percent; nothing is called certain."""
    if probability < 0.01:
        return "<1 %"
    if probability > 0.99:
        return ">99 %"
    return f"{100 * probability:.0f} %"


def tokens(value: float) -> str:
    """Tokens to two digits, as a forecast knows them."""
    return format_count(float(f"{value:.2g}"))
