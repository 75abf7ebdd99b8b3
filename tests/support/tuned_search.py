"""Folders of searches, as the driver writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuneu.reports.tuning.analysis import Analysis, analyse
from neuneu.training.tuning.experiment import (
    SETTINGS,
    TRIALS,
    Report,
    Status,
    Trial,
    read_experiment,
    trial_lines,
)

LEARNING_RATE = "cross_run.optim.learning_rate"
BLOCKS = "cross_run.network.blocks"
DROPOUT = "cross_run.network.dropout"
EPOCHS = 9

SPACE = [
    {"key": LEARNING_RATE, "kind": "float", "low": 1e-4, "high": 1e-1, "log": True,
     "default": 2e-3, "reason": "sets the pace"},
    {"key": BLOCKS, "kind": "int", "low": 1, "high": 4, "default": 2, "reason": "depth"},
    {"key": DROPOUT, "kind": "choice", "values": [0.0, 0.1, 0.3], "default": 0.1, "reason": ""},
]  # fmt: skip
TWO_OBJECTIVES = [
    {"metric": "validation_pinball"},
    {"metric": "calibration_error"},
]
DEFAULTS = {LEARNING_RATE: 2e-3, BLOCKS: 2, DROPOUT: 0.1}
BASE = {"accuracies": "a.parquet", "cross_run": {"report_steps": 7}, "seed": 3}


def plan(**changes: Any) -> dict[str, Any]:
    """Return the `tune.json` of a search with one objective."""
    return {
        "name": "small", "objectives": [{"metric": "validation_pinball", "mode": "min"}],
        "scheduler": "asha", "time_attr": "epoch", "epochs": EPOCHS, "space": SPACE, "base": BASE,
        "trials": 0, **changes,
    }  # fmt: skip


@dataclass
class Given:
    """A trial as a test specifies it; `values` are those after epochs 1, 2, ..."""

    values: Sequence[float] = ()
    status: Status | None = None
    """None: finished if it has all epochs, else stopped."""
    second: Sequence[float] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 10.0
    error: str = ""

    def trial(self, number: int) -> Trial:
        status: Status = "finished" if len(self.values) >= EPOCHS else "stopped"
        trial = Trial(
            id=trial_id(number),
            number=number,
            status=self.status or status,
            parameters={LEARNING_RATE: 1e-3 * number, BLOCKS: 1 + number % 4, DROPOUT: 0.0}
            | dict(self.parameters),
            error=self.error,
        )
        for epoch, value in enumerate(self.values, 1):
            row = {"epoch": epoch, "step": 10 * epoch, "validation_pinball": value}
            row |= {"validation_mae": 2 * value, "validation_coverage_80": 0.75}
            if self.second:
                row["calibration_error"] = self.second[epoch - 1]
            trial = trial.reporting(Report.of_row(row), self.seconds)
        return trial


def trial_id(number: int) -> str:
    return f"{number:08x}"


def write_tuning(folder: Path, given: Sequence[Given], /, **changes: Any) -> Path:
    """Write a search with trials numbered from 1; `changes` apply to the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(plan(**({"trials": len(given)} | changes))))
    trials = [one.trial(number) for number, one in enumerate(given, 1)]
    (folder / TRIALS).write_bytes(trial_lines(trials))
    return folder


def write_rerun(folder: Path, number: int, values: Sequence[float]) -> None:
    """Write a `history.csv` of the trial's parameters trained to the end."""
    path = folder / "reruns" / trial_id(number) / "history.csv"
    path.parent.mkdir(parents=True)
    rows = [f"{e},{10 * e},{v}" for e, v in enumerate(values, 1)]
    path.write_text("\n".join(["epoch,step,validation_pinball", *rows, ""]))


def falling(end: float, epochs: int = EPOCHS) -> list[float]:
    """Return values that reach `end` in the last epoch, decreasing by 0.01 per epoch."""
    return [end + 0.01 * (EPOCHS - epoch) for epoch in range(1, epochs + 1)]


def analysed(folder: Path, *given: Given, **changes: Any) -> Analysis:
    return analyse(read_experiment(str(write_tuning(folder, given, **changes))))


def by_learning_rate(stopped: int = 0) -> list[Given]:
    """Return 12 trials whose values depend on the learning rate only; the last ones are stopped."""
    rates = [1e-4 * 1.8**n for n in range(12)]
    return [
        Given(
            falling(0.1 + 0.1 * n, 4 if n >= 12 - stopped else EPOCHS),
            parameters={LEARNING_RATE: rate, BLOCKS: 1 + (7 * n) % 4, DROPOUT: (0.0, 0.3)[n % 2]},
        )
        for n, rate in enumerate(rates)
    ]
