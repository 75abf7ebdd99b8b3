"""Range and direction of metrics, and the map of each onto the unit scale of an accuracy.

A trained network reads and forecasts numbers in [0, 1] of which higher is better. A metric of
another range goes through a monotone map there and back, so that tables, forecasts, intervals and
answers are in the metric's own units. This module is the only place where that map is defined:

| range | share F of the way from low to high |
|---|---|
| [low, high] | (x - low) / (high - low) |
| [low, inf) | 1 - 2^-(x - low) / spread |
| (-inf, high] | 2^-(high - x) / spread |
| (-inf, inf) | 1 / (1 + 2^-x / spread) |

and u = F where higher is better, else 1 - F. Bits per byte x become 2^-x, the geometric mean of the
probability of a byte; log-probabilities x become exp(x).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray

EDGE: Final = 1e-4
"""Open ends of a range are mapped no nearer than this to 0 or 1: 13 bits per byte."""

PERCENT: Final = "%"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Bounds of a metric (infinite where there are none), direction and unit.

    `spread` is the distance over which an unbounded metric uses half of the unit scale that is
    left. `unit` is shown behind values: `%` for fractions, which are shown in percent.
    """

    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    spread: float = 1.0
    unit: str = PERCENT

    @property
    def is_unit(self) -> bool:
        """Whether the metric is on the unit scale already."""
        return self.low == 0.0 and self.high == 1.0 and self.higher_is_better

    @property
    def best(self) -> float:
        """The best value, infinite where there is none."""
        return self.high if self.higher_is_better else self.low

    def __contains__(self, value: float) -> bool:
        """Whether a value is finite and within the bounds."""
        return bool(np.isfinite(value) and self.low <= value <= self.high)

    def clip(self, values: FloatArray) -> FloatArray:
        """Values within the bounds."""
        return np.clip(values, self.low, self.high)

    def oriented(self, values: FloatArray) -> FloatArray:
        """Values of which higher is better: their negatives where lower is."""
        return values if self.higher_is_better else -values

    def to_unit(self, values: FloatArray) -> FloatArray:
        """Values in [0, 1] of which higher is better; NaN stays."""
        x = np.asarray(values, dtype=np.float64)
        if np.isfinite(self.low) and np.isfinite(self.high):
            share = (x - self.low) / (self.high - self.low)
        elif np.isfinite(self.low):
            share = 1.0 - np.exp2(-(x - self.low) / self.spread)
        elif np.isfinite(self.high):
            share = np.exp2(-(self.high - x) / self.spread)
        else:
            share = 1.0 / (1.0 + np.exp2(np.clip(-x / self.spread, -60.0, 60.0)))
        unit = share if self.higher_is_better else 1.0 - share
        return np.clip(unit, *self._edges())

    def from_unit(self, units: FloatArray) -> FloatArray:
        """The values at a position on the unit scale; the inverse of `to_unit`."""
        unit = np.clip(units, *self._edges())
        share = unit if self.higher_is_better else 1.0 - unit
        if np.isfinite(self.low) and np.isfinite(self.high):
            return np.asarray(self.low + share * (self.high - self.low))
        if np.isfinite(self.low):
            return np.asarray(self.low - self.spread * np.log2(1.0 - share))
        if np.isfinite(self.high):
            return np.asarray(self.high + self.spread * np.log2(share))
        return np.asarray(self.spread * np.log2(share / (1.0 - share)))

    def unit_width(self, values: FloatArray, widths: FloatArray) -> FloatArray:
        """Small widths, such as standard errors, around values, on the unit scale."""
        if self.is_unit:
            return widths
        step = 1e-6 * self.spread
        slope = (self.to_unit(values + step) - self.to_unit(values - step)) / (2.0 * step)
        return np.asarray(np.abs(slope) * widths)

    def quantiles_from_unit(self, units_HQ: FloatArray, levels: Sequence[float]) -> FloatArray:
        """(H, Q) quantiles of the metric from those on the unit scale.

        Where lower is better, the quantile of level q is at that of level 1 - q.

        Raises:
            ValueError: such a level is missing.
        """
        if self.higher_is_better:
            return self.from_unit(units_HQ)
        return self.from_unit(units_HQ[:, _mirrored(levels)])

    def quantiles_to_unit(self, quantiles_HQ: FloatArray, levels: Sequence[float]) -> FloatArray:
        """(H, Q) quantiles on the unit scale; the inverse of `quantiles_from_unit`."""
        if self.higher_is_better:
            return self.to_unit(quantiles_HQ)
        return self.to_unit(quantiles_HQ[:, _mirrored(levels)])

    def _edges(self) -> tuple[float, float]:
        """Bounds on the unit scale: beyond open ends no value is finite."""
        low, high = (0.0 if np.isfinite(end) else EDGE for end in (self.low, self.high))
        return (low, 1.0 - high) if self.higher_is_better else (high, 1.0 - low)


def _mirrored(levels: Sequence[float]) -> list[int]:
    at = {round(level, 6): place for place, level in enumerate(levels)}
    if missing := [level for level in levels if round(1.0 - level, 6) not in at]:
        raise ValueError(f"levels {tuple(levels)}: expected {1.0 - missing[0]:g} among them.")
    return [at[round(1.0 - level, 6)] for level in levels]


FRACTION: Final = Scale()
"""Accuracies, and metrics that are not in the table."""

_NATS: Final = Scale(high=np.inf, higher_is_better=False, spread=3.5, unit="nats")
_BPB: Final = Scale(high=np.inf, higher_is_better=False, unit="bits per byte")
_PERPLEXITY: Final = Scale(low=1.0, high=np.inf, higher_is_better=False, spread=20.0, unit="")

SCALES: Final[Mapping[str, Scale]] = {
    "bpb": _BPB,
    "bits_per_byte": _BPB,
    "nll_gold": _NATS,
    "nll_per_word": _NATS,
    "nll_per_byte": replace(_NATS, spread=float(np.log(2.0))),
    "cross_entropy_loss": replace(_NATS, spread=3.0),
    "perplexity": _PERPLEXITY,
    "word_perplexity": _PERPLEXITY,
    "byte_perplexity": replace(_PERPLEXITY, spread=1.0),
    "soft_log": Scale(low=-np.inf, high=0.0, spread=float(np.log(2.0)), unit="nats"),
    "margin": Scale(low=-np.inf, high=np.inf, spread=0.2, unit="nats per character"),
    "brier": Scale(high=2.0, higher_is_better=False, unit=""),
    "brier_score": Scale(high=2.0, higher_is_better=False, unit=""),
    "mcc": Scale(low=-1.0, unit=""),
    "soft": FRACTION,
    "p_gold": FRACTION,
}
"""Metrics that are not accuracies. `soft`, `soft_log`: probability and log-probability of the right
choice; `nll_gold`: mean loss of the right answer; the others as in `data.choice_metrics`."""


def scale_of(metric: str, *, higher_is_better: bool | None = None) -> Scale:
    """Return the scale of a metric; one that is not known is a fraction.

    Args:
        metric: its name; a filter behind a colon, as imports add it, does not matter.
        higher_is_better: what a task table says of it, which takes precedence.
    """
    scale = SCALES.get(metric.partition(":")[0], FRACTION)
    if higher_is_better is None or higher_is_better == scale.higher_is_better:
        return scale
    return replace(scale, higher_is_better=higher_is_better)
