"""Calibration groups of the cross-run forecaster."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from neuneu.forecasters.protocol import Query

HORIZONS: Final = (1.0, 2.5)
"""Edges in ln(target tokens / context tokens) between near, middle and far."""

SEVERAL: Final = 3
"""Checkpoints from which a run's own evaluations tell their noise."""

PLANNED: Final = "planned"
"""The group of runs that have not begun."""


def group_names(queries: Sequence[Query], with_references: Sequence[bool]) -> list[list[str]]:
    """The calibration group of every target of every query.

    Args:
        queries: any.
        with_references: whether each query has references.
    """
    names = []
    for query, compared in zip(queries, with_references, strict=True):
        context = query.context.without_step_zero()
        if not len(context):
            names.append([PLANNED] * len(query.target_steps))
            continue
        past = "several" if len(context) >= SEVERAL else "few"
        ahead = np.log(query.target_tokens / context.tokens[-1])
        far = np.searchsorted(HORIZONS, ahead)
        seen = "compared" if compared else "alone"
        names.append([f"{seen}, {past}, {('near', 'middle', 'far')[f]}" for f in far])
    return names
