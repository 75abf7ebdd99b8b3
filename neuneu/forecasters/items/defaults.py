"""Models for where finished runs are too few to fit one.

Fitted by `benchmarks/evidence/run.py --defaults` to all runs of the study's ladder, which prints
them. Where there is a choice they are the cautious side: their intervals are those of small, noisy
runs.
"""

from typing import Final

import numpy as np

from neuneu.forecasters.items.features import OWN, RELATIVES
from neuneu.forecasters.items.model import ItemModel

ALONE: Final = ItemModel(coefficients=np.zeros(0), spread=(0.0006, 0.0020))
"""Of a run without relatives; its probabilities come from `projection`."""

RELATED: Final = ItemModel(
    coefficients=np.zeros(len(OWN) + len(RELATIVES)), spread=(0.0006, 0.0012)
)
"""Of a run with relatives."""
