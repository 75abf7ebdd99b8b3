"""The files that a job uploads, packed by Ray itself; does not start Ray."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "runtime-env.yaml"
TRAVEL = ("neuneu", "jobs", "tune_spaces")
MEGABYTES = 20

pytestmark = pytest.mark.slow  # importing Ray takes seconds


def package(folder: Path, target: Path, *, include_gitignore: bool = True) -> list[str]:
    """Pack a folder like `ray job submit --working-dir ... --runtime-env ...`; return its files."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed
    from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args

    def pack(working_dir: str, excludes: list[str], is_file: bool = False) -> None:
        assert not is_file
        create_package(working_dir, target, include_gitignore=include_gitignore, excludes=excludes)

    upload_working_dir_if_needed(
        parse_runtime_env_args(runtime_env=str(FILE), working_dir=str(folder)),
        include_gitignore=include_gitignore,
        upload_fn=pack,
    )
    with zipfile.ZipFile(target) as packed:
        return packed.namelist()


def test_runtime_env_is_valid() -> None:
    from ray.runtime_env import RuntimeEnv

    raw = yaml.safe_load(FILE.read_text())
    assert RuntimeEnv(**raw)["env_vars"] == raw["env_vars"]
    assert not {"pip", "uv", "conda"} & raw.keys(), "the nodes hold the environment"
    assert not [name for name in raw["env_vars"] if name.startswith("AWS_")]


@pytest.mark.parametrize(
    "change", [{"env_vars": {"A": 1}}, {"excludes": "/runs"}, {"pip": {"package": []}}]
)
def test_broken_runtime_env_is_refused(change: dict[str, Any]) -> None:
    from ray.runtime_env import RuntimeEnv

    with pytest.raises((TypeError, ValueError)):
        RuntimeEnv(**yaml.safe_load(FILE.read_text()) | change)


def test_the_package_holds_all_code_and_no_ballast(tmp_path: Path) -> None:
    target = tmp_path / "package.zip"
    names = package(ROOT, target)
    assert target.stat().st_size < MEGABYTES * 2**20
    listed = subprocess.run(
        ["git", "ls-files", *TRAVEL], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "neuneu/forecasters/pretrained/model.safetensors" in listed
    assert set(listed) <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"tests", "docs", "benchmarks", "k8s", "runs"}
    assert not [name for name in names if name.startswith(".") or "__pycache__" in name]


@pytest.mark.parametrize("include_gitignore", [True, False])
def test_excludes_take_what_they_mean_and_nothing_else(
    tmp_path: Path, include_gitignore: bool
) -> None:
    stay = {
        ".git/objects/pack", ".venv/bin/python", ".mypy_cache/3.11/x.json", ".env",
        "runs/demo/store/unit.parquet", "tests/test_x.py", "docs/results/figure.svg",
        "benchmarks/speed.py", "k8s/base/job.yaml", "neuneu/__pycache__/cli.cpython-311.pyc",
    }  # fmt: skip
    travel = {
        "neuneu/forecasters/pretrained/model.safetensors", "neuneu/ladder/runs.py",
        "neuneu/docs/page.html", "neuneu/data/example/tasks.parquet", "jobs/configs/tests/a.yaml",
        "my_tasks.csv", "runs.yaml",
    }  # fmt: skip
    working = tmp_path / "working"
    for name in stay | travel:
        (working / name).parent.mkdir(parents=True, exist_ok=True)
        (working / name).write_text("content")
    names = package(working, tmp_path / "package.zip", include_gitignore=include_gitignore)
    assert set(names) == travel


def test_a_job_runs_from_the_package_alone(tmp_path: Path) -> None:
    """Nothing is missing, and the submitted code takes precedence over an installed neuneu."""
    package(ROOT, tmp_path / "package.zip")
    working = tmp_path / "working"
    with zipfile.ZipFile(tmp_path / "package.zip") as packed:
        packed.extractall(working)
    example = "neuneu/data/example"
    job = subprocess.run(
        [
            sys.executable, "jobs/backtest.py", f"{example}/accuracies.parquet",
            "--tasks", f"{example}/tasks.parquet", "--forecasters", "neuneu,persistence",
            "--set", "held_out=[xs-all-s0]", "--set", "bootstrap_samples=100",
            "--set", "figures=false", "-o", str(tmp_path / "out"),
        ],
        cwd=working, env=os.environ | {"PYTHONPATH": str(working)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert job.returncode == 0, job.stderr
    assert '"neuneu"' in job.stdout.splitlines()[-1]
    found = subprocess.run(
        [sys.executable, "-c", "import neuneu; print(neuneu.__file__)"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(working)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stdout.startswith(str(working))
