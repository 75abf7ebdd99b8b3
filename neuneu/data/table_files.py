"""Files of tables: parquet or CSV, told apart by their content.

CSV is UTF-8 with a header line and cells separated by commas, semicolons or tabs, possibly
gzipped. Its cells are read as text (`neuneu.data.cells` makes numbers of them), so that no guess
at a column's type from its first rows decides about the rest.
"""

import codecs
import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, UserError
from neuneu.core.formatting import format_count
from neuneu.core.storage import copy_of
from neuneu.data.cells import LinedName, listed, quoted, row_name
from neuneu.data.schemas import (
    ACCURACIES,
    CHECKPOINTS,
    LOSSES,
    TASKS,
    check_repeated,
    check_version,
)
from neuneu.data.store.store import META

MAX_ROWS: Final = 50_000_000
MAX_COLUMNS: Final = 1000
MAX_BYTES: Final = 1_000_000_000
"""Larger texts are refused, as they are read whole; as parquet the same rows are far smaller."""

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SUFFIXES: Final = (".parquet", ".pq", ".csv", ".tsv", ".txt")
_KNOWN: Final = frozenset({*ACCURACIES.names, *LOSSES.names, *TASKS.names, *CHECKPOINTS.names})
_OTHER_KINDS: Final = {
    b"PK\x03\x04": "a zip file or an Excel workbook; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    codecs.BOM_UTF16_LE: "text in UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "text in UTF-16; save it as UTF-8",
    b"{": "JSON; `neuneu import` reads results of evaluation tools",
    b"[": "JSON; `neuneu import` reads results of evaluation tools",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFile:
    """A table as its file has it, what messages call it, and what was recognised."""

    table: pa.Table
    name: str
    notes: tuple[str, ...] = ()


def is_folder(location: str | Path) -> bool:
    """Whether a location is that of a folder, such as a store, and not of a table."""
    if "://" in str(location):
        return _suffix(str(location)) not in _SUFFIXES
    return Path(location).is_dir()


def check_store(location: str | Path) -> None:
    """Check that a folder, if it is local, is a store.

    Raises:
        UserError: it is not; the message names the tables in it.
    """
    folder = Path(location)
    if "://" not in str(location) and not (folder / META).exists():
        raise UserError(_no_store(folder))


def read_file(location: str | Path) -> TableFile:
    """Read a parquet or CSV file, local or `s3://`, without checking its columns.

    Raises:
        UserError: no such file, another kind of file, or one that is damaged or too large.
    """
    name = str(location)
    with copy_of(location) as path:
        try:
            return _read_file(path, name)
        except FileNotFoundError as error:
            raise UserError(f"{name}: no such file; check the path.") from error
        except OSError as error:
            if error.strerror is None:
                raise
            raise UserError(
                f"{name}: expected a file that can be read, found: {error.strerror}; check its "
                "permissions."
            ) from error


def _read_file(path: Path, name: str) -> TableFile:
    suffix = _suffix(name)
    if path.is_dir():
        raise UserError(_no_store(path))
    if path.exists() and not path.is_file():
        raise UserError(f"{name}: expected a file, found a device or a pipe; write it to one.")
    if suffix not in _SUFFIXES:
        is_sheet = suffix in {".xlsx", ".xls", ".ods"}
        remedy = (
            "save the sheet as CSV" if is_sheet
            else "`neuneu import` reads what evaluation tools write"
        )  # fmt: skip
        raise UserError(
            f"{name}: expected a store folder or a file {', '.join(_SUFFIXES)}, found "
            f"{suffix or 'none of these'!r}; {remedy}."
        )
    return read_local(path, name=name)


def read_local(path: Path, *, name: str, limited: bool = True) -> TableFile:
    """Read a local parquet or CSV file, whatever its suffix.

    Args:
        path: the file.
        name: what messages call it.
        limited: whether to refuse files beyond `MAX_ROWS`, `MAX_COLUMNS` and `MAX_BYTES`.

    Raises:
        DataError: too large, damaged, binary, not UTF-8, a column twice, or rows of different
            lengths; with the line.
        OSError: it cannot be read.
    """
    if _is_parquet(path, name):
        file = TableFile(table=_read_parquet(path, name, limited=limited), name=name)
    else:
        file = _read_csv(path, name, limited=limited)
    check_repeated(file.table.column_names, name=name)
    return file


def read_header(path: Path) -> list[str]:
    """Return the columns of a local parquet or CSV file without reading its rows.

    Raises:
        DataError: not readable as a table.
    """
    try:
        if _is_parquet(path, path.name):
            return list(pq.read_schema(path).names)
        with pa.input_stream(path) as stream:
            text = stream.read(1 << 20).decode("utf-8-sig", errors="replace")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as a table ({error}).") from error
    lines = text.lstrip("\r\n").splitlines() or [""]
    return _split_header(lines[0])[1]


def _is_parquet(path: Path, name: str) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or _suffix(name) in {".parquet", ".pq"}


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix.lower()


def _no_store(path: Path) -> str:
    found = sorted(p.name for p in path.iterdir() if p.name.endswith(_SUFFIXES))
    found += sorted(p.parent.name for p in path.glob(f"*/{META}"))
    remedy = f"name one of {listed(found)} in it" if found else "make one with `neuneu import`"
    return f"{path}: expected a file or a store ({META}), found another folder; {remedy}."


def _read_parquet(path: Path, name: str, *, limited: bool) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            check_version(file.schema_arrow, name=name)
            if limited and file.metadata.num_columns > MAX_COLUMNS:
                raise DataError(_too_wide(name, file.metadata.num_columns))
            if limited and file.metadata.num_rows > MAX_ROWS:
                raise DataError(
                    f"{name}: expected at most {format_count(MAX_ROWS)} rows, found "
                    f"{format_count(file.metadata.num_rows)}; ask about fewer runs at a time."
                )
            return file.read()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        found = " ".join(str(error).split()).rstrip(".")[:200]
        raise DataError(
            f"{name}: expected a parquet file, found one that is cut off, damaged or of another "
            f"kind ({found}); copy or write it again."
        ) from error


def _too_wide(name: str, count: int) -> str:
    return (
        f"{name}: expected one evaluation per row (run, task, step, value), found {count:,} "
        "columns; make rows of them (`neuneu import --wide`)."
    )


def _read_csv(path: Path, name: str, *, limited: bool) -> TableFile:
    body = _content(path, name, limited=limited)
    for magic, kind in _OTHER_KINDS.items():
        if body.startswith(magic):
            raise DataError(f"{name}: expected CSV in UTF-8, found {kind}.")
    if b"\0" in body[: 1 << 24]:
        half = body[:1000].count(0) * 3 > len(body[:1000])
        kind = "text in UTF-16; save it as UTF-8" if half else "a binary file; export it as CSV"
        raise DataError(f"{name}: expected CSV in UTF-8, found {kind}.")
    body = body.removeprefix(codecs.BOM_UTF8)
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = body.lstrip(b"\n")
    head, _, rows = text.partition(b"\n")
    if not head.strip():
        raise DataError(
            f"{name}: expected a header line and rows, found an empty file; write the table again."
        )
    first_line = len(body) - len(text) + 2
    if b"\n\n" in rows or rows.startswith(b"\n"):
        lines: Sequence[int] = [n for n, row in enumerate(rows.split(b"\n"), first_line) if row]
    else:
        count = rows.count(b"\n") + (not rows.endswith(b"\n"))
        lines = range(first_line, first_line + count * bool(rows))
    named = LinedName(name, lines)
    try:
        delimiter, columns = _header(head.decode(), name, limited=limited)
        table = _parse(rows, columns, delimiter, named)
    except UnicodeDecodeError as error:
        before = -1 if error.object == head else rows.count(b"\n", 0, error.start)
        raise DataError(
            f"{name}: line {first_line + before}: expected text in UTF-8, found the byte "
            f"0x{error.object[error.start]:02x}, as in Latin-1 or Windows-1252; save the file as "
            "UTF-8 (`iconv -f WINDOWS-1252 -t UTF-8`)."
        ) from error
    notes = (f"{name}: columns are separated by {DELIMITERS[delimiter]}",)
    return TableFile(table=table, name=named, notes=() if delimiter == "," else notes)


def _content(path: Path, name: str, *, limited: bool) -> bytes:
    """Return the unzipped bytes of a file, at most `MAX_BYTES` if they are `limited`."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    found = f"{size / 1e9:.3g} GB"
    if is_gzip:
        try:
            with gzip.open(path) as unzipped:
                body = unzipped.read(MAX_BYTES + 1 if limited else -1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{name}: expected a whole gzip file, found a damaged one ({error}); copy it again."
            ) from error
        size, found = len(body), "more"
    if limited and size > MAX_BYTES:
        raise DataError(
            f"{name}: expected at most {MAX_BYTES / 1e9:g} GB of text, found {found}; write it as "
            "parquet, or leave out rows and columns."
        )
    return body if is_gzip else path.read_bytes()


def _header(line: str, name: str, *, limited: bool) -> tuple[str, list[str]]:
    count = 1 + max(line.count(mark) for mark in DELIMITERS)
    if limited and count > MAX_COLUMNS:
        raise DataError(_too_wide(f"{name}: line 1", count))
    mark, columns = _split_header(line)
    if len(columns) == 1 and columns[0] not in _KNOWN:
        raise DataError(
            f"{name}: line 1: expected a header of columns separated by commas, semicolons or tabs,"
            f" found {quoted(line)}; write the table as CSV."
        )
    return mark, columns


def _split_header(line: str) -> tuple[str, list[str]]:
    """Return the delimiter that makes the most known columns of a header, and its columns."""
    try:
        rows = {mark: _split(line, mark) for mark in DELIMITERS}
    except csv.Error:
        rows = {",": [line]}
    mark = max(rows, key=lambda m: (len(_KNOWN.intersection(rows[m])), len(rows[m]), m == ","))
    return mark, rows[mark]


def _split(line: str, delimiter: str) -> list[str]:
    """Return names of columns; the nameless first one that pandas writes is its index."""
    (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    names = [cell.strip() for cell in cells]
    return ["Unnamed: 0", *names[1:]] if len(names) > 1 and not names[0] else names


def _parse(rows: bytes, columns: list[str], delimiter: str, name: LinedName) -> pa.Table:
    if not len(name.lines):
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    wrong: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    numbered = [f"{index}" for index in range(len(columns))]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(rows),
            read_options=pacsv.ReadOptions(column_names=numbered, use_threads=False),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, invalid_row_handler=note),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(numbered, pa.string())),
        )
    except pa.ArrowInvalid as error:
        if "invalid UTF8" in str(error):
            rows.decode()
        if wrong and wrong[0].number is not None:
            raise DataError(_refused(wrong[0], delimiter, name)) from error
        found = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: not readable as CSV ({found}); write the table again.") from error
    cells = []
    for column in table.columns:
        torn = pc.index(pc.match_substring(column, "\n"), True).as_py()
        if torn >= 0:
            raise DataError(_open_quote(torn, name))
        trimmed = pc.utf8_trim_whitespace(column)
        cells.append(pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed))
    return pa.Table.from_arrays(cells, names=columns)


def _open_quote(row: int, name: LinedName) -> str:
    return (
        f"{name}: {row_name(name, row)}: expected every row on one line, found a quote that is not "
        "closed there. Close it, or drop the quotes."
    )


def _refused(row: pacsv.InvalidRow, delimiter: str, name: LinedName) -> str:
    if "\n" in row.text:
        return _open_quote(row.number - 1, name)
    remedy = "Fill in or drop the row."
    if row.actual_columns > row.expected_columns:
        remedy = 'Put a cell that has a comma of its own in quotes: "a,b"; write 1,000 as 1000.'
        remedy = remedy if delimiter == "," else "Drop what is too many."
    return (
        f"{name}: {row_name(name, row.number - 1)}: expected {row.expected_columns} cells by the "
        f"header, found {row.actual_columns} in {quoted(row.text)}. {remedy}"
    )
