"""Text files of a table: UTF-8 with a header line, cells by comma, semicolon or tab; also gzipped.

Cells are read as text (`neuneu.data.cells` makes numbers of them), so that no guess at a column's
type from its first rows decides about the rest.
"""

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from neuneu.core.errors import DataError
from neuneu.data.cells import LinedName, quoted, row_name
from neuneu.data.schemas import ACCURACIES, CHECKPOINTS, LOSSES, TASKS

MAX_BYTES: Final = 1_000_000_000
"""Larger texts are refused: they are read whole. As parquet the same rows are far smaller."""

MAX_COLUMNS: Final = 1000

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_KNOWN: Final = frozenset({*ACCURACIES.names, *LOSSES.names, *TASKS.names, *CHECKPOINTS.names})
_GZIP: Final = b"\x1f\x8b"
_CHUNK: Final = 1 << 24
_BLANK: Final = re.compile(rb"\A[\r\n]|\n\r?\n|\r\r")
_OTHER_KINDS: Final = {
    b"PK\x03\x04": "a zip file or an Excel workbook; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    codecs.BOM_UTF16_LE: "text in UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "text in UTF-16; save it as UTF-8",
    b"{": "JSON; `neuneu import` reads results of evaluation tools",
    b"[": "JSON; `neuneu import` reads results of evaluation tools",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """A table of text cells (null where empty), its name, and what was recognised, line by line."""

    table: pa.Table
    name: LinedName
    notes: tuple[str, ...]


def read_text(path: Path, *, name: str) -> Text:
    """Reads a text file as a table.

    Args:
        path: a local file.
        name: what to call it in messages.

    Raises:
        DataError: too large, binary, not UTF-8, or rows of different lengths; with the line.
        OSError: it cannot be read.
    """
    body = _decoded(_content(path, name), name)
    first, _, rest = _first_line(body)
    if not first.strip():
        raise DataError(
            f"{name}: expected a header line and rows, found an empty file; write the table again."
        )
    delimiter, columns = _header(first, name)
    head = body[: len(body) - len(rest)]
    named = LinedName(name, _line_numbers(rest, first_line=len(head.splitlines()) + 1))
    table = _parsed(rest, columns, delimiter, named)
    notes: tuple[str, ...] = ()
    if delimiter != ",":
        notes = (f"{name}: columns are separated by {DELIMITERS[delimiter]}",)
    return Text(table=table, name=named, notes=notes)


def _content(path: Path, name: str) -> bytes:
    """The bytes of a file, unzipped, at most `MAX_BYTES` of them."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    if not zipped:
        size = path.stat().st_size
        return path.read_bytes() if size <= MAX_BYTES else _too_large(name, size)
    pieces, size = [], 0
    try:
        with gzip.open(path) as unzipped:
            while piece := unzipped.read(_CHUNK):
                size += len(piece)
                if size > MAX_BYTES:
                    _too_large(name, size)
                pieces.append(piece)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{name}: expected a whole gzip file, found a damaged one ({error}); copy it again."
        ) from error
    return b"".join(pieces)


def _too_large(name: str, size: int) -> bytes:
    raise DataError(
        f"{name}: expected at most {MAX_BYTES / 1e9:g} GB of text, found "
        f"{size / 1e9:.3g} GB; write it as parquet, or leave out rows and columns."
    )


def _decoded(body: bytes, name: str) -> bytes:
    """The body as UTF-8 without a byte order mark."""
    for magic, kind in _OTHER_KINDS.items():
        if body.startswith(magic):
            raise DataError(f"{name}: expected CSV in UTF-8, found {kind}.")
    if b"\0" in body[:_CHUNK]:
        half = body[:1000].count(0) * 3 > len(body[:1000])
        kind = "text in UTF-16; save it as UTF-8" if half else "a binary file; export it as CSV"
        raise DataError(f"{name}: expected CSV in UTF-8, found {kind}.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _CHUNK):
        end = start + _CHUNK
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(body[start:end], final=end >= len(body))
        except UnicodeDecodeError as error:
            place = start - pending + error.start
            line = body.count(b"\n", 0, place) + 1
            raise DataError(
                f"{name}: line {line}: expected text in UTF-8, found the byte 0x{body[place]:02x}, "
                "as in Latin-1 or Windows-1252; save the file as UTF-8 (`iconv -f WINDOWS-1252 -t "
                "UTF-8`)."
            ) from error
    return body.removeprefix(codecs.BOM_UTF8)


def _first_line(body: bytes) -> tuple[bytes, bytes, bytes]:
    """The first line that is not blank, its end, and what follows."""
    body = body.lstrip(b"\r\n")
    ends = [place for mark in (b"\n", b"\r") if (place := body.find(mark)) >= 0]
    place = min(ends, default=len(body))
    skip = 2 if body[place : place + 2] == b"\r\n" else 1
    return body[:place], body[place : place + skip], body[place + skip :]


def _header(line: bytes, name: str) -> tuple[str, list[str]]:
    """The delimiter that makes the most known columns of a header, and its columns."""
    text = line.decode()
    count = 1 + max(text.count(mark) for mark in DELIMITERS)
    if count > MAX_COLUMNS:
        raise DataError(
            f"{name}: line 1: expected one evaluation a row (run, task, step, value), found "
            f"{count:,} columns; make rows of them (`neuneu import --wide`)."
        )
    try:
        rows = {mark: _split(text, mark) for mark in DELIMITERS}
    except csv.Error:
        rows = {",": [text]}
    mark = max(rows, key=lambda m: (len(_KNOWN.intersection(rows[m])), len(rows[m]), m == ","))
    columns = rows[mark]
    if len(columns) == 1 and columns[0] not in _KNOWN:
        raise DataError(
            f"{name}: line 1: expected a header of columns separated by commas, semicolons or tabs,"
            f" found {quoted(text)}; write the table as CSV."
        )
    return mark, columns


def _split(line: str, delimiter: str) -> list[str]:
    """Names of columns; the nameless first one that pandas writes is its index."""
    (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    names = [cell.strip() for cell in cells]
    return ["Unnamed: 0", *names[1:]] if len(names) > 1 and not names[0] else names


def _line_numbers(rest: bytes, *, first_line: int) -> Sequence[int]:
    """The line of each row; lines without anything are no rows."""
    if not _BLANK.search(rest):
        count = max(rest.count(b"\n"), rest.count(b"\r")) + (not rest.endswith((b"\n", b"\r")))
        return range(first_line, first_line + count * bool(rest))
    return [place for place, row in enumerate(rest.splitlines(), start=first_line) if row]


def _parsed(rest: bytes, columns: list[str], delimiter: str, name: LinedName) -> pa.Table:
    if not len(name.lines):
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    wrong: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    numbered = [f"{place}" for place in range(len(columns))]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(rest),
            read_options=pacsv.ReadOptions(column_names=numbered, use_threads=False),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=False, invalid_row_handler=note
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(numbered, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(_refused(wrong, str(error), columns, delimiter, name)) from error
    torn = [row for column in table.columns if (row := _first_torn(column)) >= 0]
    if torn:
        raise DataError(_open_quote(min(torn), name))
    cells = [pc.utf8_trim_whitespace(column) for column in table.columns]
    empty = pa.scalar(None, pa.string())
    return pa.Table.from_arrays(
        [pc.if_else(pc.equal(column, ""), empty, column) for column in cells], names=columns
    )


def _first_torn(column: pa.ChunkedArray) -> int:
    """The first row of a cell that goes on on the next line; -1 if there is none."""
    return int(pc.index(pc.match_substring_regex(column, r"[\r\n]"), True).as_py())


def _open_quote(row: int, name: LinedName) -> str:
    return (
        f"{name}: {row_name(name, row)}: expected every row on one line, found a quote that is not "
        "closed there. Close it, or drop the quotes."
    )


def _refused(
    wrong: list[pacsv.InvalidRow],
    message: str,
    columns: list[str],
    delimiter: str,
    name: LinedName,
) -> str:
    if not wrong or wrong[0].number is None:
        found = " ".join(message.split())[:200]
        return f"{name}: not readable as CSV ({found}); write the table again."
    row = wrong[0]
    if "\n" in row.text:
        return _open_quote(row.number - 1, name)
    remedy = "Fill in or drop the row."
    if row.actual_columns > row.expected_columns:
        remedy = 'Put a cell that has a comma of its own in quotes: "a,b"; write 1,000 as 1000.'
        remedy = remedy if delimiter == "," else "Drop what is too many."
    return (
        f"{name}: {row_name(name, row.number - 1)}: expected {len(columns)} cells by the header, "
        f"found {row.actual_columns} in {quoted(row.text)}. {remedy}"
    )
