"""What the README and the docs promise, checked against the code."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuneu.backtest import BacktestConfig
from neuneu.cli import app
from neuneu.config import load_config
from neuneu.cross_run.pretraining import PretrainConfig
from neuneu.demo import DemoConfig
from neuneu.extraction.pipeline import ExtractConfig
from neuneu.suites.ladder import SuiteConfig
from neuneu.training import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = {
    "demo": DemoConfig, "suite": SuiteConfig, "extract": ExtractConfig,
    "train": TrainConfig, "backtest": BacktestConfig, "pretrain": PretrainConfig,
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_commands_of_the_pages_exist_with_their_options() -> None:
    lines = [
        line.split("#")[0].strip()
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("neuneu ")
    ]
    assert len(lines) >= 5
    for line in lines:
        _, command, *rest = shlex.split(line)
        help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert "Usage" in help_text, line
        for option in (word for word in rest if word.startswith("--")):
            assert option in help_text, line


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda path: path.name
)
def test_example_configs_are_valid(path: Path) -> None:
    load_config(CONFIGS[path.stem.split("-")[0]], path)


def test_make_targets_named_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert targets <= made
