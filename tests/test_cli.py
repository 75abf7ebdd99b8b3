"""The command line as a shell sees it: help, exit codes, one-line errors, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuneu.cli import app
from neuneu.errors import NeuneuError
from neuneu.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR

ROOT = Path(__file__).parents[1]
COMMANDS = ("demo", "suite", "extract", "train", "backtest", "report")
runner = CliRunner()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: neuneu {command}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite", "--set", "vocab_siz=3"], "did you mean 'vocab_size'"),
        (["train", "--set", "output=x"], "expected"),
        (["extract", "--config", "none.yaml"], "cannot be read"),
        (["demo", "--set", "suite.sizs={}"], "did you mean 'sizes'"),
        (["demo", "--set", "train.store=x"], "set by the demo itself"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_user_error_is_one_line_and_exit_code_two(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == EXIT_USER_ERROR, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), EXIT_INTERRUPTED), (NeuneuError("the run failed"), EXIT_FAILED)],
)
def test_failures_are_one_line_with_their_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("neuneu.suites.ladder.train_suite", fail)
    result = runner.invoke(app, ["suite"])
    assert result.exit_code == code
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys, neuneu.cli\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("job", ["suite", "extract", "train", "backtest"])
def test_job_script_user_error_is_exit_code_two(job: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{job}.py", "--set", "no_such_key=1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    assert "unknown key 'no_such_key'" in done.stderr


def test_json_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuneu.suites.ladder.train_suite", lambda *_, **__: [])
    result = runner.invoke(app, ["suite", "--json", "--set", "output=here"])
    assert json.loads(result.stdout) == {"output": "here", "runs": 0, "checkpoints": 0}
