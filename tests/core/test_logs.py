"""Log lines as people and machines read them: checkpoints, numbers, no secrets; not on stdout."""

import html
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_USER_ERROR
from neuneu.core import logs
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder

log = logging.getLogger("neuneu.somewhere")
Lines = Callable[[], list[dict[str, Any]]]
PRESIGNED = "https://b.s3/k?X-Amz-Expires=60&X-Amz-Signature=0ff1ce"


def test_json_line_has_checkpoint_numbers_and_exception(log_lines: Lines) -> None:
    with logs.checkpoint("ladder", "a/b", 300):
        try:
            int("two lines")
        except ValueError:
            log.warning("score %d", 7, exc_info=True, extra={"tokens": 12, "loss": float("nan")})
    log.info("after it")
    first, second = log_lines()
    assert first["time"].endswith("+00:00")
    assert (first["level"], first["logger"]) == ("warning", "neuneu.somewhere")
    assert first["message"] == "score 7"
    assert (first["suite"], first["run"], first["step"]) == ("ladder", "a/b", 300)
    assert (first["tokens"], first["loss"]) == (12, "nan")
    assert first["exception"].startswith("Traceback")
    assert first["exception"].endswith("'two lines'")
    assert second["message"] == "after it"
    assert second.keys().isdisjoint({"suite", "run", "step", "exception"})


def test_text_line_is_for_people(log_settings: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    with logs.checkpoint("ladder", "a", 300):
        log.info("swap", extra={"seconds": 0.123456789})
    log.debug("hidden")
    line = capsys.readouterr().err
    expected = r"\d\d:\d\d:\d\d INFO somewhere \[ladder/a step 300\] swap  seconds=0.123457\n"
    assert re.fullmatch(expected, line)


@pytest.mark.parametrize("format_", logs.FORMATS)
def test_no_secret_is_logged(
    format_: str,
    s3: S3Server,
    log_settings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the exception is S3's own and its traceback is logged."""
    logs.set_up("info", format_)
    s3.refuse_access(f"{ACCESS_KEY} with {SECRET_KEY} at {html.escape(PRESIGNED)} is not known")
    monkeypatch.setattr("neuneu.core.s3.translate", lambda *_: None)
    with pytest.raises(PermissionError, match=ACCESS_KEY) as caught:
        Folder(f"s3://{s3.bucket}/x").read("y")
    where = "https://me:hunter2@hub/x"
    log.error(
        "failed: %s", caught.value, exc_info=caught.value, extra={"where": [where], "d": {1: where}}
    )
    text = capsys.readouterr().err
    assert text.count("is not known") >= 2, "message and traceback"
    assert "PermissionError" in text
    for secret in (ACCESS_KEY, SECRET_KEY, "0ff1ce", "hunter2"):
        assert secret not in text


def test_checkpoint_goes_along_to_other_threads_and_back(log_lines: Lines) -> None:
    both = threading.Barrier(2, timeout=30)

    def staged(name: str) -> None:
        both.wait()
        log.info(name)

    def one(step: int) -> None:
        with logs.checkpoint("s", "r", step), ThreadPoolExecutor(1) as pool:
            pool.submit(logs.carried(staged), f"in {step}").result(30)
            pool.submit(log.info, f"not carried {step}").result(30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, (1, 2)))
    found = {line["message"]: line.get("step") for line in log_lines()}
    assert found == {"in 1": 1, "in 2": 2, "not carried 1": None, "not carried 2": None}


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--log-level", "loud"], {}, "--log-level: expected one of debug, .* found 'loud'"),
        ([], {"NEUNEU_LOG_FORMAT": "xml"}, "NEUNEU_LOG_FORMAT: expected one of text, json"),
    ],
)
def test_unknown_level_or_format_is_a_user_error(
    arguments: list[str], variables: dict[str, str], message: str, log_settings: None
) -> None:
    result = CliRunner(env=variables).invoke(app, [*arguments, "report", "nowhere"])
    assert result.exit_code == EXIT_USER_ERROR
    assert re.search(message, result.stderr)


def test_option_goes_before_variable_and_on_to_other_processes(
    log_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logs.LEVEL_VARIABLE, "error")
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    logs.set_up("DEBUG")
    handed_on = logs.environment()
    assert handed_on == {"NEUNEU_LOG_LEVEL": "debug", "NEUNEU_LOG_FORMAT": "json"}
    logs.set_up("error", "text")
    logs.follow(handed_on)
    assert log.isEnabledFor(logging.DEBUG)
    assert logs.as_json()
    assert len(logging.getLogger("neuneu").handlers) == 1


JOB = """
import logging, sys, types
from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.core.progress import stage

def rewrite_report(folder, figures=False):
    logging.getLogger("neuneu.reports.report").info("begun")
    with stage("draw", 2) as bar:
        bar.advance()
    if folder == "bad":
        raise UserError("https://me:hunter2@host: no such place.")
    if folder == "defect":
        raise RuntimeError("password=hunter2")
    return {"report": folder}

# The true one is slow.
sys.modules["neuneu.reports.report"] = types.SimpleNamespace(rewrite_report=rewrite_report)
app(["report", sys.argv[1], "--json"])
"""


def run_job(output: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A job as `ray job logs` shows it: stdout and stderr in one."""
    return subprocess.run(
        [sys.executable, "-c", JOB, output], text=True, timeout=120, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "."} | variables,
    )  # fmt: skip


def test_result_is_the_last_line_of_a_job_and_every_line_json() -> None:
    done = run_job("x", NEUNEU_LOG_LEVEL="info", NEUNEU_LOG_FORMAT="json")
    *before, last = map(json.loads, done.stdout.splitlines())
    assert last == {"report": "x"}
    assert [line["message"] for line in before] == ["begun", "progress"]
    assert (before[1]["stage"], before[1]["done"], before[1]["total"]) == ("draw", 1.0, 2)


def test_failures_of_a_job_are_json_and_have_no_secrets() -> None:
    done = run_job("bad", NEUNEU_LOG_FORMAT="json")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["level"], line["exit_code"]) == ("error", done.returncode) == ("error", 2)
    assert line["message"] == "https://***@host: no such place."
    done = run_job("defect", NEUNEU_LOG_FORMAT="json")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["level"], done.returncode) == ("critical", 1)
    assert "RuntimeError: password=***" in line["exception"]


def test_logs_of_a_library_are_left_alone() -> None:
    code = (
        "import logging, neuneu.scoring.checkpoints.staging, neuneu.core.progress, neuneu.cli.app\n"
    )
    code += "root = logging.getLogger('neuneu')\nprint(root.handlers, root.propagate)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_carried_returns_and_raises_like_the_function() -> None:
    assert logs.carried(lambda a, *, b: a + b)(1, b=2) == 3

    def fail() -> None:
        raise UserError("so")

    with pytest.raises(UserError, match="so"):
        logs.carried(fail)()
