"""JSON that checkpoints bring, which may hold anything: read, or refused in one line.

Readers differ in what they make of keys given twice, of NaN and of deep nesting, so none of these
gets as far as an engine.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import CheckpointError

_DEEPEST: Final = 32
_LONGEST_REASON: Final = 300


def one_line(error: BaseException) -> str:
    """What an exception says, or its type where it says nothing, in one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def read_regular(path: Path) -> bytes:
    """The content of a file that is no folder, pipe, device or broken link.

    Raises:
        CheckpointError: it is one of these, is not there, or cannot be read.
    """
    check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({one_line(error)}).") from error


def check_regular(path: Path) -> None:
    """Refuses what would not end when it is read, such as a pipe.

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


def read_mapping(path: Path) -> dict[str, Any]:
    """`parse_mapping` of a local file.

    Raises:
        CheckpointError: as `parse_mapping` and `read_regular`.
    """
    return parse_mapping(read_regular(path), path.name)


def parse_mapping(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object without repeated keys, NaN, infinities outside lists, and deep nesting.

    Lists may hold infinities: some state-space models give limits so.

    Args:
        content: UTF-8.
        name: of the file, for messages.

    Raises:
        CheckpointError: it is anything else.
    """
    raw = parse_json(content, name)
    if not isinstance(raw, dict):
        raise CheckpointError(f"{name}: expected a mapping, found {type(raw).__name__}.")
    stack: list[tuple[Any, int]] = [(raw, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > _DEEPEST:
            raise CheckpointError(f"{name}: nested deeper than {_DEEPEST} levels; save it again.")
        if isinstance(value, dict):
            infinite = [key for key, item in value.items() if item in (math.inf, -math.inf)]
            if infinite:
                raise CheckpointError(
                    f"{name}: {infinite[0]!r} is {value[infinite[0]]}; expected a finite number."
                )
            stack += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            stack += [(item, depth + 1) for item in value]
    return raw


def parse_json(content: bytes, name: str) -> Any:
    """JSON without repeated keys and NaN.

    Raises:
        CheckpointError: it is anything else.
    """
    try:
        return json.loads(
            content.decode(), object_pairs_hook=_without_repeats, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: cannot be read as JSON ({one_line(error)}).") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {repeated!r} stands there twice")
    return result


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("it holds NaN")
    return float(text)
