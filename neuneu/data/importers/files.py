"""JSON files under a path, read with one-line errors."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from neuneu.core.errors import DataError

T = TypeVar("T", bound=pydantic.BaseModel)


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
    return [row for _, row in json_rows(path)]


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, object) of a file with one JSON object per line, or with a list of objects.

    Lines are read one at a time; a `.gz` file is decompressed.

    Raises:
        DataError: not readable, cut off, or something other than objects.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                if number == 1 and line.lstrip().startswith("["):
                    yield from _listed(line + lines.read(), path)
                    return
                yield (
                    number,
                    _object(
                        _parse(line, path, f"a JSON object in line {number}"),
                        path,
                        f"line {number}",
                    ),
                )
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable after line {number} ({error}).") from error


def parse_row(kind: type[T], row: dict[str, Any], path: Path, number: int) -> T:
    """Read the declared part of a JSON object.

    Raises:
        DataError: something is missing or of another type, with the line.
    """
    try:
        return kind.model_validate(row)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        found = f", found {problem['input']!r:.60}" if problem["type"] != "missing" else ""
        wanted = (kind.__doc__ or "").splitlines()[0].rstrip(".")
        raise DataError(
            f"{path}: line {number}: {where}: {problem['msg'].lower()}{found}; expected a line as "
            f"{wanted}. Write the file again or move it away."
        ) from error


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


def _listed(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(_parse(text, path, "a JSON list"), start=1):
        yield number, _object(row, path, f"place {number}")


def _object(row: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}: expected a JSON object in {where}, found {row!r:.60}.")
    return row
