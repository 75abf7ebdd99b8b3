"""Text that every machine has: Python sources, docstrings and documents of this installation."""

import ast
import importlib.metadata
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from neuneu.ladder.documents import Document, seeded_hash

RECIPES: Final = {"code": ("code",), "prose": ("docstrings", "docs")}
# Bytes to read per source: several times what the demo trains on, and a matter of seconds.
MAX_BYTES: Final = 2_500_000

_SKIPPED_FOLDERS: Final = re.compile(
    r"^(_?tests?|_?vendor(ed)?|_vendored.*|third_?party|3rdparty|licen[cs]es|data|build|"
    r"__pycache__|site-packages|idlelib|lib2to3|generated|\.\.)$"
)
_SKIPPED_FILES: Final = re.compile(
    r"licen[cs]e|notice|copying|authors|requirements|top_level|entry_points|cmakelists|_pb2|"
    r"namespace_packages|test",
    re.IGNORECASE,
)
_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_TRIPLE_QUOTED: Final = re.compile(r'"""(?:[^"]|"(?!""))*"""')


class _File(NamedTuple):
    name: str
    path: Path
    size_bytes: int


def installation_documents(max_bytes: int, seed: int) -> Iterator[Document]:
    """Read documents of the sources `code`, `docstrings` and `docs`, about `max_bytes` each.

    `code` is without docstrings, so that the two sources share no text. Files are chosen by a hash
    of their names and the seed.
    """
    files = sorted(
        {*_packages(), *_standard_library()}, key=lambda file: seeded_hash(file.name, seed)
    )
    python = [file for file in files if file.name.endswith(".py")]
    small = [file for file in python if 1_000 <= file.size_bytes <= 60_000]
    large = [file for file in python if 5_000 <= file.size_bytes <= 200_000]
    texts = [file for file in files if not file.name.endswith(".py")]
    yield from _take("code", small, _code, max_bytes)
    yield from _take("docstrings", large, _docstrings, max_bytes)
    yield from _take("docs", texts, _prose, max_bytes)


def _packages() -> Iterator[_File]:
    for distribution in importlib.metadata.distributions():
        for path in distribution.files or ():
            if _wanted(path):
                located = Path(str(distribution.locate_file(path)))
                yield _File(path.as_posix(), located, path.size or 0)


def _standard_library() -> Iterator[_File]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _SKIPPED_FOLDERS.match(name)]
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root)
            if _wanted(relative):
                yield _File(f"stdlib/{relative.as_posix()}", path, path.stat().st_size)


def _wanted(path: PurePath) -> bool:
    kind = path.suffix in {".py", ".md", ".rst", ".txt"} or path.name == "METADATA"
    return (
        kind
        and not _SKIPPED_FILES.search(path.name)
        and not any(_SKIPPED_FOLDERS.match(part) for part in path.parts[:-1])
    )


def _take(
    source: str, files: list[_File], extract: Callable[[str, str], str], max_bytes: int
) -> Iterator[Document]:
    total = 0
    for file in files:
        if total >= max_bytes:
            return
        try:
            raw = file.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            # Deleted since installation, or not UTF-8; there is plenty of other text.
            continue
        text = extract(file.name, raw)
        if len(text) >= 400:
            total += len(text.encode())
            yield Document(source=source, doc_id=file.name, text=text)


def _code(_name: str, raw: str) -> str:
    """Python source without the lines of its docstrings."""
    dropped: set[int] = set()
    for _, node in _parsed_docstrings(raw):
        dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = raw.splitlines(keepends=True)
    return "".join(line for number, line in enumerate(lines, 1) if number not in dropped)


def _docstrings(_name: str, raw: str) -> str:
    """The docstrings of a source file, if they are a large enough part of it."""
    if sum(map(len, _TRIPLE_QUOTED.findall(raw))) < 0.3 * len(raw):
        return ""
    return "\n\n".join(text for text, _ in _parsed_docstrings(raw) if len(text) > 40)


def _parsed_docstrings(raw: str) -> list[tuple[str, ast.Expr]]:
    try:
        return list(_docstrings_of(ast.parse(raw)))
    except (SyntaxError, ValueError):
        return []


def _docstrings_of(node: _Definition) -> Iterator[tuple[str, ast.Expr]]:
    """Docstrings of a node, its classes and functions; expressions are skipped for speed."""
    text = ast.get_docstring(node)
    # Keep a docstring that is the only statement of a body: code without it would not be valid.
    if text is not None and len(node.body) > 1 and isinstance(node.body[0], ast.Expr):
        yield text, node.body[0]
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_of(child)


def _prose(name: str, raw: str) -> str:
    """A document or the description of a package; empty for tables, word lists and logs."""
    text = raw.partition("\n\n")[2] if name.endswith("METADATA") else raw
    letters = sum(character.isalpha() or character == " " for character in text)
    return text if letters >= 0.75 * len(text) else ""
