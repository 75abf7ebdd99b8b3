"""A circuit breaker per worker, so that a broken engine or GPU does not use up the shared queue."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

FAILURES_OF_AN_ARCHITECTURE: Final = 2
FAILURES_IN_A_ROW: Final = 3
_FIRST_PAUSE_S: Final = 15.0
_LONGEST_PAUSE_S: Final = 300.0


class Breaker:
    """Counts checkpoints on which the engine of a worker failed, and decides when to stop trying.

    It opens for an architecture after two such checkpoints if this worker never scored one of that
    architecture, and for all after three in a row. While it is open, a worker with peers pauses
    before each checkpoint, twice as long each time, so that they take the rest, and then tries it
    once; a worker without peers leaves it untried. A scored checkpoint closes the breaker.
    """

    def __init__(self, *, peers: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Start closed; `peers` is whether other workers take from the same queue."""
        self.peers = peers
        self._sleep = sleep
        self._in_a_row = 0
        self._failures: Counter[str] = Counter()
        self._scored: set[str] = set()
        self._last_error = ""
        self._pause_s = _FIRST_PAUSE_S

    def failed(self, architecture: str, error: str) -> None:
        """Count a checkpoint on which the engine failed for good."""
        self._in_a_row += 1
        self._last_error = error
        if architecture not in self._scored:
            self._failures[architecture] += 1

    def worked(self, architecture: str) -> None:
        """Close the breaker: a checkpoint was scored."""
        self._in_a_row = 0
        self._pause_s = _FIRST_PAUSE_S
        self._scored.add(architecture)
        self._failures.pop(architecture, None)

    def reason(self, architecture: str) -> str:
        """Why not to start an engine for a checkpoint; empty while the breaker is closed."""
        count = self._failures[architecture]
        if count >= FAILURES_OF_AN_ARCHITECTURE:
            return (
                f"the engine failed on {count} checkpoints of this architecture and scored none; "
                f"last error: {self._last_error}"
            )
        # Another architecture may work, so try it although others failed.
        if self._in_a_row >= FAILURES_IN_A_ROW and (count or self.peers):
            return (
                f"the engine of this worker failed on {self._in_a_row} checkpoints in a row; last "
                f"error: {self._last_error}"
            )
        return ""

    def pause(self) -> None:
        """Wait for peers to take other work, longer each time."""
        self._sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
