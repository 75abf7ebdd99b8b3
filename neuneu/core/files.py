"""Local files: written whole or not at all, and untrusted JSON read strictly.

JSON that checkpoints bring may hold anything. Parsers disagree about repeated keys, NaN and deep
nesting, so none of these gets as far as an engine.
"""

import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError

_MAX_DEPTH: Final = 32
_MAX_REASON_CHARS: Final = 300


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to `path` on success.

    The file is flushed to disk before the rename, so that a crash leaves the old file or the
    new one. On an exception the temporary file is removed and `path` is untouched. Without
    `replace` an existing file stays as it is.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if replace:
            temporary.replace(target)
        else:
            with suppress(FileExistsError):
                target.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def one_line(error: BaseException) -> str:
    """Return the message of an exception, or its type if it has none, as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_REASON_CHARS else f"{text[:_MAX_REASON_CHARS]}..."


def check_regular(path: Path) -> None:
    """Refuse a file whose reading would not end, such as a pipe.

    Raises:
        CheckpointError: there is no regular file, nor a link to one.
    """
    if not os.path.lexists(path):
        raise CheckpointError(f"expected {path.name} in {path.parent}, found none.")
    try:
        regular = path.is_file()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(error)}).") from error
    if not regular:
        raise CheckpointError(
            f"{path.name}: expected a regular file, found a folder, a pipe, a device or a broken "
            "link; put the file itself there."
        )


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        CheckpointError: as `check_regular`, or the file cannot be read.
    """
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(error)}).") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Apply `parse_mapping` to a local file.

    Raises:
        CheckpointError: as `parse_mapping` and `read_regular`.
    """
    return parse_mapping(read_regular(path), path.name)


def parse_mapping(content: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object without repeated keys, NaN, deep nesting, or infinities outside lists.

    Lists may hold infinities: some state-space models have them as limits.

    Args:
        content: UTF-8.
        name: name of the file in messages.

    Raises:
        CheckpointError: the content is anything else.
    """
    raw = parse_json(content, name)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name}: expected a mapping, found {type(raw).__name__}.")
    stack: list[tuple[Any, int]] = [(raw, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{name}: nested deeper than {_MAX_DEPTH} levels; save it again.")
        items = value if isinstance(value, list) else []
        if isinstance(value, dict):
            items = list(value.values())
            for key, item in value.items():
                if item in (math.inf, -math.inf):
                    raise CheckpointError(f"{name}: {key!r} is {item}; expected a finite number.")
        stack += [(item, depth + 1) for item in items]
    return raw


def parse_json(content: bytes, name: str) -> Any:
    """Parse JSON without repeated keys and NaN.

    Raises:
        CheckpointError: the content is anything else.
    """
    try:
        return json.loads(
            content.decode(), object_pairs_hook=_without_repeats, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: cannot be read as JSON ({one_line(error)}).") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} appears twice")
        result[key] = value
    return result


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("it holds NaN")
    return float(text)
