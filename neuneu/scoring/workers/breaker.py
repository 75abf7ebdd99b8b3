"""A circuit breaker a worker: a broken engine or GPU must not eat the queue of the others."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

FAILURES_OF_AN_ARCHITECTURE: Final = 2
FAILURES_IN_A_ROW: Final = 3
_FIRST_REST_S: Final = 15.0
_LONGEST_REST_S: Final = 300.0


class Breaker:
    """Counts checkpoints on which the engine of a worker failed, and says when to try no more.

    It opens for an architecture after two such checkpoints if none of it was ever scored here,
    and for all after three in a row. While it is open, a worker that has peers rests before each
    checkpoint, twice as long each time, so that they take what is left, and then tries it once;
    a worker without peers leaves it untried. A checkpoint that is scored closes the breaker.
    """

    def __init__(self, *, peers: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Closed; `peers` tells whether other workers take from the same queue."""
        self.peers = peers
        self._sleep = sleep
        self._in_a_row = 0
        self._failures: Counter[str] = Counter()
        self._scored: set[str] = set()
        self._last_error = ""
        self._rest_s = _FIRST_REST_S

    def failed(self, architecture: str, error: str) -> None:
        """Counts a checkpoint on which the engine failed for good."""
        self._in_a_row += 1
        self._last_error = error
        if architecture not in self._scored:
            self._failures[architecture] += 1

    def worked(self, architecture: str) -> None:
        """Closes it: a checkpoint was scored."""
        self._in_a_row = 0
        self._rest_s = _FIRST_REST_S
        self._scored.add(architecture)
        self._failures.pop(architecture, None)

    def reason(self, architecture: str) -> str:
        """Why no engine should be started for a checkpoint; empty while the breaker is closed."""
        count = self._failures[architecture]
        if count >= FAILURES_OF_AN_ARCHITECTURE:
            return (
                f"the engine failed on {count} checkpoints of this architecture and scored none "
                f"of it; the last time: {self._last_error}"
            )
        # Another architecture may be one that works: it is tried although others failed.
        if self._in_a_row >= FAILURES_IN_A_ROW and (count or self.peers):
            return (
                f"the engine of this worker failed on {self._in_a_row} checkpoints in a row; the "
                f"last time: {self._last_error}"
            )
        return ""

    def rest(self) -> None:
        """Waits for peers to take other work; longer each time."""
        self._sleep(self._rest_s)
        self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
