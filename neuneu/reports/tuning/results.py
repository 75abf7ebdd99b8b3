"""What a tuning experiment left in its folder: its plan and its trials.

Ray Tune's files are read as JSON; what is pickled in them is never loaded.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import pydantic

from neuneu.core.errors import UserError
from neuneu.core.storage import THREADS, Folder
from neuneu.training.tuning.trial_files import (
    Report,
    TrialState,
    last_error,
    read_history,
    read_reports,
    read_states,
)

PLAN: Final = "tune.json"
EXPERIMENT: Final = "experiment"
RERUNS: Final = "reruns"

Status = Literal["finished", "stopped", "unfinished", "failed", "not started"]
STATUS_IN_WORDS: Final[dict[Status, str]] = {
    "finished": "finished",
    "stopped": "stopped early",
    "unfinished": "running or interrupted",
    "failed": "failed",
    "not started": "not started",
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric that the search makes small or large."""

    metric: str
    mode: Literal["min", "max"] = "min"

    @property
    def words(self) -> str:
        """As in `validation pinball`."""
        return self.metric.replace("_", " ")

    def loss(self, value: float) -> float:
        """The value where less is better."""
        return value if self.mode == "min" else -value


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A parameter that is searched: `key` is its dotted place in the training config."""

    key: str
    kind: Literal["float", "int", "choice"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    values: tuple[Any, ...] = ()
    default: Any = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for, as the tuning wrote it before its first trial.

    `epochs` is the last epoch of an undisturbed trial, `trials` how many were wanted. `base` is
    the training config that a trial's parameters are laid over.
    """

    objectives: tuple[Objective, ...] = pydantic.Field(min_length=1, max_length=2)
    epochs: pydantic.PositiveInt
    name: str = "tuning"
    scheduler: str = "none"
    time_attr: str = "epoch"
    space: tuple[Dimension, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    trials: pydantic.NonNegativeInt = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of the search: what it was given, what it reported, how it ended.

    `reports` are in order of epochs, one an epoch. `seconds` counts repeated epochs too.
    `rerun` are the reports of the same parameters trained to the end later, where they were.
    """

    id: str
    number: int
    status: Status
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    seconds: float = 0.0
    error: str = ""
    rerun: tuple[Report, ...] = ()

    @property
    def epochs(self) -> int:
        """The last epoch it reported; 0 without a report."""
        return self.reports[-1].epoch if self.reports else 0

    def value(self, metric: str, epoch: int) -> float | None:
        """A metric after an epoch, None where it was not reported or is not finite."""
        found = next((r for r in self.reports if r.epoch == epoch), None)
        return None if found is None else found.metrics.get(metric)


@dataclass(frozen=True, kw_only=True)
class Results:
    """An experiment: its plan, its trials by number, and what of it could not be read."""

    folder: str
    plan: Plan
    trials: tuple[Trial, ...]
    problems: tuple[str, ...] = ()

    def led_by(self, metric: str | None) -> "Results":
        """The same with another objective as the main one; None changes nothing.

        Raises:
            UserError: the experiment has no such objective.
        """
        objectives = self.plan.objectives
        if metric is None:
            return self
        names = [objective.metric for objective in objectives]
        if metric not in names:
            raise UserError(
                f"--objective {metric}: expected an objective of the experiment "
                f"({' or '.join(names)})."
            )
        ordered = sorted(objectives, key=lambda objective: objective.metric != metric)
        return replace(self, plan=replace(self.plan, objectives=tuple(ordered)))


def read_results(address: str | Folder) -> Results:
    """Reads a finished, running, interrupted or partly failed experiment.

    Args:
        address: the folder of a tuning, local or s3://bucket/folder.

    Raises:
        UserError: the folder holds no experiment, or its plan cannot be read.
        StorageError: S3 failed although retried.
    """
    folder = Folder(address)
    plan = _read_plan(folder)
    files = folder.files()
    wanted = [name for name in files if _is_read(name)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: _read(folder, name), wanted)
        contents = {n: text for n, text in zip(wanted, found, strict=True) if text is not None}
    problems: list[str] = []
    states: dict[str, TrialState] = {}
    for name in sorted(contents):
        if name.startswith(f"{EXPERIMENT}/experiment_state-"):
            states |= _try(name, read_states, contents[name], problems) or {}
    by_folder = {state.folder: state for state in states.values()}
    for name in files:
        parts = name.split("/")
        if parts[0] == EXPERIMENT and len(parts) > 2 and parts[-1] in _TRIAL_FILES:
            by_folder.setdefault(parts[1], TrialState.of_folder(parts[1]))
    trials = [_read_trial(state, contents, plan, problems) for state in by_folder.values()]
    trials.sort(key=lambda trial: (trial.number, trial.id))
    return Results(folder=str(folder), plan=plan, trials=tuple(trials), problems=tuple(problems))


_TRIAL_FILES: Final = ("params.json", "result.json", "error.txt")


def _is_read(name: str) -> bool:
    parts = name.split("/")
    if parts[0] == RERUNS:
        return len(parts) == 3 and parts[2] == "history.csv"
    if parts[0] != EXPERIMENT:
        return False
    state = parts[-1].startswith("experiment_state-") and parts[-1].endswith(".json")
    return (len(parts) == 2 and state) or (len(parts) == 3 and parts[2] in _TRIAL_FILES)


def _read(folder: Folder, name: str) -> str | None:
    """None where the file went away since it was listed: the experiment may be running."""
    try:
        return folder.read(name).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _read_plan(folder: Folder) -> Plan:
    try:
        content = folder.read(PLAN)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{folder}: expected the folder of a tuning with {PLAN} and {EXPERIMENT}/, found no "
            f"{PLAN}; make one with `neuneu tune`."
        ) from None
    try:
        return pydantic.TypeAdapter(Plan).validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{folder}/{PLAN}: expected the plan of a tuning, found "
            f"{f'{place}: ' if place else ''}{first['msg']}; is it whole?"
        ) from error


def _try(
    name: str, read: Callable[[str], Mapping[str, Any]], content: str, problems: list[str]
) -> Mapping[str, Any] | None:
    try:
        return read(content)
    except ValueError:
        problems.append(f"{name} is damaged and was left out.")
        return None


def _read_trial(
    state: TrialState, contents: Mapping[str, str], plan: Plan, problems: list[str]
) -> Trial:
    path = f"{EXPERIMENT}/{state.folder}"
    log = read_reports(contents.get(f"{path}/result.json", ""), plan.time_attr)
    if log.damaged:
        problems.append(
            f"{path}/result.json: {log.damaged} unreadable line(s), as a crash or a running "
            "trial leaves them; the rest was read."
        )
    given = f"{path}/params.json"
    parameters = _try(given, _mapping, contents[given], problems) if given in contents else None
    trial_id = log.trial_id or state.id
    rerun = contents.get(f"{RERUNS}/{trial_id}/history.csv")
    status = _status(state, log.reports, plan, done=log.done, error=f"{path}/error.txt" in contents)
    return Trial(
        id=trial_id,
        number=state.number,
        status=status,
        parameters=parameters or log.parameters or state.parameters,
        reports=log.reports,
        seconds=log.seconds,
        error=last_error(contents.get(f"{path}/error.txt", "")) if status == "failed" else "",
        rerun=() if rerun is None else read_history(rerun, plan.time_attr),
    )


def _status(
    state: TrialState, reports: tuple[Report, ...], plan: Plan, *, done: bool, error: bool
) -> Status:
    """What became of a trial; its own files are newer than Ray's list of trials.

    A report with `done` is one after which the scheduler ended the trial. A trial that ends by
    itself (patience) is done in Ray's list only.
    """
    if state.status == "ERROR" or (error and not state.status):
        return "failed"
    if reports and reports[-1].epoch >= plan.epochs:
        return "finished"
    if done:
        return "stopped"
    if state.status == "TERMINATED" and state.done:
        return "finished" if reports else "failed"
    return "unfinished" if reports or state.status in {"RUNNING", "PAUSED"} else "not started"


def _mapping(content: str) -> Mapping[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"expected a mapping, found {type(found).__name__}")  # noqa: TRY004
    return found
