"""Progress on the terminal: what stage, how far, how long.

Off a terminal lines instead of bars; where logs are JSON, lines of the log.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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


class Bar(Protocol):
    """What a stage reports to."""

    def advance(self, amount: float = 1, message: str | None = None) -> None:
        """Moves on by `amount`; `message` replaces the text beside the bar."""

    def set(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Sets the position, and optionally the total."""


class _RichBar:
    def __init__(self, progress: Progress, total: float | None, title: str) -> None:
        self._progress = progress
        self._title = title
        self._task = progress.add_task(title, total=total)

    def advance(self, amount: float = 1, message: str | None = None) -> None:
        self._progress.update(self._task, advance=amount, description=self._text(message))

    def set(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._progress.update(
            self._task, completed=done, total=total, description=self._text(message)
        )

    def _text(self, message: str | None) -> str | None:
        return None if message is None else f"{self._title} [dim]{message}[/dim]"


class _LineBar:
    """One line at the start, at most one every ten seconds, one at the end."""

    def __init__(self, total: float | None, title: str) -> None:
        self._total, self._title, self._done = total, title, 0.0
        self._started = self._printed = time.monotonic()
        self._printed_done = -1.0

    def advance(self, amount: float = 1, message: str | None = None) -> None:
        self.set(self._done + amount, message=message)

    def set(self, done: float, total: float | None = None, message: str | None = None) -> None:
        self._done, self._total = done, self._total if total is None else total
        if time.monotonic() - self._printed >= 10:
            self._printed = time.monotonic()
            self.line(message)

    def close(self) -> None:
        if self._printed_done != self._done:
            self.line()

    def line(self, message: str | None = None) -> None:
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
    """Shows one stage while its block runs: a live bar on a terminal, lines elsewhere."""
    if not console.is_terminal or logs.as_json():
        line_bar = _LineBar(total, title)
        yield line_bar
        line_bar.close()
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
        yield _RichBar(progress, total, title)
