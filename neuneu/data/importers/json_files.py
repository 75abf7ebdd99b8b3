"""JSON files under a path, found and read with one-line errors."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neuneu.core.errors import DataError


def files_under(path: Path, *suffixes: str) -> Iterator[Path]:
    """The path itself, or the files of a folder and of all folders in it, sorted by name."""
    if path.is_file():
        yield path
        return
    for found in sorted(path.rglob("*")):
        if found.suffix in suffixes and found.is_file():
            yield found


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises:
        DataError: not readable, or cut off.
    """
    return _parsed(_text(path), path, "JSON")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one a line.

    Raises:
        DataError: not readable, cut off, or something else than objects.
    """
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            row = _parsed(line, path, f"a JSON object in line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{path}: expected a JSON object in line {number}, found {line!r}.")
            rows.append(row)
    return rows


def names_around(path: Path, root: Path) -> Sequence[str]:
    """The names that may tell a step: the file's, then its folders' up to the given one."""
    stem = path.stem
    inner = path.relative_to(root).parent.parts if path != root else ()
    outer = root.resolve() if root.is_dir() else root.resolve().parent
    return (stem, *reversed(inner), outer.name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}).") from error


def _parsed(text: str, path: Path, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: expected {expected}, found it broken ({error}); the file may be cut off. "
            "Write it again or move it away."
        ) from error
