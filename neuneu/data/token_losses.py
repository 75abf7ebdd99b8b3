"""How token and word losses are stored: as float16, with a bound on the error."""

from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError

MAX_STORED_LOSS: Final = float(np.finfo(np.float16).max)
"""65,504 nats, the largest loss that a store holds."""


def stored_losses(losses: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """Round losses to what a store holds of them (`schemas.TOKEN_LOSSES`).

    float16 has 11 significant bits (IEEE 754 binary16) and rounds to nearest: a loss of x nats is
    off by at most max(x / 2048, 2^-25), which is 0.004 nats at 8 nats and 3e-8 nats below 6e-5.
    Larger losses than 65,504 nats are stored as 65,504, so that none becomes infinite; negative
    ones, which only rounding in an engine makes, as 0. Means are computed before rounding.

    Args:
        losses: any shape, in nats.

    Raises:
        DataError: a loss is NaN or infinite.
    """
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).all():
        found = values[~np.isfinite(values)][0]
        raise DataError(
            f"token losses: expected finite numbers, found {found}; score the checkpoint again."
        )
    return values.clip(0, MAX_STORED_LOSS).astype(np.float16)


def check_stored(losses: npt.ArrayLike, *, name: str) -> None:
    """Refuse losses that float16 does not hold; `name` says in messages which they are.

    Raises:
        DataError: a loss is not in [0, 65504] nats.
    """
    values = np.asarray(losses, np.float64)
    wrong = ~((values >= 0) & (values <= MAX_STORED_LOSS))
    if wrong.any():
        raise DataError(
            f"{name}: expected losses from 0 to {MAX_STORED_LOSS:,.0f} nats, found "
            f"{values[wrong][0]:g}; round them with `neuneu.data.token_losses.stored_losses`."
        )
