"""Cells of a table: what messages call them, and columns of text as numbers, misfits named."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError

MISSING: Final = ("", "-", "na", "n/a", "#n/a", "nan", "null", "none")
"""Text that stands for an unknown number, whatever its case."""

_LONGEST: Final = 60
_NAMED: Final = 8


class LinedName(str):
    """The name of a text file, which knows the line of each row of its table."""

    __slots__ = ("lines",)
    lines: Sequence[int]

    def __new__(cls, name: str, lines: Sequence[int]) -> "LinedName":
        """Names a file whose row i stands on line `lines[i]`."""
        made = super().__new__(cls, name)
        made.lines = lines
        return made


def row_name(name: str, row: int) -> str:
    """What to call a row of the table `name`: its line in a text file, else its number from 0."""
    if isinstance(name, LinedName) and row < len(name.lines):
        return f"line {name.lines[row]}"
    return f"row {row}"


def listed(names: Sequence[str], limit: int = _NAMED) -> str:
    """Names by comma, at most `limit` of them."""
    more = len(names) - limit
    shown = ", ".join(quoted(name) for name in names[:limit]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def quoted(value: object) -> str:
    """A value as a message shows it: in quotes if it is text, cut if it is long."""
    text = repr(value[: _LONGEST + 1] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def as_type(column: pa.ChunkedArray, kind: pa.DataType, *, title: str, name: str) -> pa.Array:
    """A column as text, truth values, whole or other numbers; text is read as numbers.

    Args:
        column: any.
        kind: string, bool, an integer type or float64.
        title: the column's name.
        name: what to call the table in messages.

    Raises:
        DataError: with the row, a cell that is not of that kind.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if _is_text(array.type):
        array = _text(array, title, name)
        if not pa.types.is_string(kind):
            array = _number_text(array)
    if array.type == kind or pa.types.is_null(array.type):
        return array.cast(kind)
    if _fits(array.type, kind):
        return _cast(array, kind, title, name)
    row = pc.index(pc.is_valid(array), True).as_py()
    raise _misfit(array, max(row, 0), kind, title, name)


def _fits(found: pa.DataType, kind: pa.DataType) -> bool:
    if pa.types.is_boolean(kind):
        return pa.types.is_string(found)
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return pa.types.is_string(found) or any(is_kind(found) for is_kind in is_number)


def _is_text(kind: pa.DataType) -> bool:
    """Some writers of parquet do not mark text as such: it is then read as bytes."""
    is_text = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
    )  # fmt: skip
    return any(is_kind(kind) for is_kind in is_text)


def _text(array: pa.Array, title: str, name: str) -> pa.Array:
    try:
        array = array.cast(pa.string())
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{name}: column {title!r}: expected text in UTF-8, found other bytes; write the table "
            "again."
        ) from error
    return array


def _number_text(array: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(array)
    unknown = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING))
    return pc.if_else(unknown, pa.scalar(None, pa.string()), trimmed)


def _cast(array: pa.Array, kind: pa.DataType, title: str, name: str) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:
        if pa.types.is_boolean(kind):
            row = _first_failing(array, lambda a: a.cast(kind))
            raise _misfit(array, row, kind, title, name) from None
    # 1e9, 10.0 and NaN for unknown are found in columns of whole numbers.
    try:
        numbers = array.cast(pa.float64())
    except pa.ArrowInvalid:
        row = _first_failing(array, lambda a: a.cast(pa.float64()))
        raise _misfit(array, row, kind, title, name) from None
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    try:
        return numbers.cast(kind)
    except pa.ArrowInvalid:
        row = _first_failing(numbers, lambda a: a.cast(kind))
        raise _misfit(array, row, kind, title, name) from None


def _first_failing(array: pa.Array, cast: Callable[[pa.Array], pa.Array]) -> int:
    """The first row that `cast` refuses, by bisection."""
    start, stop = 0, len(array)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            cast(array.slice(start, middle - start))
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start


def _misfit(array: pa.Array, row: int, kind: pa.DataType, title: str, name: str) -> DataError:
    value = array[row].as_py()
    shown = quoted(value) if isinstance(value, str) else f"{value!s:.{_LONGEST}} ({array.type})"
    if pa.types.is_integer(kind):
        expected = "a whole number"
    elif pa.types.is_floating(kind):
        expected = "a number"
    else:
        expected = "true or false" if pa.types.is_boolean(kind) else "text"
    return DataError(
        f"{name}: {row_name(name, row)}: {title} is {shown}; expected {expected}. "
        f"{_remedy(value, title)}"
    )


def _remedy(value: object, title: str) -> str:
    """What to do about a cell, by what people put into tables."""
    text = str(value).strip()
    if text.count("-") == 2 or ":" in text:
        return f"A date is no {title}: give the number of training steps, or tokens."
    if not isinstance(value, str):
        return f"Give {title} as numbers or text."
    if text.endswith("%"):
        return "Write a fraction: 45 % is 0.45."
    if "," in text and _is_number(text.replace(",", "")):
        whole = text.replace(",", "")
        if text.startswith("0,") or (text.count(",") == 1 and len(text.split(",")[1]) != 3):
            return f"Write a decimal point: {text.replace(',', '.')}."
        return f"Write it without separators: {whole}."
    return "Correct it or drop the row."


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
