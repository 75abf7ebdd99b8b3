"""Threads that do one thing in the order in which they came."""

import threading


class Turns:
    """Keeps callers in the order in which they came: one that is ready early waits its turn.

    Else the first checkpoint of an architecture could overtake the last one of that before it,
    and two more engines would have to be started.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._taken = 0
        self._changed = threading.Condition()

    def take(self) -> int:
        """A turn after all that were taken before."""
        with self._changed:
            self._taken += 1
            self._waiting.append(self._taken)
            return self._taken

    def wait_for(self, turn: int) -> None:
        """Returns when every earlier turn was left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == turn)

    def leave(self, turn: int) -> None:
        """Lets the next one on; leaving twice is fine."""
        with self._changed:
            if turn in self._waiting:
                self._waiting.remove(turn)
                self._changed.notify_all()
