"""A job in jobs/ is the command of its name: same settings, same function, result as JSON."""

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from curves import ladder, write_table
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.config import config_to_dict

JOBS = Path(__file__).parents[2] / "jobs"
FUNCTIONS = {
    "backtest": "neuneu.reports.backtest.run.backtest",
    "extract": "neuneu.scoring.pipeline.extract",
    "pretrain": "neuneu.training.cross_run.pretraining.pretrain",
    "suite": "neuneu.ladder.ladder.train_suite",
    "train": "neuneu.training.run.train",
    "tune": "neuneu.training.tuning.run.tune",
}


class StopError(Exception):
    """Raised in place of the work."""


@dataclass
class Called:
    config: Any = None
    options: Any = None

    def __call__(self, config: Any, **options: Any) -> None:
        self.config, self.options = config_to_dict(config), options
        raise StopError


def run_job(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *arguments])
    runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")


def test_every_job_is_listed() -> None:
    assert {path.stem for path in JOBS.glob("*.py")} == FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_job_and_command_resolve_the_same_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called()
    monkeypatch.setattr(FUNCTIONS[name], called)
    arguments = ["--config", str(JOBS / "configs" / f"{name}.yaml")]
    result = CliRunner().invoke(app, [name, *arguments])
    assert isinstance(result.exception, StopError), result.output
    command = (called.config, called.options)
    with pytest.raises(StopError):
        run_job(name, arguments, monkeypatch)
    assert (called.config, called.options) == command


@pytest.mark.parametrize(
    ("arguments", "pretrained"),
    [
        (["a.csv"], True),
        (["a.csv", "--forecasters", "persistence"], False),
        (["a.csv", "--forecasters", "persistence,neuneu"], True),
        (["a.csv", "--set", "pretrained=false"], False),
        (["--set", "accuracies=a.csv"], False),
    ],
)
def test_backtest_scores_the_shipped_forecaster_on_a_table(
    arguments: list[str], pretrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called()
    monkeypatch.setattr(FUNCTIONS["backtest"], called)
    result = CliRunner().invoke(app, ["backtest", *arguments])
    assert isinstance(result.exception, StopError), result.output
    assert called.config["pretrained"] == pretrained
    with pytest.raises(StopError):
        run_job("backtest", arguments, monkeypatch)
    assert called.config["pretrained"] == pretrained


def test_job_prints_its_result_as_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "a.parquet", ladder(3))
    settings = {
        "figures": False,
        "folds": 2,
        "bootstrap_samples": 100,
        "output": str(tmp_path / "o"),
    }
    sets = [
        part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    with pytest.raises(SystemExit) as ended:
        run_job("backtest", [str(table), "--forecasters", "persistence", *sets], monkeypatch)
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["mae"].keys() == {"persistence"}
