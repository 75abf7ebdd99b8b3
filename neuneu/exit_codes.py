"""How commands end: exit codes, one-line errors, results as lines or as JSON.

0 done, 1 failed, 2 a user's mistake, 3 done in part (something was quarantined or is damaged),
130 interrupted. Each failure is one line; a traceback is a defect.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import typer

from neuneu.errors import NeuneuError, UserError

EXIT_FAILED: Final = 1
EXIT_USER_ERROR: Final = 2
EXIT_PARTIAL: Final = 3
EXIT_INTERRUPTED: Final = 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns a user's mistake and an interruption into one line and their exit codes."""
    try:
        yield
    except UserError as error:
        _fail(str(error), EXIT_USER_ERROR)
    except NeuneuError as error:
        _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped.", EXIT_INTERRUPTED)


def finish(result: Any, as_json: bool, *, partial: bool = False) -> None:
    """Prints a job's result; leaves with `EXIT_PARTIAL` when only a part was done."""
    fields = result if isinstance(result, dict) else dataclasses.asdict(result)
    if as_json:
        print(json.dumps(fields, default=str))
    else:
        for key, value in fields.items():
            print(f"{key}: {value}")
    if partial:
        raise typer.Exit(EXIT_PARTIAL)


def _fail(message: str, code: int) -> NoReturn:
    print(f"neuneu: {message}", file=sys.stderr)
    raise typer.Exit(code)
