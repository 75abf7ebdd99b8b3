"""Folders of tunings, file for file as Ray Tune writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuneu.reports.tuning.analysis import Analysis, analyse
from neuneu.reports.tuning.results import read_results

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
    {"metric": "calibration_error", "mode": "min"},
]
DEFAULTS = {LEARNING_RATE: 2e-3, BLOCKS: 2, DROPOUT: 0.1}
BASE = {"accuracies": "a.parquet", "cross_run": {"report_steps": 7}, "seed": 3}


def plan(**changes: Any) -> dict[str, Any]:
    """The `tune.json` of a search with one objective."""
    return {
        "name": "small", "objectives": [{"metric": "validation_pinball", "mode": "min"}],
        "scheduler": "asha", "time_attr": "epoch", "epochs": EPOCHS, "space": SPACE, "base": BASE,
        "trials": 0, **changes,
    }  # fmt: skip


@dataclass
class Given:
    """One trial as a test states it; values are those after epochs 1, 2, ..."""

    values: Sequence[float] = ()
    status: str = "TERMINATED"
    second: Sequence[float] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 10.0
    done: bool | None = None
    """Whether the scheduler ended it; None: it did if the trial is TERMINATED."""
    ended_itself: bool = False
    error: str = ""
    files: bool = True

    def parameters_of(self, number: int) -> dict[str, Any]:
        return {LEARNING_RATE: 1e-3 * number, BLOCKS: 1 + number % 4, DROPOUT: 0.0} | dict(
            self.parameters
        )


def trial_id(number: int) -> str:
    return f"{number:08x}"


def trial_folder(number: int) -> str:
    return f"train_{trial_id(number)}_{number}_cross_run_lr={number},b=8_2026-11-23_03-33-51"


def write_tuning(
    folder: Path, given: Sequence[Given], /, *, state: bool = True, **changes: Any
) -> Path:
    """Writes a tuning; trial numbers count from 1. `changes` are to the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    plan_ = plan(**({"trials": len(given)} | changes))
    (folder / "tune.json").write_text(json.dumps(plan_))
    rows = []
    for number, one in enumerate(given, 1):
        reports = [_report(one, number, epoch) for epoch in range(1, len(one.values) + 1)]
        ended = one.status == "TERMINATED" and not one.ended_itself
        if reports and (ended if one.done is None else one.done):
            reports[-1]["done"] = True
        rows.append(_state(one, number, reports))
        if one.files:
            _write_trial(folder / "experiment" / trial_folder(number), one, number, reports)
    if state and given:
        name = "experiment_state-2026-11-23_03-33-51.json"
        (folder / "experiment").mkdir(exist_ok=True)
        content = {"trial_data": rows, "runner_data": {}, "stats": {"start_time": 1.0}}
        (folder / "experiment" / name).write_text(json.dumps(content))
    return folder


def write_rerun(folder: Path, number: int, values: Sequence[float]) -> None:
    """A `history.csv` of the trial's parameters trained to the end."""
    path = folder / "reruns" / trial_id(number) / "history.csv"
    path.parent.mkdir(parents=True)
    rows = [f"{e},{10 * e},{v}" for e, v in enumerate(values, 1)]
    path.write_text("\n".join(["epoch,step,validation_pinball", *rows, ""]))


def _report(given: Given, number: int, epoch: int) -> dict[str, Any]:
    value = given.values[epoch - 1]
    row = {"epoch": epoch, "step": 10 * epoch, "validation_pinball": value}
    row |= {"validation_mae": 2 * value, "validation_coverage_80": 0.75}
    if given.second:
        row["calibration_error"] = given.second[epoch - 1]
    return row | {
        "timestamp": 1795404841 + epoch, "checkpoint_dir_name": None, "done": False,
        "training_iteration": epoch, "trial_id": trial_id(number), "date": "2026-11-23_03-34-01",
        "time_this_iter_s": given.seconds, "time_total_s": given.seconds * epoch, "pid": 25759,
        "hostname": "host", "node_ip": "127.0.0.1", "config": given.parameters_of(number),
        "time_since_restore": given.seconds * epoch, "iterations_since_restore": epoch,
    }  # fmt: skip


def _state(given: Given, number: int, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    pickled = {"_type": "CLOUDPICKLE_FALLBACK", "value": "80054e2e"}
    entry = {
        "stub": False, "trainable_name": "train", "trial_id": trial_id(number),
        "storage": pickled, "config": given.parameters_of(number),
        "evaluated_params": given.parameters_of(number),
        "experiment_tag": f"{number}_cross_run_lr={number},b=8", "status": given.status,
        "relative_logdir": trial_folder(number), "results": "80054e2e",
    }  # fmt: skip
    last = dict(reports[-1]) if reports else {"trial_id": trial_id(number)}
    if given.status == "TERMINATED":
        last["done"] = True
    run = {
        "start_time": 1.0, "num_failures": int(given.status == "ERROR"),
        "error_filename": "error.txt" if given.status == "ERROR" else None,
        "last_result": last, "last_result_time": float("-inf"), "checkpoint_manager": pickled,
    }  # fmt: skip
    return [json.dumps(entry, indent=2), json.dumps(run, indent=2)]


def _write_trial(
    folder: Path, given: Given, number: int, reports: Sequence[Mapping[str, Any]]
) -> None:
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(given.parameters_of(number), indent=2))
    (folder / "params.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in reports))
    if given.status == "ERROR":
        (folder / "error.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        (folder / "error.txt").write_text(
            "Failure # 1 (occurred at 2026-11-23_03-35-49)\n"
            "\x1b[36mray::ImplicitFunc.train()\x1b[39m (pid=1, ip=127.0.0.1)\n"
            f'  File "train.py", line 11, in f\n{given.error}\n'
        )


def falling(end: float, epochs: int = EPOCHS) -> list[float]:
    """A curve that reaches `end` after all epochs, 0.01 an epoch before."""
    return [end + 0.01 * (EPOCHS - epoch) for epoch in range(1, epochs + 1)]


def analysed(folder: Path, *given: Given, **changes: Any) -> Analysis:
    return analyse(read_results(str(write_tuning(folder, given, **changes))))


def by_learning_rate(stopped: int = 0) -> list[Given]:
    """12 trials whose values follow the learning rate alone; the last ones are stopped."""
    rates = [1e-4 * 1.8**n for n in range(12)]
    return [
        Given(
            falling(0.1 + 0.1 * n, 4 if n >= 12 - stopped else EPOCHS),
            parameters={LEARNING_RATE: rate, BLOCKS: 1 + (7 * n) % 4, DROPOUT: (0.0, 0.3)[n % 2]},
        )
        for n, rate in enumerate(rates)
    ]
