"""Transfers that fail for a while: tried again, a bounded number of times, with growing waits."""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from neuneu.core.errors import CheckpointError

T = TypeVar("T")

LONGEST_WAIT_S: Final = 30.0
_log = logging.getLogger(__name__)


class TransientError(CheckpointError):
    """A checkpoint that cannot be had now, although asked for again; later it may."""


def retried(action: Callable[[], T], *, attempts: int, wait_s: float) -> T:
    """What `action` returns, called again after a `TransientError`.

    Args:
        action: does all or nothing.
        attempts: how often to call it at most.
        wait_s: seconds before the second call; doubled before each further one, up to 30 s.

    Raises:
        TransientError: the last attempt failed so, too.
    """
    for attempt in range(1, attempts):
        try:
            return action()
        except TransientError as error:
            wait = min(wait_s * 2 ** (attempt - 1), LONGEST_WAIT_S)
            _log.info("asked again: %s", error, extra={"attempt": attempt, "wait_s": wait})
            time.sleep(wait)
    try:
        return action()
    except TransientError as error:
        raise TransientError(f"{error} Tried {attempts} times.") from error
