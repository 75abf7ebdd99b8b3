"""Learning rates along a schedule, as a share of the peak. Shapes broadcast.

Most of what a decay gains comes while the learning rate falls, so forecasts need to know where
it stands now and at the target.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import IntArray
from neuneu.data.runs import SCHEDULES, WSD_DECAY
from neuneu.forecasters.cross_run.curves import Float32Array

UNKNOWN: Final = len(SCHEDULES)
"""Code of an unknown schedule; the others index `SCHEDULES`."""

FINAL: Final = 0.1
"""Share of the peak at the end of a cosine or linear decay, as is usual."""


def learning_rate(
    schedule: IntArray, decay_start: npt.NDArray, x: npt.NDArray, planned: npt.NDArray
) -> Float32Array:
    """The share of the peak in [0, 1] at ln tokens `x`; NaN where the schedule is unknown.

    Warm-up is left out. A WSD run falls linearly to 0, and its decay begins at `WSD_DECAY` of the
    planned tokens where the table does not say.

    Args:
        schedule: codes, see `UNKNOWN`.
        decay_start: ln tokens; NaN where unknown.
        x: ln tokens.
        planned: ln of the tokens that the run is planned for; NaN where unknown.
    """
    done = np.exp(np.clip(x - planned, -20.0, 0.0))
    told = np.exp(np.clip(decay_start - planned, -20.0, -1e-3))
    begin = np.where(np.isnan(told), WSD_DECAY, told)
    shares = [
        FINAL + (1.0 - FINAL) * 0.5 * (1.0 + np.cos(np.pi * done)),
        1.0 - (1.0 - FINAL) * done,
        1.0 - np.clip((done - begin) / (1.0 - begin), 0.0, 1.0),
        np.ones_like(done),
    ]
    found = np.full(np.broadcast_shapes(schedule.shape, done.shape), np.nan)
    for code, share in enumerate(shares):
        found = np.where(schedule == code, share, found)
    return found.astype(np.float32)
