"""Trajectories with intervals as numbers for a page: thinned and rounded.

Shapes: n observed checkpoints, h grid points ahead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from neuneu.data.arrays import FloatArray
from neuneu.data.schemas import TRAJECTORY_KEY, trajectory_starts
from neuneu.reports.style import kept_points

Key = tuple[str, str, int, str, str]
"""`schemas.TRAJECTORY_KEY`."""

LEVELS: Final = {"q0.1": 0.1, "q0.25": 0.25, "q0.5": 0.5, "q0.75": 0.75, "q0.9": 0.9}

_OBSERVED: Final = (60, 16, 30_000)
_FORECAST: Final = (20, 8, 15_000)
"""Maximum and minimum number of points per curve, and maximum of all curves together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The observed `tokens` (n,) and `values` (n,), and the forecast: `grid` (h,) tokens and
    `quantiles` (h, 5) at `LEVELS`; a level that the forecaster does not give is NaN."""

    tokens: FloatArray
    values: FloatArray
    grid: FloatArray
    quantiles: FloatArray


def row_key(row: Mapping[str, Any]) -> Key:
    """The trajectory of a row of a forecast's answer."""
    return (row["suite"], row["run"], row["num_fewshot"], row["task"], row["metric"])


def read_curves(forecasts: pa.Table, observed: pa.Table) -> dict[Key, Curve]:
    """The curves of `schemas.FORECASTS` and `schemas.ACCURACIES`, by trajectory."""
    seen = _by_trajectory(observed, ("value",))
    not_started = np.zeros(0), np.zeros((0, 1))
    curves = {}
    for key, (grid, quantiles) in _by_trajectory(forecasts, tuple(LEVELS)).items():
        tokens, values = seen.get(key, not_started)
        curves[key] = Curve(tokens=tokens, values=values[:, 0], grid=grid, quantiles=quantiles)
    return curves


def _by_trajectory(
    table: pa.Table, columns: Sequence[str]
) -> dict[Key, tuple[FloatArray, FloatArray]]:
    """((n,) tokens, (n, columns) values) of every trajectory."""
    order = [(name, "ascending") for name in (*TRAJECTORY_KEY, "tokens")]
    table = table.sort_by(order)
    starts = trajectory_starts(table)
    tokens = table["tokens"].to_numpy()
    values = np.stack([table[name].to_numpy() for name in columns], axis=1)
    names = table.select(TRAJECTORY_KEY).take(starts).to_pylist()
    return {
        row_key(name): (tokens[start:stop], values[start:stop])
        for name, start, stop in zip(
            names, starts, [*starts[1:], len(tokens)][: len(starts)], strict=True
        )
    }


class PageCurves:
    """Curves as JSON types; tokens that curves share are written once, in `grids`.

    `thinned` counts the curves that lost points.
    """

    def __init__(self, count: int) -> None:
        """Room for `count` curves."""
        self.seen_points, self.ahead_points = (
            max(fewest, min(most, budget // max(count, 1)))
            for most, fewest, budget in (_OBSERVED, _FORECAST)
        )
        self.thinned = 0
        self._grids: dict[tuple[float, ...], int] = {}

    @property
    def grids(self) -> list[tuple[float, ...]]:
        """Lists of tokens; `x` and `p` of a curve are positions in it."""
        return list(self._grids)

    def add(self, curve: Curve) -> dict[str, Any]:
        """One curve: `x` and `y` (observed), `p` and `q` (forecast, a list per level or None)."""
        seen = kept_points(len(curve.tokens), self.seen_points)
        ahead = kept_points(len(curve.grid), self.ahead_points)
        self.thinned += len(seen) < len(curve.tokens) or len(ahead) < len(curve.grid)
        return {
            "x": self.grid(curve.tokens[seen].tolist()),
            "y": rounded(curve.values[seen].tolist()),
            "p": self.grid(curve.grid[ahead].tolist()),
            "q": [
                None if np.isnan(level).any() else rounded(level.tolist())
                for level in curve.quantiles[ahead].T
            ],
        }

    def grid(self, tokens: Sequence[float]) -> int:
        """The position of a list of tokens in `grids`."""
        key = tuple(_short(value) for value in tokens)
        return self._grids.setdefault(key, len(self._grids))


def rounded(values: Sequence[float]) -> list[float]:
    """Accuracies and probabilities to four decimals, more than can be known."""
    return [round(value, 4) for value in values]


def _short(tokens: float) -> float:
    """Tokens to four digits; whole where they are large, which is shorter in JSON."""
    value = float(f"{tokens:.4g}")
    return int(value) if value.is_integer() else value
