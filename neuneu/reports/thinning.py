"""Long curves, thinned: a figure is read, not measured."""

from typing import Final

import numpy as np

from neuneu.data.trajectories import IntArray

MAX_POINTS: Final = 80


def kept_points(n: int, limit: int = MAX_POINTS) -> IntArray:
    """Indices of at most `limit` of n points, evenly spaced, both ends among them."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64))
