"""The command line as a shell sees it: help, exit codes, one-line errors, JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_USER_ERROR,
)
from neuneu.core.errors import NeuneuError

ROOT = Path(__file__).parents[2]
runner = CliRunner()
HEAVY = (
    "ray", "vllm", "torch", "transformers", "numpy", "pyarrow", "pandas", "scipy", "sklearn",
    "matplotlib", "jinja2", "optuna", "s3fs", "huggingface_hub", "safetensors", "lm_eval",
)  # fmt: skip


def commands(group: Any = None, *before: str) -> dict[tuple[str, ...], Any]:
    """Every command by its words."""
    found = {}
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, *before, name)
        else:
            found[*before, name] = command
    return found


COMMANDS = commands()


def test_all_commands_are_walked() -> None:
    assert {("forecast",), ("backtest",), ("store", "check"), ("tune-report",)} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    result = runner.invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Example: neuneu {' '.join(words)}" in result.output


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_speaks_json(words: tuple[str, ...]) -> None:
    options = [option for parameter in COMMANDS[words].params for option in parameter.opts]
    assert "--json" in options


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

    monkeypatch.setattr("neuneu.ladder.ladder.train_suite", fail)
    result = runner.invoke(app, ["suite"])
    assert result.exit_code == code
    assert len(result.stderr.strip().splitlines()) == 1


def test_sigterm_unwinds_and_has_its_own_exit_code() -> None:
    code = """
import os, signal, time
import neuneu.ladder.ladder
from neuneu.cli.app import app

def train_suite(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # an impatient sender
        print("cleaned up")

neuneu.ladder.ladder.train_suite = train_suite
app(["suite"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EXIT_TERMINATED
    assert done.stdout == "cleaned up\n"
    (line,) = done.stderr.strip().splitlines()
    assert "resumes where it stopped" in line


def test_help_imports_no_heavy_library() -> None:
    """What `--help` takes is its imports; Ray's would also print about its token."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from neuneu.cli.app import app\n"
        "assert 'pydantic' not in sys.modules\n"
        f"for words in {[[], ['store'], *map(list, COMMANDS)]}:\n"
        "    assert CliRunner().invoke(app, [*words, '--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("job", ["suite", "extract", "train", "tune", "backtest", "pretrain"])
def test_job_script_user_error_is_exit_code_two(job: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{job}.py", "--set", "no_such_key=1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_USER_ERROR, done.stderr
    assert "unknown key 'no_such_key'" in done.stderr


@pytest.mark.parametrize(
    ("words", "cword", "expected"),
    [
        ("neuneu fore", 1, {"forecast"}),
        ("neuneu store ", 2, {"status", "check", "compact", "metrics", "upgrade"}),
        ("neuneu backtest --forec", 2, {"--forecasters"}),
    ],
)
def test_bash_completes_names_of_commands_and_options(
    words: str, cword: int, expected: set[str]
) -> None:
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(cword),
        "_NEUNEU_COMPLETE": "complete_bash",
    }
    result = runner.invoke(app, [], prog_name="neuneu", env=environment)
    assert set(result.stdout.split()) == expected


def test_the_script_of_bash_completes_commands_and_files(tmp_path: Path) -> None:
    """As a shell would: the script is loaded, and asked about a line."""
    neuneu = tmp_path / "neuneu"
    neuneu.write_text(f"#!{sys.executable}\nfrom neuneu.cli.app import main\nmain()\n")
    neuneu.chmod(0o755)
    (tmp_path / "points.csv").touch()
    ask = """
cd "$1"; PATH="$1:$PATH"; neuneu --show-completion > completion.sh; source completion.sh
line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _neuneu_completion neuneu; }
line neuneu fore; echo "${COMPREPLY[*]}"
line neuneu forecast poi; echo "${COMPREPLY[*]:-default}"
complete -p neuneu
"""
    done = subprocess.run(
        ["bash", "-c", ask, "bash", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    name, file, how = done.stdout.splitlines()
    assert name == "forecast"
    # Nothing of our own is offered for a path, so that bash goes on to files.
    assert file in {"default", "points.csv"}
    assert "-o default" in how


def test_json_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuneu.ladder.ladder.train_suite", lambda *_, **__: [])
    result = runner.invoke(app, ["suite", "--json", "--set", "output=here"])
    assert json.loads(result.stdout) == {"output": "here", "runs": 0, "checkpoints": 0}
