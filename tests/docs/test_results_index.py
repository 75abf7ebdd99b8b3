"""docs/results/README.md lists every result and benchmark; pages match their records."""

import json
import re
from pathlib import Path

import pytest
from documents import ROOT, blocks
from page import page_of

FOLDER = ROOT / "docs" / "results"
INDEX = FOLDER / "README.md"
STARTED_BY_OTHERS = {"step.py": "check.py", "offline_install.py": "offline.py"}
SCRIPTS = [
    path
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if "__main__" in path.read_text() and path.name not in STARTED_BY_OTHERS
]


def test_every_page_record_and_folder_of_figures_is_listed() -> None:
    linked = set(re.findall(r"\]\(([\w.]+)\)", INDEX.read_text()))
    assert linked == {path.name for path in FOLDER.iterdir()} - {"README.md"}


def test_every_row_says_what_is_measured_and_when() -> None:
    rows = [line for line in INDEX.read_text().splitlines() if line.startswith("| [")]
    assert len(rows) == len(list(FOLDER.glob("*.md"))) - 1
    for row in rows:
        _, page, measured, record, day, _ = (cell.strip() for cell in row.split("|"))
        assert page
        assert record
        assert len(measured.split()) > 3, row
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", day), row


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_benchmark_has_its_command(script: Path) -> None:
    commands = "".join(block.text for block in blocks(INDEX))
    assert str(script.relative_to(ROOT)) in commands


@pytest.mark.parametrize("study", [p.parent.name for p in ROOT.glob("benchmarks/*/page.md.j2")])
def test_page_is_what_its_record_gives(study: str) -> None:
    record, page = FOLDER / f"{study}.json", FOLDER / f"{study}.md"
    if study == "demo":
        pytest.skip("benchmarks/demo/publish.py reads the folder of a demo, not a record")
    expected = page_of(study, json.loads(record.read_text()), page)
    assert page.read_text() == expected, f"run .venv/bin/python benchmarks/page.py {study}"
