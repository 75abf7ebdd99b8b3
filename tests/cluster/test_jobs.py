"""Every job through a real Ray head and job server on loopback, with Ray's job CLI."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from curves import ladder, write_table

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RUNTIME_ENV = "cluster/runtime-env.yaml"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Job:
    """Output of the job CLI, and the JSON object in the last line of the job."""

    log: str
    succeeded: bool

    @property
    def result(self) -> dict[str, Any]:
        lines = [line for line in self.log.splitlines() if line.startswith("{")]
        return dict(json.loads(lines[-1]))

    @property
    def exit_code(self) -> int:
        if self.succeeded:
            return 0
        found = re.search(r"exit code (\d+)", self.log)
        assert found is not None, self.log
        return int(found[1])


@dataclass(frozen=True)
class Head:
    """A Ray head with two CPUs and its job server at `address`."""

    address: str
    env: dict[str, str]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "ray"), "job", *arguments], cwd=ROOT, env=self.env, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip

    def submit(self, job: str, *arguments: str, options: Sequence[str] = ()) -> Job:
        deadline = time.monotonic() + 120
        while True:
            done = self.cli(
                "submit", "--address", self.address, "--working-dir", ".",
                "--runtime-env", RUNTIME_ENV, *options,
                "--", "python", f"jobs/{job}.py", *arguments,
            )  # fmt: skip
            # The job server answers before the node's agent, which takes jobs, has registered.
            if "No available agent" not in done.stdout or time.monotonic() > deadline:
                break
            time.sleep(2)
        return Job(log=re.sub(r"\x1b\[[0-9;]*m", "", done.stdout), succeeded=done.returncode == 0)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    port = free_port()
    env = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    env.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(
        prefix="nn", dir="/tmp"
    ) as folder:  # socket paths have to be short
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2",
             "--node-ip-address", "127.0.0.1", "--port", str(free_port()),
             "--dashboard-host", "127.0.0.1", "--dashboard-port", str(port),
             "--dashboard-agent-listen-port", str(free_port()),
             "--ray-client-server-port", str(free_port()), "--temp-dir", folder,
             "--object-store-memory", str(300 * 2**20), "--disable-usage-stats"],
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, "ray start ended"
                assert time.monotonic() < deadline, "the job server does not answer"
                try:
                    # Without the token it answers, too: access denied.
                    requests.get(f"{address}/api/jobs/", timeout=2)
                    break
                except requests.RequestException:
                    time.sleep(0.5)
            yield Head(address=address, env=env)
        finally:
            # After SIGTERM, each of its processes would wait for half a minute.
            members = psutil.Process(process.pid).children(recursive=True)
            for member in members:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.kill()
            process.wait(30)
            psutil.wait_procs(members, timeout=30)


def sets(**values: Any) -> list[str]:
    return [
        part
        for key, value in values.items()
        for part in ("--set", f"{key.replace('__', '.')}={json.dumps(value)}")
    ]


def test_all_jobs_one_after_the_other(head: Head, tmp_path: Path) -> None:
    size = {"width": 32, "layers": 1, "heads": 1, "tokens": 40_000, "tied_embeddings": True}
    suite = head.submit(
        "suite",
        *sets(
            output=str(tmp_path / "suite"), text__max_bytes=600_000,
            text__tasks_fraction=0.3, checkpoints=5,
            early_checkpoints=1, vocab_size=512, context_length=64, seeds=[0, 1, 2],
            sizes={"xs": size},
        ),
    )  # fmt: skip
    assert suite.succeeded, suite.log
    runs, checkpoints = suite.result["runs"], suite.result["checkpoints"]
    assert checkpoints == 6 * runs

    text = tmp_path / "suite" / "text"
    store = str(tmp_path / "store")
    extraction = sets(
        checkpoints=str(tmp_path / "suite" / "checkpoints"), store=store,
        corpus=str(text / "validation.parquet"), corpus_words=200, limit=10,
        task_text=str(text / "tasks.parquet"), engine__kind="packed",
    )  # fmt: skip
    extracted = head.submit("extract", *extraction)
    assert extracted.succeeded, extracted.log
    assert extracted.result["store"] == store
    assert extracted.result["done"] == checkpoints
    again = head.submit("extract", *extraction)
    assert again.succeeded, again.log
    assert again.result["done"] == 0

    trained = head.submit(
        "train",
        *sets(store=store, output=str(tmp_path / "forecaster"), max_ahead=None,
              model={"width": 16, "layers": 1, "heads": 2, "feed_forward": 32,
                     "encoder": {"kind": "none", "units": None}},
              optim={"epochs": 1, "batch_size": 16}),
    )  # fmt: skip
    assert trained.succeeded, trained.log
    assert trained.result["folder"] == str(tmp_path / "forecaster")
    assert (tmp_path / "forecaster" / "model.safetensors").exists()

    table = str(write_table(tmp_path / "accuracies.parquet", ladder(4, n=12)))
    tested = head.submit(
        "backtest",
        *sets(accuracies=table, output=str(tmp_path / "backtest"), context=0.4,
              forecasters=["persistence"], held_out="all", folds=2),
    )  # fmt: skip
    assert tested.succeeded, tested.log
    assert (tmp_path / "backtest" / "summary.json").exists()

    searched = head.submit(
        "tune",
        *sets(output=str(tmp_path / "search"), space="joint", trials=1, scheduler="none",
              train={"accuracies": table, "validation_runs": ["r3"], "cross_run": {
                         "optim": {"max_steps": 4, "batch_size": 4}, "report_steps": 2}}),
    )  # fmt: skip
    assert searched.succeeded, searched.log
    assert searched.result["finished"] == 1


def test_a_users_mistake_is_told_by_its_exit_code(head: Head) -> None:
    job = head.submit("train", *sets(output="x", nonsense=1))
    assert not job.succeeded
    assert job.exit_code == 2
    assert "nonsense" in job.log
    assert "Traceback" not in job.log


@pytest.mark.soak
def test_a_stopped_job_goes_on_where_it_was(head: Head, tmp_path: Path) -> None:
    """`ray job stop` sends SIGTERM; the same job, submitted again, resumes."""
    table = tmp_path / "accuracies.parquet"
    write_table(table, ladder(4, n=10))
    arguments = sets(
        accuracies=str(table), output=str(tmp_path / "forecaster"), validation_runs=["r3"],
        cross_run={"network": {"width": 32, "heads": 2, "blocks": 1},
                   "optim": {"max_steps": 800, "batch_size": 16}, "report_steps": 25},
    )  # fmt: skip
    started = head.submit(
        "train", *arguments, options=["--no-wait", "--submission-id", "to-be-stopped"]
    )
    assert started.succeeded, started.log
    snapshot = tmp_path / "forecaster" / "ray" / "state" / "checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 300
    while not snapshot.exists():
        assert time.monotonic() < deadline, head.cli(
            "logs", "--address", head.address, "to-be-stopped"
        ).stdout
        time.sleep(0.1)
    stopped = head.cli("stop", "--address", head.address, "to-be-stopped")
    assert stopped.returncode == 0, stopped.stdout
    status = head.cli("status", "--address", head.address, "to-be-stopped").stdout
    assert "was stopped" in status
    assert not (tmp_path / "forecaster" / "config.json").exists(), "stopped too late"
    log = head.cli("logs", "--address", head.address, "to-be-stopped").stdout
    assert "ended by SIGTERM; the same command resumes where it stopped" in log
    before = json.loads(snapshot.read_text())
    resumed = head.submit("train", *arguments)
    assert resumed.succeeded, resumed.log
    assert resumed.result["history"][-1]["step"] == 800
    assert len(resumed.result["history"]) == 32
    assert before["checkpoint_results"]
