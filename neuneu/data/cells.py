"""Cells of a table: their names in messages, and casts of columns that name the first misfit."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError

MISSING: Final = ("", "-", "na", "n/a", "#n/a", "nan", "null", "none")
"""Text that stands for an unknown number, in any case."""

# Some parquet writers do not mark text as such: it is then read as bytes.
_TEXT: Final = {f"{size}{kind}" for size in ("", "large_") for kind in ("string", "binary")} | {
    "string_view",
    "binary_view",
}
_EXPECTED: Final = {pa.string(): "text", pa.bool_(): "true or false", pa.float64(): "a number"}
_SHOWN: Final = 60
_LISTED: Final = 8


class LinedName(str):
    """The name of a text file that also knows the line of each row of its table."""

    __slots__ = ("lines",)
    lines: Sequence[int]

    def __new__(cls, name: str, lines: Sequence[int]) -> "LinedName":
        """Names a file whose row i is on line `lines[i]`."""
        made = super().__new__(cls, name)
        made.lines = lines
        return made


def row_name(name: str, row: int) -> str:
    """Return `line N` for a row of a text file, else `row N`, counted from 0."""
    if isinstance(name, LinedName) and row < len(name.lines):
        return f"line {name.lines[row]}"
    return f"row {row}"


def listed(names: Sequence[str], limit: int = _LISTED) -> str:
    """Join names by commas, at most `limit` of them."""
    more = len(names) - limit
    shown = ", ".join(quoted(name) for name in names[:limit]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def quoted(value: object) -> str:
    """Return a value as messages show it: text in quotes, long values cut."""
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_type(
    column: pa.ChunkedArray | pa.Array, kind: pa.DataType, *, title: str, name: str
) -> pa.Array:
    """Cast a column; text is parsed as numbers, and `MISSING` is null.

    Args:
        column: of any type.
        kind: string, bool, an integer type or float64.
        title: name of the column.
        name: what messages call the table.

    Raises:
        DataError: a cell that is not of that kind, with its row.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if is_text(array.type):
        array = _text(array, title, name)
        if kind != pa.string():
            trimmed = pc.utf8_trim_whitespace(array)
            unknown = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(MISSING))
            array = pc.if_else(unknown, pa.scalar(None, pa.string()), trimmed)
    try:
        return _cast(array, kind)
    except pa.ArrowInvalid:
        row = bisect_left(range(len(array)), True, key=lambda n: not _fits(array[: n + 1], kind))
    value = array[row].as_py()
    shown = quoted(value) if isinstance(value, str) else f"{value!s:.{_SHOWN}} ({array.type})"
    raise DataError(
        f"{name}: {row_name(name, row)}: {title} is {shown}; expected "
        f"{_EXPECTED.get(kind, 'a whole number')}. {_remedy(value, title)}"
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, marked as such or as bytes."""
    return str(kind) in _TEXT


def as_floats(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Cast a column of numbers to float64; whole numbers beyond 2^53 are rounded.

    Raises:
        pyarrow.ArrowInvalid: text that is no number.
    """
    return column.cast(pa.float64(), safe=not pa.types.is_integer(column.type))


def without_nan(cells: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Replace NaN in a column of float64 by null."""
    return pc.if_else(pc.is_nan(cells), pa.scalar(None, pa.float64()), cells)


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


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast text and numbers; raises ArrowInvalid where pyarrow would cast dates and the like."""
    if array.type == kind or array.null_count == len(array):
        return pa.nulls(len(array), kind) if array.type != kind else array
    is_number = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
    numeric = kind != pa.bool_() and any(is_kind(array.type) for is_kind in is_number)
    if not (numeric or pa.types.is_string(array.type)):
        raise pa.ArrowInvalid(f"expected {kind}")
    try:
        return as_floats(array) if kind == pa.float64() else array.cast(kind)
    except pa.ArrowInvalid:
        if not pa.types.is_integer(kind):
            raise
    # Columns of whole numbers also hold 1e9, 10.0 and NaN for unknown.
    return without_nan(as_floats(array)).cast(kind)


def _fits(array: pa.Array, kind: pa.DataType) -> bool:
    try:
        _cast(array, kind)
    except pa.ArrowInvalid:
        return False
    return True


def _remedy(value: object, title: str) -> str:
    """Return what to do about a cell, by what people put into tables."""
    text = str(value).strip()
    if text.count("-") == 2 or ":" in text:
        return f"A date is no {title}: give the number of training steps, or tokens."
    if not isinstance(value, str):
        return f"Give {title} as numbers or text."
    if text.endswith("%"):
        return "Write a fraction: 45 % is 0.45, or use `neuneu import --percent`."
    if re.fullmatch(r"[+-]?\d*,[\d,]*\.?\d*(e[+-]?\d+)?", text, re.IGNORECASE):
        if text.startswith("0,") or (text.count(",") == 1 and len(text.split(",")[1]) != 3):
            return f"Write a decimal point: {text.replace(',', '.')}."
        return f"Write it without separators: {text.replace(',', '')}."
    return "Correct it or drop the row."
