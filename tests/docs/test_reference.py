"""The pages of docs/reference/ are up to date and complete."""

import dataclasses
from pathlib import Path

import generate
import pytest
import typer
from generator import configs, tables
from generator.markdown import cell, docstring

from neuneu.cli.app import app


def test_no_committed_page_is_stale() -> None:
    assert generate.stale() == [], "run `make docs` and commit what it wrote"


def test_a_page_edited_by_hand_or_left_over_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in generate.FOLDER.glob("*.md"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    (tmp_path / "tables.md").write_text("# by hand\n")
    (tmp_path / "gone.md").write_text("# a removed command\n")
    assert generate.stale() == ["gone.md", "tables.md"]


def test_every_command_option_config_key_and_column_is_on_its_page() -> None:
    pages = {path.stem: path.read_text() for path in generate.FOLDER.glob("*.md")}
    command_line = typer.main.get_command(app)
    for name, command in command_line.commands.items():
        assert f"neuneu {name}" in pages["commands"]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                names = [*parameter.opts, *parameter.secondary_opts]
                assert max(names, key=len) in pages["commands"], name
    for cls in configs.JOBS.values():
        section = pages["configs"].partition(f"\n## {cls.__name__}\n")[2].partition("\n## ")[0]
        for field in dataclasses.fields(cls):
            assert f"| `{field.name}` |" in section, f"{cls.__name__}.{field.name}"
    for name, schema in tables.TABLES.items():
        section = pages["tables"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")] == (
            schema.names
        )


def test_docstrings_become_markdown() -> None:
    text = """Says it.

    More of it.

    Args:
        first: a value
            on two lines.
        second: another.

    Raises:
        UserError: `x` is wrong.
    """
    assert docstring(text).split("\n\n") == [
        "Says it.",
        "More of it.",
        "*Args:*",
        "* `first`: a value on two lines.\n* `second`: another.",
        "*Raises:*",
        "* `UserError`: `x` is wrong.",
    ]


def test_bars_in_cells_do_not_break_a_table() -> None:
    assert cell("x | y\nz") == "x \\| y z"
