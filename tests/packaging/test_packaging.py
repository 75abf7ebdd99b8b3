"""The wheel and the sdist, and the wheel with nothing but its core dependencies.

The dependencies are not downloaded again (torch alone is 200 MB): those of this environment are
linked into a new virtual environment, which has exactly what the wheel's metadata requires without
extras. A dependency that the metadata omits is missing there.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ABSENT = (
    "ray", "vllm", "scipy", "matplotlib", "pandas", "sklearn", "transformers", "s3fs", "optuna",
    "pytest",
)  # fmt: skip

pytestmark = pytest.mark.slow


def python(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sdist and a wheel built from it, as by `python -m build`."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder), cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    python(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--wheel-dir", str(folder), ".", cwd=source,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_what_is_needed_and_no_more(wheel: Path) -> None:
    found = names(wheel)
    top = {name.split("/")[0] for name in found}
    assert top == {"neuneu", "neuneu-0.1.0.dist-info"}
    tracked = subprocess.run(
        ["git", "ls-files", "neuneu", "tune_spaces"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout.split()  # fmt: skip
    expected = {name.replace("tune_spaces/", "neuneu/tune_spaces/") for name in tracked}
    assert {name for name in found if "dist-info" not in name} == expected
    assert found >= {
        "neuneu/py.typed", "neuneu/forecasters/pretrained/model.safetensors",
        "neuneu/forecasters/pretrained/config.json", "neuneu/data/example/points.csv",
        "neuneu/reports/templates/report.html.j2", "neuneu/tune_spaces/joint.py",
        "neuneu-0.1.0.dist-info/licenses/LICENSE", "neuneu-0.1.0.dist-info/licenses/NOTICE.md",
    }  # fmt: skip
    assert wheel.stat().st_size < 10e6


def test_sdist_is_small_and_holds_the_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < 10e6
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "Makefile", "tests/packaging/test_packaging.py"} <= found
    assert not any(name.startswith("docs/results") for name in found)


def test_versions_agree(wheel: Path) -> None:
    import neuneu

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == neuneu.__version__
    assert wheel.name.split("-")[1] == neuneu.__version__


def core_of(wheel: Path) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions that a wheel needs without extras, recursively."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        asked = message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    wanted = [(Requirement(line), frozenset({""})) for line in asked]
    found: dict[str, importlib.metadata.Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement, extras = wanted.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": e}) for e in extras):
            continue
        key = (requirement.name.lower(), frozenset(requirement.extras | {""}))
        if key in done:
            continue
        done.add(key)
        package = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(package.version, prereleases=True), requirement
        found[requirement.name.lower()] = package
        wanted += [(Requirement(line), key[1]) for line in package.requires or []]
    return found


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and its core dependencies."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    executable = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    for package in core_of(wheel).values():
        for top in {Path(file).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    python(
        "-m", "pip", "--python", str(executable), "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", str(wheel), cwd=folder,
    )  # fmt: skip
    return folder


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": os.environ["PATH"], "HOME": str(place), "COLUMNS": "160"}
    return subprocess.run(
        [place / "venv" / "bin" / arguments[0], *arguments[1:]],
        cwd=place, env=bare, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_nothing_else_is_installed_there(place: Path) -> None:
    code = (
        "import importlib.util, neuneu\n"
        f"print([name for name in {ABSENT} if importlib.util.find_spec(name)], neuneu.__file__)"
    )
    done = run(place, "python", "-c", code)
    assert done.stdout.startswith(f"[] {place}/"), done


def test_help(place: Path) -> None:
    done = run(place, "neuneu", "--help")
    assert done.returncode == 0
    assert "forecast" in done.stdout
    assert done.stderr == ""


def test_forecast_of_the_example(place: Path) -> None:
    done = run(place, "neuneu", "forecast", "--example", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 4
    assert f"from {place}/" in done.stderr


def test_all_questions_about_a_table_of_ones_own(place: Path) -> None:
    rows = [
        f"{run},t,{n}e9,{0.6 - 0.3 * n**-rate:.4f}"
        for run, rate in (("a", 0.3), ("b", 0.5))
        for n in range(1, 13)
    ]
    (place / "points.csv").write_text("\n".join(["run,task,tokens,value", *rows]))
    (place / "saved.csv").write_text("run,tokens\na,15e9\nb,18e9\n")
    more = {
        "forecast": [], "rank": [], "stop": ["--target", "0.6"], "when": ["0.55"],
        "next-eval": ["--checkpoints", "saved.csv"],
    }  # fmt: skip
    for question, options in more.items():
        done = run(
            place, "neuneu", question, "points.csv", *options, "--until", "20e9", "--json",
            "-o", "out",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"]
        assert (place / "out" / f"{question}.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["suite"], "pip install 'neuneu[cluster]'"),
        (["demo"], "pip install 'neuneu[cluster]'"),
        (["backtest", "points.csv"], "pip install 'neuneu[analysis]'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_more_says_how_to_get_it(place: Path, arguments: list[str], says: str) -> None:
    (place / "points.csv").write_text("run,task,step,value\na,t,1,0.5\n")
    done = run(place, "neuneu", *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("neuneu: ")
    assert says in last


def test_spaces_of_a_search_are_found(place: Path) -> None:
    code = "from neuneu.training.tuning.space import load_space; print(len(load_space('joint')))"
    done = run(place, "python", "-c", code)
    assert int(done.stdout) > 10, done.stderr
