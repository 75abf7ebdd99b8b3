"""How commands end: exit codes, one-line errors, results as text or JSON.

0 success, 1 failure, 2 invalid input, 3 partial success (something was quarantined, failed or is
damaged), 130 interrupted, 143 ended by SIGTERM. A failure prints one line; a traceback is a bug.
"""

import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from neuneu.core import logs
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.extras import how_to_get
from neuneu.core.redaction import without_secrets

EXIT_FAILED: Final = 1
EXIT_USER_ERROR: Final = 2
EXIT_PARTIAL: Final = 3
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

_log = logging.getLogger(__name__)


class ExitCodes(TyperGroup):
    """The root command: turns failures of every command into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was called."""
        with _exit_codes():
            return super().invoke(ctx)


@contextmanager
def _exit_codes() -> Iterator[None]:
    arrived: list[int] = []
    try:
        with _unwinding_on_sigterm(arrived):
            yield
    except UserError as error:
        _fail(str(error), EXIT_USER_ERROR)
    except NeuneuError as error:
        _fail(str(error), EXIT_FAILED)
    except ModuleNotFoundError as error:
        message = how_to_get(error)
        if message is None:
            raise
        _fail(message, EXIT_USER_ERROR)
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        _fail(
            f"{error.filename}: expected a path to read or write, found: {error.strerror}; "
            "check the path and its permissions.",
            EXIT_USER_ERROR,
        )
    except KeyboardInterrupt:
        if arrived:  # Ray turns a signal into a plain KeyboardInterrupt where it waits
            _fail("ended by SIGTERM; the same command resumes where it stopped.", EXIT_TERMINATED)
        _fail("interrupted; the same command resumes where it stopped.", EXIT_INTERRUPTED)


@contextmanager
def _unwinding_on_sigterm(arrived: list[int]) -> Iterator[None]:
    """Unwinds on SIGTERM, which `ray job stop`, Kubernetes and spot nodes send before they kill.

    Args:
        arrived: receives the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(signum: int, frame: Any) -> NoReturn:
        del frame
        arrived.append(signum)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the clean-up
        raise KeyboardInterrupt  # unwinds like Ctrl-C, so that finished work is kept

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(result: Any, as_json: bool, *, partial: bool = False) -> None:
    """Prints a result; exits with `EXIT_PARTIAL` on partial success."""
    fields = result if isinstance(result, dict) else dataclasses.asdict(result)
    if as_json:
        print(json.dumps(fields, default=str))
    else:
        for key, value in fields.items():
            print(f"{key}: {value}")
    if partial:
        raise typer.Exit(EXIT_PARTIAL)


def _fail(message: str, code: int) -> NoReturn:
    # Names from a table may contain line breaks and terminal escape sequences.
    line = "".join(c if c.isprintable() else " " for c in message)
    if logs.as_json():
        _log.error(line, extra={"exit_code": code})
    else:
        print(f"neuneu: {without_secrets(line)}", file=sys.stderr)
    raise typer.Exit(code)
