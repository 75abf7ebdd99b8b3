"""The folder of a search: its plan (`tune.json`) and its trials (`trials.jsonl`), one a line.

The driver records trials itself, since Ray Tune's files are pickled and change with its version.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import pydantic

from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.training.tuning.space import Parameter

SETTINGS: Final = "tune.json"
TRIALS: Final = "trials.jsonl"
RERUNS: Final = "reruns"

Status = Literal["finished", "stopped", "unfinished", "failed", "not started"]
STATUS_LABELS: Final[dict[Status, str]] = {
    "finished": "finished",
    "stopped": "stopped early",
    "unfinished": "running or interrupted",
    "failed": "failed",
    "not started": "not started",
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric that the search minimises."""

    metric: str

    @property
    def label(self) -> str:
        """As in `validation pinball`."""
        return self.metric.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The contents of `tune.json`, written before the first trial.

    `epochs` is the last epoch of a trial that runs to the end, `trials` the number requested.
    `base` is the training config that the parameters of a trial are merged into.
    """

    objectives: tuple[Objective, ...] = pydantic.Field(min_length=1, max_length=2)
    epochs: pydantic.PositiveInt
    name: str = "tuning"
    scheduler: str = "none"
    space: tuple[Parameter, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    trials: pydantic.NonNegativeInt = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial reported after an epoch; metrics that are not finite are left out."""

    epoch: int
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Report":
        """The report in a row of a training's history."""
        numbers = {
            name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        epoch, step = int(numbers.pop("epoch")), numbers.pop("step", None)
        return cls(epoch=epoch, step=None if step is None else int(step), metrics=numbers)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search.

    `reports` are in order of epochs, the last one of each epoch; `seconds` also counts epochs that
    were repeated after an interruption.
    """

    id: str
    number: int
    status: Status
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def epochs(self) -> int:
        """The last epoch reported; 0 without a report."""
        return self.reports[-1].epoch if self.reports else 0

    def value(self, metric: str, epoch: int) -> float | None:
        """A metric after an epoch; None where it was not reported or is not finite."""
        return next((r.metrics.get(metric) for r in self.reports if r.epoch == epoch), None)

    def reporting(self, report: Report, seconds: float) -> "Trial":
        """The trial with another report, which replaces an earlier one of the same epoch."""
        reports = {r.epoch: r for r in (*self.reports, report)}
        return replace(
            self,
            reports=tuple(reports[epoch] for epoch in sorted(reports)),
            seconds=self.seconds + seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A search as recorded so far; `reruns` are reports of stopped trials trained to the end."""

    folder: str
    plan: Plan
    trials: tuple[Trial, ...]
    reruns: Mapping[str, tuple[Report, ...]] = field(default_factory=dict)

    def led_by(self, metric: str | None) -> "Experiment":
        """The experiment with `metric` as its first objective; None changes nothing.

        Raises:
            UserError: the search has no such objective.
        """
        names = [objective.metric for objective in self.plan.objectives]
        if metric is None:
            return self
        if metric not in names:
            raise UserError(
                f"--objective {metric}: expected an objective of the search ({' or '.join(names)})."
            )
        ordered = sorted(self.plan.objectives, key=lambda objective: objective.metric != metric)
        return replace(self, plan=replace(self.plan, objectives=tuple(ordered)))


def read_experiment(address: "str | Folder") -> Experiment:
    """Reads the folder of a search, whether it has ended, is running or was interrupted.

    Raises:
        UserError: the folder holds no search, or one of its files cannot be read.
        StorageError: S3 failed despite retries.
    """
    folder = Folder(address)
    plan = _read_plan(folder)
    trials = read_trials(folder)
    return Experiment(
        folder=str(folder), plan=plan, trials=trials, reruns=dict(_read_reruns(folder))
    )


def read_trials(folder: Folder) -> tuple[Trial, ...]:
    """The trials of a search, by number.

    Raises:
        UserError: no file of trials, or one that neuneu did not write.
    """
    try:
        lines = folder.read(TRIALS).splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{folder}: expected {TRIALS}, found none: an older neuneu made this search; start a "
            "new one with `neuneu tune` in another output."
        ) from None
    adapter = pydantic.TypeAdapter(Trial)
    try:
        return tuple(adapter.validate_json(line) for line in lines)
    except pydantic.ValidationError as error:
        raise UserError(
            f"{folder}/{TRIALS}: expected a trial on each line, found {_problem(error)}; restore "
            "the file or start a new search."
        ) from error


def trial_lines(trials: Iterable[Trial]) -> bytes:
    """The content of `trials.jsonl`."""
    return "".join(
        json.dumps(asdict(trial), default=lambda value: value.item()) + "\n" for trial in trials
    ).encode()


def _read_plan(folder: Folder) -> Plan:
    try:
        return pydantic.TypeAdapter(Plan).validate_json(folder.read(SETTINGS))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{folder}: expected the folder of a search, found no {SETTINGS}; make one with "
            "`neuneu tune`."
        ) from None
    except pydantic.ValidationError as error:
        raise UserError(
            f"{folder}/{SETTINGS}: expected the plan of a search, found {_problem(error)}; is the "
            "file complete?"
        ) from error


def _read_reruns(folder: Folder) -> Iterable[tuple[str, tuple[Report, ...]]]:
    for name in (folder / RERUNS).files("/history.csv"):
        rows = csv.DictReader(io.StringIO((folder / RERUNS).read(name).decode()))
        numbers = ({key: float(v) for key, v in row.items() if v} for row in rows)
        yield name.split("/")[0], tuple(map(Report.of_row, numbers))


def _problem(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
