"""The files of one Ray Tune trial, parsed: pure functions of their text."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_BOOKKEEPING: Final = frozenset(
    {"timestamp", "training_iteration", "pid", "iterations_since_restore", "step", "done"}
)
"""Numbers of a report that are no metrics; so are those whose names start with `time_`."""

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION: Final = re.compile(
    r"^(\w+\.)*\w*(Error|Exception|Interrupt|Exit|Timeout)(\(\w+\))?(:|$)"
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial said after an epoch; metrics that are not finite are left out."""

    epoch: int
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialLog:
    """A trial's reports in order of epochs, and what else their file says.

    `done`: the last report ended the trial. `damaged` counts lines that could not be read.
    """

    reports: tuple[Report, ...] = ()
    seconds: float = 0.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trial_id: str = ""
    done: bool = False
    damaged: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialState:
    """A trial in Ray's list of trials; `status` is empty where it is not in the list."""

    id: str
    folder: str
    number: int
    status: str = ""
    done: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: str) -> "TrialState":
        """What the name of a trial's folder says: `train_c3ee8e42_4_lr=0.01_<time>`."""
        found = re.match(r"[^=]*?_([0-9a-f]{8}|[0-9a-f]+_\d{5})_(\d+)(_|$)", folder)
        if found is None:
            return cls(id=folder, folder=folder, number=0)
        return cls(id=found[1], folder=folder, number=int(found[2]))


def read_states(content: str) -> dict[str, TrialState]:
    """The trials of an `experiment_state-*.json`, by id.

    Raises:
        ValueError: not the JSON that Ray writes.
    """
    try:
        rows = json.loads(content)["trial_data"]
        states = [_state(*map(_decoded, row[:2])) for row in rows]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("expected Ray Tune's list of trials") from error
    return {state.id: state for state in states}


def read_reports(content: str, time_attr: str) -> TrialLog:
    """The reports of a `result.json`, one JSON object a line.

    A trial that was restored repeats epochs; the last report of an epoch counts. The seconds are
    those of all reports.

    Args:
        content: the file, whose last line may be cut off.
        time_attr: the key of the epoch; without it Ray's own count of reports is taken.
    """
    reports: dict[int, Report] = {}
    seconds, damaged, done = 0.0, 0, False
    parameters: Mapping[str, Any] = {}
    trial_id = ""
    for line in filter(str.strip, content.splitlines()):
        try:
            row = json.loads(line)
            epoch = _integer(row.get(time_attr, row.get("training_iteration")))
        except (ValueError, AttributeError):
            damaged += 1
            continue
        seconds += _finite(row.get("time_this_iter_s")) or 0.0
        done = row.get("done") is True
        trial_id = str(row.get("trial_id") or trial_id)
        if isinstance(row.get("config"), dict):
            parameters = row["config"] or parameters
        if epoch is not None:
            reports[epoch] = _report(epoch, row, time_attr)
    return TrialLog(
        reports=tuple(reports[epoch] for epoch in sorted(reports)),
        seconds=seconds,
        parameters=parameters,
        trial_id=trial_id,
        done=done,
        damaged=damaged,
    )


def read_history(content: str, time_attr: str) -> tuple[Report, ...]:
    """The rows of a training's `history.csv` that can be read, one an epoch."""
    reports = {}
    for row in csv.DictReader(io.StringIO(content)):
        if None in row.values():  # cut off
            continue
        epoch = _integer(row.get(time_attr))
        numbers = {key: _finite(value) for key, value in row.items() if isinstance(key, str)}
        if epoch is not None:
            reports[epoch] = _report(epoch, numbers, time_attr)
    return tuple(reports[epoch] for epoch in sorted(reports))


def last_error(content: str) -> str:
    """The line of a traceback that names the exception; else its last line."""
    lines = [line for line in _ESCAPES.sub("", content).splitlines() if line.strip()]
    named = [line for line in lines if _EXCEPTION.match(line)]
    return (named or lines or [""])[-1].strip()


def _state(entry: Mapping[str, Any], run: Mapping[str, Any]) -> TrialState:
    folder = str(entry.get("relative_logdir") or "")
    tag = re.match(r"\d+", str(entry.get("experiment_tag") or ""))
    return TrialState(
        id=str(entry["trial_id"]),
        folder=folder or str(entry["trial_id"]),
        number=int(tag[0]) if tag else TrialState.of_folder(folder).number,
        status=str(entry.get("status") or ""),
        done=(run.get("last_result") or {}).get("done") is True,
        parameters=entry.get("config") or {},
    )


def _decoded(part: Any) -> Any:
    """Ray writes JSON within JSON."""
    return json.loads(part) if isinstance(part, str) else part


def _report(epoch: int, row: Mapping[str, Any], time_attr: str) -> Report:
    metrics = {
        key: number
        for key, value in row.items()
        if key not in _BOOKKEEPING and key != time_attr and not key.startswith("time_")
        and (number := _finite(value)) is not None and not isinstance(value, str)
    }  # fmt: skip
    return Report(epoch=epoch, step=_integer(row.get("step")), metrics=metrics)


def _integer(value: Any) -> int | None:
    number = _finite(value)
    return None if number is None else round(number)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
