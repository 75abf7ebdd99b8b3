"""Progress on the terminal: the stage, how far it is, and how long it takes.

Without a terminal, lines replace bars; if logs are JSON, these are lines of the log.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from neuneu.core import logs

console = Console(stderr=True, highlight=False)
_log = logging.getLogger(__name__)
_SECONDS_PER_LINE: Final = 10


class Bar:
    """Progress of one stage: a live bar, or a line every ten seconds and one at the end."""

    def __init__(self, title: str, total: float | None, live: Progress | None = None) -> None:
        """Start at zero."""
        self._title, self._total, self._done = title, total, 0.0
        self._started = self._printed = time.monotonic()
        self._printed_done = -1.0
        self._live = live
        self._task = live.add_task(title, total=total) if live else None

    def advance(self, amount: float = 1, message: str | None = None) -> None:
        """Advance by `amount`; `message` replaces the text beside the bar."""
        self.set(self._done + amount, message=message)

    def set(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Set the position and optionally the total."""
        self._done, self._total = done, self._total if total is None else total
        if self._live is not None and self._task is not None:
            text = None if message is None else f"{self._title} [dim]{message}[/dim]"
            self._live.update(self._task, completed=done, total=total, description=text)
        elif time.monotonic() - self._printed >= _SECONDS_PER_LINE:
            self._printed = time.monotonic()
            self._print(message)

    def close(self) -> None:
        """Print the last line unless it is there already."""
        if self._live is None and self._printed_done != self._done:
            self._print()

    def _print(self, message: str | None = None) -> None:
        self._printed_done = self._done
        if logs.as_json():
            numbers = {"stage": self._title, "done": self._done, "total": self._total}
            _log.info(message or "progress", extra=numbers)
            return
        of = "" if self._total is None else f"/{self._total:g}"
        seconds = time.monotonic() - self._started
        note = f"  {message}" if message else ""
        print(f"{self._title}: {self._done:g}{of} ({seconds:.0f} s){note}", file=sys.stderr)


@contextmanager
def stage(title: str, total: float | None = None) -> Iterator[Bar]:
    """Show one stage while its block runs: a live bar on a terminal, lines elsewhere."""
    if not console.is_terminal or logs.as_json():
        bar = Bar(title, total)
        yield bar
        bar.close()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Bar(title, total, progress)
