"""Models for where finished runs are too few to fit one.

Printed by `benchmarks/evidence/defaults.py`: fitted to the runs of the study's ladder, at seven
shares of a run as context. Those runs are tiny and learn late, so intervals rather err on the wide
side.
"""

from typing import Final

import numpy as np

from neuneu.forecasters.items.features import OWN, RELATIVES
from neuneu.forecasters.items.model import ItemModel

_COEFFICIENTS: Final = {
    "constant": 0.08,
    "distance": 0.0,
    "accuracy": -0.23,
    "accuracy x distance": 0.05,
    "accuracy trend": 0.17,
    "margin trend of the task": -0.19,
    "now": 2.87,
    "recent": -1.55,
    "recent, unsquashed": 0.06,
    "right": 0.32,
    "trend": -0.55,
    "now x distance": -0.68,
    "recent x distance": -0.80,
    "right x distance": -0.25,
    "gold": 0.09,
    "gold trend": -0.04,
    "recent squared": 1.09,
    "projected": 0.30,
    "projected accuracy": 0.03,
    "relatives' accuracy": 0.36,
    "relatives' gain": 0.08,
    "relatives' margin": 1.12,
    "relatives' margin now": -0.62,
    "relatives right": 0.24,
    "relatives' margin x distance": 0.86,
}

ALONE: Final = ItemModel(
    coefficients=np.zeros(0),
    spread=(0.0, 0.0083),
    scores=(-1.45, -0.80, -0.19, 0.0, 0.53, 1.04, 1.47),
)
"""Of a run without relatives, whose probabilities come from `projection`."""

RELATED: Final = ItemModel(
    coefficients=np.array([_COEFFICIENTS[name] for name in (*OWN, *RELATIVES)]),
    spread=(0.00093, 0.00142),
    scores=(-1.60, -1.00, -0.40, 0.0, 0.45, 1.02, 1.46),
)
"""Of a run with relatives."""
