"""Markdown out of docstrings: paragraphs stay, the sections of Google style become lists."""

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

NOTICE: Final = (
    "<!-- Written by docs/generate.py from the code. Change the code, then `make docs`. -->"
)

_SECTION: Final = re.compile(r"(Args|Returns|Raises|Yields):")
_ITEM: Final = re.compile(r"(\*{0,2}[\w`.]+): (.*)", re.DOTALL)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; bars within cells are escaped."""
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for row in rows:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def docstring(text: str) -> list[str]:
    """Lines of Markdown; single line breaks within a paragraph are kept."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        first, _, rest = paragraph.partition("\n")
        if _SECTION.fullmatch(first.strip()):
            lines += [f"*{first.strip()}*", "", *_items(rest), ""]
        else:
            lines += [*paragraph.splitlines(), ""]
    return lines


def _items(text: str) -> Iterator[str]:
    """`name: what` entries as a list; anything else as one entry."""
    entries: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    if entries and not all(_ITEM.fullmatch(entry) for entry in entries):
        entries = [" ".join(entries)]
    for entry in entries:
        found = _ITEM.fullmatch(entry)
        yield f"* `{found[1]}`: {found[2]}" if found and "`" not in found[1] else f"* {entry}"


def attribute_docstrings(tree: ast.AST) -> dict[str, str]:
    """The string under each annotated assignment of a module or class."""
    assert isinstance(tree, ast.Module | ast.ClassDef)
    return {
        before.target.id: str(after.value.value).replace("\n", " ")
        for before, after in pairwise(tree.body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
