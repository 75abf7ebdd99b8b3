"""Markdown from docstrings: paragraphs stay, the sections of Google style become lists."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

_SECTION: Final = re.compile(r"(Args|Returns|Raises|Yields):")
_ITEM: Final = re.compile(r"(\*{0,2}[\w.]+): (.*)")


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def docstring(text: str) -> str:
    """Return a docstring as Markdown; line breaks within a paragraph are kept."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        first, _, rest = paragraph.partition("\n")
        if _SECTION.fullmatch(first):
            paragraphs += [f"*{first}*", "\n".join(_items(rest))]
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs).strip()


def _items(text: str) -> Iterator[str]:
    """Yield `name: meaning` entries as a list; anything else as one entry."""
    entries = re.sub(r"\n +", " ", textwrap.dedent(text).strip()).splitlines()
    found = [_ITEM.fullmatch(entry) for entry in entries]
    if all(found):
        yield from (f"* `{each[1]}`: {each[2]}" for each in found if each)
    else:
        yield f"* {' '.join(entries)}"


def attribute_docstrings(tree: ast.AST) -> dict[str, str]:
    """Return the string under each assignment of a module or class by its name."""
    found = {}
    for before, after in pairwise(getattr(tree, "body", [])):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = text
    return found
