"""What a trial tells Ray Tune: every epoch once, also after a kill, and no hang when it fails."""

import threading
from pathlib import Path
from typing import Any

import pytest

from neuneu.core.ray_session import ray_session
from neuneu.core.storage import Folder
from neuneu.training.tuning.trial import Passing, not_passed, reported_before, reporting

HISTORY = [{"epoch": float(n), "validation_coverage_80": 0.7} for n in (1, 2, 3, 4)]


def test_epochs_that_tune_lost_are_told_at_the_end() -> None:
    assert [row["epoch"] for row in not_passed(HISTORY, 2.0, 0.0)] == [3, 4]
    assert not_passed(HISTORY, 4.0, 0.0) == []
    (last,) = not_passed(HISTORY, 1.0, 3.0)
    assert (last["epoch"], last["calibration_error"]) == (4, pytest.approx(0.1))


def test_last_epoch_of_a_log_that_was_cut_off(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert reported_before(folder) == 0.0
    folder.write("result.json", b'{"epoch": 1.0}\n{"epoch": 2.0}\n{"epo')
    assert reported_before(folder) == 2.0
    folder.write("result.json", b"[]\n")
    assert reported_before(folder) == 0.0


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
