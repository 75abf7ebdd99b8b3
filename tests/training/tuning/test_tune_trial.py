"""What a trial tells Ray Tune: every epoch once, also after a kill, and no hang when it fails."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neuneu.core.ray_session import ray_session
from neuneu.core.storage import Folder
from neuneu.training.tuning.experiment import TRIALS, Report, read_trials
from neuneu.training.tuning.recorder import TrialRecorder, last_error
from neuneu.training.tuning.trial import Passing, not_passed, reporting

HISTORY = [{"epoch": float(n), "validation_coverage_80": 0.7} for n in (1, 2, 3, 4)]


def test_epochs_that_tune_lost_are_told_at_the_end() -> None:
    assert [row["epoch"] for row in not_passed(HISTORY, 2.0, 0.0)] == [3, 4]
    assert not_passed(HISTORY, 4.0, 0.0) == []
    (last,) = not_passed(HISTORY, 1.0, 3.0)
    assert (last["epoch"], last["calibration_error"]) == (4, pytest.approx(0.1))


def test_takes_only_the_line_that_names_the_exception() -> None:
    named = "ray.exceptions.RayTaskError(ValueError): a"
    assert last_error(f"Traceback:\n  x\n{named}\nmore: b\n") == named
    coloured = "\x1b[36mx\ntorch.OutOfMemoryError: 3 GB\x1b[39m\nTry less\n"
    assert last_error(coloured) == "torch.OutOfMemoryError: 3 GB"
    assert last_error("killed\n\n") == "killed"
    assert last_error("") == ""


def test_recorder_follows_trials_through_an_interruption(tmp_path: Path) -> None:
    def event(recorder: TrialRecorder, name: str, trial: str, **more: Any) -> None:
        trials = {
            name: SimpleNamespace(trial_id=name, config={"a": np.int64(1)}, error_file=error)
            for name in "abcde"
        }
        getattr(recorder, name)(iteration=0, trials=[*trials.values()], trial=trials[trial], **more)

    def result(recorder: TrialRecorder, trial: str, epoch: int, *, done: bool = False) -> None:
        row = {"epoch": float(epoch), "validation_mae": 0.5, "loss": np.nan, "config": {"a": 1},
               "time_this_iter_s": 2.0, "timestamp": 3, "done": done}  # fmt: skip
        event(recorder, "on_trial_result", trial, result=row)

    error = tmp_path / "error.txt"
    error.write_text("Failure # 1\nValueError: too fast\nsecond line\n")
    folder = Folder(tmp_path)
    folder.write(TRIALS, b"")
    first = TrialRecorder(folder, 3)
    first.setup()
    for trial in "bacd":
        event(first, "on_trial_start", trial)
    result(first, "a", 1)
    result(first, "b", 1, done=True)
    event(first, "on_trial_error", "c")
    event(first, "on_trial_complete", "d")
    trials = read_trials(folder)
    assert [t.status for t in trials] == [
        "unfinished",
        "stopped",
        "failed",
        "failed",
        "not started",
    ]
    assert [t.number for t in trials] == [1, 2, 3, 4, 5]
    assert trials[2].error == "ValueError: too fast"
    assert trials[0].parameters == {"a": 1}
    assert trials[0].reports == (Report(epoch=1, metrics={"validation_mae": 0.5}),)

    again = TrialRecorder(folder, 3)
    again.setup()
    event(again, "on_trial_start", "a")
    for epoch in (1, 2, 3):
        result(again, "a", epoch, done=epoch == 3)
    event(again, "on_trial_start", "c")
    result(again, "c", 1)
    event(again, "on_trial_complete", "c")
    trials = read_trials(folder)
    assert [t.status for t in trials] == [
        "finished",
        "stopped",
        "finished",
        "failed",
        "not started",
    ]
    assert (trials[0].epochs, trials[0].seconds, trials[2].error) == (3, 8.0, "")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_tune_refuses_is_raised_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import tune

    told: list[dict[str, Any]] = []

    def refuse(row: dict[str, Any], checkpoint: Any) -> None:
        del checkpoint
        told.append(row)
        if len(told) == 2:
            raise OSError("bucket away")

    monkeypatch.setattr(tune, "report", refuse)

    def train(passing: Passing) -> None:
        for row in HISTORY:
            passing.callback.after_report(None, [row], None)

    def trial(*, states: bool) -> None:
        with reporting(states=states) as passing:
            training = threading.Thread(target=train, args=[passing], daemon=True)
            training.start()
            training.join(120)
            assert not training.is_alive(), "the training waits for nobody"
            assert passing.epoch <= 1.0

    with ray_session(num_cpus=1):
        for states in (True, False):
            told.clear()
            with pytest.raises(OSError, match="bucket away"):
                trial(states=states)
            assert [row["epoch"] for row in told] == [1, 2]
