"""The blocks of the tutorials run as written, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import check_line, logical_lines
from documents import COLUMNS, ROOT, blocks, same
from generator.configs import JOBS
from s3_server import S3Server

from neuneu.core.config import build_config

FOLDER = ROOT / "docs" / "tutorials"
FROM_TABLES = ("compare-two-mixes.md", "evidence-from-lm-eval.md", "forecast-your-run.md")
ON_S3 = "from-checkpoints.md"
HERE = re.compile(r"^cat > (\S+) <<'?END'?\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
"""Return name and content of a file that a block writes."""


def run(page: Path, folder: Path, **environment: str) -> None:
    """Run a page; fail at the first block that fails or prints something else."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "CLONE": str(ROOT), **environment,
    }  # fmt: skip
    folder.mkdir()
    for block in blocks(page):
        if block.language not in {"bash", "python"} or block.reason is not None:
            continue
        command = {"bash": ["bash", "-e", "-c"], "python": ["python", "-c"]}[block.language]
        done = subprocess.run(
            [*command, block.text], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.name}: {done.stderr}"
        if block.output is not None:
            assert same(block.output, done.stdout), f"{block.name} says now:\n{done.stdout}"


def test_every_tutorial_is_run_here() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == {"README.md", *FROM_TABLES, ON_S3}


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_TABLES)
def test_tutorial_runs_as_written(name: str, tmp_path: Path) -> None:
    run(FOLDER / name, tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.vllm
def test_tutorial_on_s3_runs_as_written(s3: S3Server, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    run(FOLDER / ON_S3, tmp_path / "empty", BUCKET=s3.bucket)


def test_the_tutorial_on_s3_is_taken_by_the_real_command_line() -> None:
    """Check without running: configs are valid, commands are accepted."""
    written = []
    for block in blocks(FOLDER / ON_S3):
        if block.language != "bash":
            continue
        for name, content in re.findall(HERE, block.text):
            build_config(JOBS[Path(name).stem], yaml.safe_load(content))
            written.append(name)
        for line in logical_lines(re.sub(HERE, "", block.text)):
            check_line(line)
    assert written == ["suite.yaml", "extract.yaml"]
