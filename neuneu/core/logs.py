"""Logs: one tree of loggers, `neuneu`, on stderr, as text for people or as lines of JSON.

A module takes `logging.getLogger(__name__)` and passes numbers as `extra={...}`. Inside a
`checkpoint` block every line names its checkpoint. Credentials are removed from everything that
is written. As a library, without `set_up`, neuneu leaves logging as it finds it.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from neuneu.core.errors import UserError
from neuneu.core.redaction import cleaned, without_secrets

P = ParamSpec("P")
T = TypeVar("T")

LEVEL_VARIABLE: Final = "NEUNEU_LOG_LEVEL"
FORMAT_VARIABLE: Final = "NEUNEU_LOG_FORMAT"
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
_ROOT: Final = "neuneu"
_checkpoint: ContextVar[tuple[str, str, int] | None] = ContextVar("checkpoint", default=None)


def set_up(level: str | None = None, format_: str | None = None) -> None:
    """Send the tree's lines to stderr; call it again to change level and format.

    The choice is also put into this process's environment, for the processes it starts.

    Args:
        level: one of `LEVELS`; None reads NEUNEU_LOG_LEVEL, by default `warning`.
        format_: one of `FORMATS`; None reads NEUNEU_LOG_FORMAT, by default `text`.

    Raises:
        UserError: another level or format.
    """
    chosen = {
        LEVEL_VARIABLE: _choice(level, LEVEL_VARIABLE, "--log-level", LEVELS, "warning"),
        FORMAT_VARIABLE: _choice(format_, FORMAT_VARIABLE, "--log-format", FORMATS, "text"),
    }
    os.environ |= chosen
    handler = _Stderr()
    handler.addFilter(_add_checkpoint)
    handler.setFormatter(_Json() if chosen[FORMAT_VARIABLE] == "json" else _Text())
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(chosen[LEVEL_VARIABLE].upper())
    root.propagate = False
    sys.excepthook = _log_uncaught


def environment() -> dict[str, str]:
    """Return the variables that make another process, on any machine, log like this one."""
    names = (LEVEL_VARIABLE, FORMAT_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}


def follow(variables: Mapping[str, str]) -> None:
    """Set this process up like the one with this `environment`."""
    os.environ |= variables
    set_up()


def as_json() -> bool:
    """Return whether stderr must hold nothing but JSON."""
    return any(isinstance(h.formatter, _Json) for h in logging.getLogger(_ROOT).handlers)


@contextmanager
def checkpoint(suite: str, run: str, step: int) -> Iterator[None]:
    """Name a checkpoint in all lines that this thread logs inside the block."""
    token = _checkpoint.set((suite, run, step))
    try:
        yield
    finally:
        _checkpoint.reset(token)


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that, in any thread, names this thread's current checkpoint in its logs."""
    context = copy_context()

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(function, *args, **kwargs)

    return run


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Log an unexpected exception with its traceback but without secrets."""
    logging.getLogger(_ROOT).critical("a defect of neuneu", exc_info=(kind, error, trace))


class _Stderr(logging.StreamHandler):
    """Write to the current `sys.stderr`, which a live progress bar replaces."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def _add_checkpoint(record: logging.LogRecord) -> bool:
    about = _checkpoint.get()
    if about is not None:
        record.suite, record.run, record.step = about
    return True


_STANDARD: Final = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the checkpoint and the `extra` fields, without those that Ray adds to each line."""
    return {
        key: value
        for key, value in record.__dict__.items()
        if key not in _STANDARD and not key.startswith(("_ray", "vllm_"))
    }


class _Text(logging.Formatter):
    """12:00:00 WARNING extraction.worker [suite/run step 5] message  key=value"""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        about = ""
        if {"suite", "run", "step"} <= fields.keys():
            about = " [{suite}/{run} step {step}]".format_map(fields)
            fields = {key: fields[key] for key in fields if key not in {"suite", "run", "step"}}
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        name = record.name.removeprefix(f"{_ROOT}.")
        line = f"{time} {record.levelname} {name}{about} {record.getMessage()}"
        if fields:
            line += "  " + " ".join(f"{key}={_short(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


class _Json(logging.Formatter):
    """Format each record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **_fields(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(cleaned(fields))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _choice(
    given: str | None, variable: str, option: str, known: tuple[str, ...], default: str
) -> str:
    value = given or os.environ.get(variable) or default
    if value.lower() not in known:
        where = option if given else variable
        raise UserError(f"{where}: expected one of {', '.join(known)}, found {value!r}.")
    return value.lower()
