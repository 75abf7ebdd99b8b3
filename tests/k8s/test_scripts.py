"""The scripts that ConfigMaps mount into the pods."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from check import ROOT

pytestmark = pytest.mark.slow


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "k8s" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stop_jobs = _load("base/cluster/stop_jobs.py")
fetch_inputs = _load("components/storage-s3/fetch_inputs.py")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["python", "jobs/extract.py", "--config", "x.yaml"], True),
        (["/opt/neuneu/.venv/bin/python", "-u", "/opt/neuneu/jobs/train.py"], True),
        (["/bin/sh", "-c", "python jobs/extract.py --config x.yaml"], False),
        (["python", "stop_jobs.py"], False),
        (["python", "tool.py", "--file", "jobs/extract.py"], False),
        ([], False),
    ],
)
def test_drivers_are_told_from_other_processes(arguments: list[str], expected: bool) -> None:
    assert stop_jobs.is_job(arguments) is expected


def test_stop_sends_sigterm_and_waits() -> None:
    child = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert stop_jobs.stop([child], wait_s=10) == 0
    assert child.wait(1) == -signal.SIGTERM


def test_stop_counts_what_does_not_end() -> None:
    code = (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    try:
        assert stop_jobs.stop([psutil.Process(child.pid)], wait_s=0.2) == 1
    finally:
        child.kill()
        child.wait()


def test_inputs_are_fetched_with_their_folders(tmp_path: Path) -> None:
    source = tmp_path / "data" / "inputs"
    (source / "tasks").mkdir(parents=True)
    (source / "corpus.parquet").write_bytes(b"words")
    (source / "tasks" / "blimp.parquet").write_bytes(b"pairs")
    assert fetch_inputs.fetch(str(source), tmp_path / "inputs") == 2
    assert (tmp_path / "inputs/corpus.parquet").read_bytes() == b"words"
    assert (tmp_path / "inputs/tasks/blimp.parquet").read_bytes() == b"pairs"
