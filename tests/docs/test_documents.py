"""The README and the docs agree with the code.

Every code block is run (in test_tutorials.py or, if it has an output below it, here) or parsed by
the program that would read it. A comment `<!-- not run: REASON -->` above a block exempts it.
"""

import json
import re
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import sizing
import typer
import yaml
from commands import check_line, commands_of, job_words, logical_lines
from curves import ladder, write_table
from documents import COLUMNS, DATA, PAGES, ROOT, Block, blocks, same
from generator.configs import JOBS, OTHERS
from rows import loss
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.config import build_config, load_config
from neuneu.core.errors import UserError

BLOCKS = [block for page in PAGES for block in blocks(page)]
ELSEWHERE = [b for b in BLOCKS if b.page.parent.name != "tutorials"]
"""Blocks that test_tutorials.py does not run."""


def of(language: str, among: list[Block] = ELSEWHERE) -> list[Block]:
    return [block for block in among if block.language == language and block.reason is None]


def named(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", page.read_text())
    missing = [link for link, _ in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_find_them(page: Path) -> None:
    for link, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        target = page.parent / link if link else page
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        assert heading in {_anchor(title) for title in titles}, f"{link}#{heading}"


def _anchor(title: str) -> str:
    """Return GitHub's anchor of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("block", of("bash"), ids=named)
def test_commands_are_taken_by_the_real_command_line(block: Block) -> None:
    lines = logical_lines(block.text)
    assert lines
    for line in lines:
        check_line(line)


@pytest.mark.parametrize("line", [
    "neuneu forcast a.csv", "neuneu forecast a.csv --untill 3", "neuneu when a.csv", "make dmeo",
    "python jobs/train.py --confg x", "python benchmarks/gone.py", "frobnicate now",
    "python benchmarks/demo/publish.py runs/x --titel y", "pip install 'neuneu[gpux]'",
    "neuneu forecast a.csv --until 1e9 && neuneu rnk a.csv", "ray job submit -- python jobs/no.py",
])  # fmt: skip
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_line(line)


def lines_of(program: str) -> list[list[str]]:
    """Return the words of all commands of a program in all blocks."""
    found = [
        c for b in of("bash", BLOCKS) for line in logical_lines(b.text) for c in commands_of(line)
    ]
    return [words for words in found if words[0] == program]


def test_every_job_is_shown_as_a_command_and_submitted() -> None:
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    submitted = [words for words in lines_of("ray") if words[1:3] == ["job", "submit"]]
    assert {job_words(words[words.index("--") + 1 :])[0] for words in submitted} == jobs
    assert {words[1] for words in lines_of("neuneu")} >= jobs


@pytest.mark.slow
def test_commands_of_ray_are_what_its_command_line_takes() -> None:
    from ray.scripts.scripts import cli

    commands = lines_of("ray")
    assert {words[1] for words in commands} >= {"up", "dashboard", "job", "get-auth-token"}
    for words in commands:
        command, rest = cli, words[1:]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        given = command.make_context("ray", rest).params
        for key in ("cluster_config_file", "runtime_env", "working_dir"):
            if given.get(key):
                assert (ROOT / given[key]).exists(), words


def test_sizing_tables_are_those_of_the_script() -> None:
    page = sizing.PAGE.read_text()
    assert sizing.fill(page) == page
    emptied = re.sub(r"(<!-- sizing:gpu -->\n).*?(<!-- /sizing)", r"\1\2", page, flags=re.DOTALL)
    assert sizing.fill(emptied) == page


@pytest.mark.slow
def test_commands_on_tables_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backtests of the README, on small tables."""
    monkeypatch.chdir(tmp_path)
    runs = ladder(6, n=12)
    write_table(tmp_path / "accuracies.parquet", runs)
    points = {(t.run, int(step), float(t.params)) for t in runs for step in t.steps}
    losses = [loss(run=run, step=step, params=params) for run, step, params in sorted(points)]
    pq.write_table(pa.Table.from_pylist(losses), "losses.parquet")
    of_all = {
        "metric": "acc", "format": "mc", "split": "test", "group": "", "chance": 0.25,
        "n_items": 100, "higher_is_better": True,
    }  # fmt: skip
    tasks = [{"task": t, "base_task": t} | of_all for t in sorted({t.task for t in runs})]
    pacsv.write_csv(pa.Table.from_pylist(tasks), "tasks.csv")
    shown = [line for b in blocks(ROOT / "README.md") for line in logical_lines(b.text)]
    (backtest,) = [line for line in shown if line.startswith("neuneu backtest accuracies")]
    for line in (backtest, "neuneu report runs/backtest"):
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, done.output
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert {"runs/backtest/summary.json", "runs/backtest/report.html"} <= left


def test_commands_within_sentences_exist_with_their_options() -> None:
    spans = [
        (page, span)
        for page in PAGES
        for span in re.findall(r"`neuneu ([a-z][^`]+)`", _without_blocks(page.read_text()))
    ]
    assert len(spans) >= 20
    commands = typer.main.get_command(app).commands
    for page, span in spans:
        words = shlex.split(span)
        command = commands[words[0]]
        if words[0] == "store":
            command = command.commands[words[1]] if len(words) > 1 else command
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, f"{page}: {span}"


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", [b for b in of("bash") if b.output is not None], ids=named)
def test_a_command_says_what_stands_under_it(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    shutil.copy(DATA / "ladder.csv", tmp_path / "accuracies.csv")
    monkeypatch.chdir(tmp_path)
    said = ""
    for line in logical_lines(block.text):
        words = shlex.split(line, comments=True)
        assert words[0] == "neuneu", "only neuneu's own outputs are shown"
        result = CliRunner().invoke(app, words[1:], env={"COLUMNS": str(COLUMNS)})
        assert result.exit_code == 0, result.output
        said += result.stdout
    assert same(block.output or "", said), f"{block.name} says now:\n{said}"


@pytest.mark.parametrize("block", of("python"), ids=named)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DATA / "ladder.csv", tmp_path / "accuracies.csv")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.name, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("block", of("yaml", BLOCKS), ids=named)
def test_yaml_is_a_config_or_a_manifest(block: Block) -> None:
    raw = yaml.safe_load(block.text)
    if {"apiVersion", "kind", "metadata"} <= set(raw):
        return  # Kubernetes objects; tests/k8s checks ours
    refusals = [_refusal(cls, raw) for cls in [*JOBS.values(), *OTHERS.values()]]
    assert None in refusals, "\n".join(filter(None, refusals))


def _refusal(cls: type, raw: dict) -> str | None:
    try:
        build_config(cls, raw)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("block", of("json", BLOCKS), ids=named)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_what_is_not_run_has_a_reason() -> None:
    for block in BLOCKS:
        if block.reason is not None:
            assert len(block.reason.split()) >= 3, f"{block.name}: say why"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_example_configs_are_valid(path: Path) -> None:
    load_config(JOBS[path.stem.split("-")[0]], path)


def test_every_module_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = re.findall(r"`([\w*]+(?:\.py|/))`", page)
    modules = [path for path in (ROOT / "neuneu").iterdir() if not path.name.startswith("_")]
    missing = [
        path.name
        for path in modules
        if (path.suffix == ".py" or (path / "__init__.py").exists())
        and not any(fnmatch(path.name, name.rstrip("/")) for name in names)
    ]
    assert missing == []


def test_the_readme_has_the_two_commands_of_ci() -> None:
    lines = [line for block in blocks(ROOT / "README.md") for line in logical_lines(block.text)]
    commands = {line.partition("#")[0].strip() for line in lines}
    assert {"make demo", "make test"} <= commands
