"""A search on Ray Tune over trainings on Ray Train: real trials, interrupted, restored, rerun."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from curves import ladder, write_table
from s3_server import SECRET_KEY, S3Server

from neuneu.core.config import build_config
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.ray_session import ray_session
from neuneu.core.storage import Folder
from neuneu.forecasters.registry import load_forecaster
from neuneu.training.run import HISTORY
from neuneu.training.tuning.experiment import SETTINGS, read_trials
from neuneu.training.tuning.run import EXPERIMENT, MODELS, TuneConfig, rerun_stopped, tune
from neuneu.training.tuning.trial import with_calibration

SPACE = """
from neuneu.training.tuning.space import choice, real
SPACE = (
    real("cross_run.optim.learning_rate", 1e-4, 1e-2, log=True, default=2e-3, reason="a test"),
    choice("cross_run.network.width", (32, 96), default=96, reason="a test of a choice"),
)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    write_table(folder / "accuracies.parquet", ladder(5, n=12))
    (folder / "space.py").write_text(SPACE)
    return folder


def settings(root: Path, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "output": str(root / output),
        "space": str(root / "space.py"),
        "trials": 4,
        "grace": 1,
        "reduction": 2,
        "concurrent": 2,
        "objectives": ["validation_pinball", "calibration_error"],
        "train": {
            "accuracies": str(root / "accuracies.parquet"),
            "validation_runs": ["r4"],
            "cross_run": {"optim": {"max_steps": 30, "batch_size": 8}, "report_steps": 5},
        },
    } | changes


def config(root: Path, output: str, **changes: Any) -> TuneConfig:
    return build_config(TuneConfig, settings(root, output, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": []}, "one metric, or two different"),
        ({"objectives": ["validation_mae", "validation_mae"]}, "one metric, or two different"),
        ({"train": {"accuracies": "a.csv"}}, "name the runs that trials are compared on"),
        ({"train": {"validation_runs": ["a"], "output": "x"}}, "leave it out"),
        ({"train": {"validation_runs": ["a"], "tracking": {}}}, "set tracking beside train"),
    ],
)
def test_mistakes_are_explained(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(root, "wrong", **changes)


def test_calibration_error_is_the_distance_to_eighty_percent() -> None:
    row = with_calibration({"validation_coverage_80": 0.7, "epoch": 2})
    assert row["calibration_error"] == pytest.approx(0.1)
    assert with_calibration({"epoch": 2}) == {"epoch": 2}


WRONG = """
from neuneu.training.tuning.space import choice, real
SPACE = (
    real("cross_run.optim.learning_rat", 1e-4, 1e-2, log=True, default=2e-3, reason="no such key"),
)
"""


def test_a_space_that_does_not_fit_is_refused_before_anything_runs(root: Path) -> None:
    (root / "wrong.py").write_text(WRONG)
    with pytest.raises(UserError, match=r"learning_rat"):
        tune(config(root, "wrong", space=str(root / "wrong.py")))
    (root / "empty.py").write_text("SPACE = ()\n")
    with pytest.raises(UserError, match="the space has no key"):
        tune(config(root, "wrong", space=str(root / "empty.py")))
    (root / "shape.py").write_text(
        SPACE.replace('real("cross_run.optim.learning_rate", 1e-4, 1e-2, log=True, '
                      'default=2e-3, reason="a test"),', "")
    )  # fmt: skip
    with pytest.raises(UserError, match="only the network's shape"):
        tune(config(root, "wrong", space=str(root / "shape.py"), scheduler="pbt"))
    assert not (root / "wrong").exists()


def histories(output: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (output / EXPERIMENT).glob("*/result.json")
    }


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_interrupted_search_is_restored_with_no_trial_lost_or_doubled(root: Path) -> None:
    driver = textwrap.dedent(
        f"""
        from neuneu.core.config import build_config
        from neuneu.training.tuning.run import TuneConfig, tune
        tune(build_config(TuneConfig, {settings(root, "search")!r}))
        """
    )
    output = root / "search"
    process = subprocess.Popen([sys.executable, "-c", driver], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not any((output / MODELS).glob(f"*/{HISTORY}")):
            assert process.poll() is None, "the driver ended before a trial did"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(120)
    finally:
        process.kill()
    before = histories(output)
    assert len(before) < 4 or not all(rows[-1]["done"] for rows in before.values())
    with ray_session(num_cpus=2, dashboard=True):
        outcome = tune(config(root, "search"))
        assert outcome.failed == 0
        assert outcome.finished >= 1
        assert outcome.finished + outcome.stopped == 4
        found = histories(output)
        assert len(found) == 4
        assert set(before) <= set(found)
        parameters = [
            (output / EXPERIMENT / trial / "params.json").read_text() for trial in sorted(found)
        ]
        assert len(set(parameters)) == 4
        for trial, rows in found.items():
            epochs = [row["epoch"] for row in rows]
            assert len(epochs) == len(set(epochs)), "an epoch was reported twice"
            assert "calibration_error" in rows[-1]
            if epochs[-1] == 6:
                forecaster = load_forecaster(output / MODELS / trial, name="x")
                assert forecaster.levels
        recorded = {t.id: [r.epoch for r in t.reports] for t in read_trials(Folder(output))}
        assert recorded.keys() == found.keys()
        for trial, rows in found.items():
            epochs = [row["epoch"] for row in rows]
            assert recorded[trial] == list(range(1, int(epochs[-1]) + 1))
            # Ray's own file lacks what it had not flushed when its process was killed.
            assert set(epochs) <= set(recorded[trial])
        defaults = {"cross_run.optim.learning_rate": 2e-3, "cross_run.network.width": 96}
        assert defaults in map(json.loads, parameters)

        stopped = [trial for trial, rows in found.items() if rows[-1]["epoch"] < 6]
        trial = (stopped or sorted(found))[0]
        (history,) = rerun_stopped(config(root, "search"), [trial])
        assert len(Path(history).read_text().splitlines()) == 7
        with pytest.raises(UserError, match="is not in"):
            rerun_stopped(config(root, "search"), ["nobody"])
    with pytest.raises(UserError, match="holds another search"):
        tune(config(root, "search", trials=5))
    record = json.loads((output / SETTINGS).read_text())
    assert record["epochs"] == 6
    assert next(p["key"] for p in record["space"]) == "cross_run.optim.learning_rate"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_population_goes_on_from_better_trials(root: Path) -> None:
    """The defaults and draws of learning rates; the rate of a laggard becomes one near the best."""
    settings = config(
        root, "population", scheduler="pbt", trials=4, concurrent=2, grace=2,
        space=str(root / "rates.py"), objectives=["validation_pinball"],
    )  # fmt: skip
    (root / "rates.py").write_text(
        SPACE.replace("1e-4, 1e-2", "1e-9, 1e-2").replace("(32, 96)", "(32,)").replace("=96", "=32")
    )
    with ray_session(num_cpus=2, dashboard=True):
        outcome = tune(settings)
    assert outcome.failed == 0
    assert outcome.finished == 4
    moved = 0
    for trial, rows in histories(root / "population").items():
        assert rows[-1]["epoch"] == 6
        rates = {row["config"]["cross_run.optim.learning_rate"] for row in rows}
        assert all(1e-9 <= rate <= 1e-2 for rate in rates)
        folders = list((root / "population" / MODELS / trial).iterdir())
        assert len(folders) == len(rates)
        final = [path for path in folders if (path / HISTORY).exists()]
        assert len(final) == 1
        assert load_forecaster(final[0], name="x").levels
        moved += len(rates) > 1
        if len(rates) > 1:  # what it learnt before is that of the better one
            lines = (final[0] / HISTORY).read_text().splitlines()
            assert len(lines) == 7
    assert moved >= 1


# Seed 5 draws, after the defaults: both mistakes, NaN alone, out of memory alone.
TROUBLE = """
from neuneu.training.tuning.space import choice, real
SPACE = (
    choice("cross_run.optim.learning_rate", (2e-3, 1e30), default=2e-3, reason="NaN"),
    choice("cross_run.optim.batch_size", (8, 10**12), default=8, reason="out of memory"),
)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_trials_that_fail_say_why_and_the_others_go_on(root: Path) -> None:
    (root / "trouble.py").write_text(TROUBLE)
    settings = config(
        root, "trouble", space=str(root / "trouble.py"), trials=4, max_failures=0, seed=5,
        scheduler="none",
    )  # fmt: skip
    with ray_session(num_cpus=2, dashboard=True):
        outcome = tune(settings)
    assert outcome.finished >= 1
    assert outcome.finished + outcome.failed == 4
    found = read_trials(Folder(root / "trouble"))
    errors = [trial.error for trial in found if trial.status == "failed"]
    (root / "hopeless.py").write_text(
        TROUBLE.replace("(2e-3, 1e30), default=2e-3", "(1e30,), default=1e30")
    )
    hopeless = config(root, "hopeless", space=str(root / "hopeless.py"), trials=1, max_failures=0)
    with ray_session(num_cpus=2, dashboard=True), pytest.raises(NeuneuError, match="diverged"):
        tune(hopeless)
    assert any("diverged" in error for error in errors), errors
    assert any("allocate" in error or "memory" in error for error in errors), errors

    state = next((root / "trouble" / EXPERIMENT).glob("tuner.pkl"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be restored"):
        tune(settings)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_search_on_s3_is_kept_there(root: Path, s3: S3Server) -> None:
    address = f"s3://{s3.bucket}/searches/one"
    given = settings(root, "unused", trials=2, scheduler="none") | {"output": address}
    there = build_config(TuneConfig, given)
    with ray_session(num_cpus=2, dashboard=True):
        assert tune(there).finished == 2
        assert tune(there).finished == 2  # nothing is left to do
    trials = read_trials(Folder(address))
    assert [trial.status for trial in trials] == ["finished", "finished"]
    for trial in trials:
        assert trial.epochs == 6
        assert load_forecaster(f"{address}/{MODELS}/{trial.id}", name="x").levels
    files = Folder(address).files()
    assert SETTINGS in files
    for name in files:
        if name.endswith((".json", ".yaml")):
            assert SECRET_KEY.encode() not in Folder(address).read(name)
