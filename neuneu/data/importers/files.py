"""JSON files under a path, read with one-line errors."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neuneu.core.errors import DataError


def files_under(path: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the path itself, or the files of a folder and of all folders in it, sorted by name."""
    if path.is_file():
        yield path
        return
    for found in sorted(path.rglob("*")):
        if found.suffix in suffixes and found.is_file():
            yield found


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        DataError: not readable, or cut off.
    """
    return _parse(_read(path), path, "JSON")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line.

    Raises:
        DataError: not readable, cut off, or something other than objects.
    """
    rows = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if line.strip():
            row = _parse(line, path, f"a JSON object in line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{path}: expected a JSON object in line {number}, found {line!r}.")
            rows.append(row)
    return rows


def names_around(path: Path, root: Path) -> Sequence[str]:
    """Return the names of a file and of the folders around it up to `root`, nearest first."""
    inner = path.relative_to(root).parent.parts if path != root else ()
    outer = root.resolve() if root.is_dir() else root.resolve().parent
    return (path.stem, *reversed(inner), outer.name)


def number(value: Any) -> float | None:
    """Return a JSON number as a float, None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}).") from error


def _parse(text: str, path: Path, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: expected {expected}, found it broken ({error}); the file may be cut off. "
            "Write it again or move it away."
        ) from error
