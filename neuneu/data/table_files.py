"""Files of tables: parquet or text, told apart by their content."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError, UserError
from neuneu.core.formatting import format_count
from neuneu.core.storage import copy_of
from neuneu.data.cells import listed
from neuneu.data.csv_text import MAX_COLUMNS, read_text
from neuneu.data.schemas import check_version
from neuneu.data.store.store import META

MAX_ROWS: Final = 50_000_000

_PARQUET: Final = b"PAR1"
_SUFFIXES: Final = (".parquet", ".pq", ".csv", ".tsv", ".txt")


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFile:
    """A table as its file has it, what to call it in messages, and what was recognised."""

    table: pa.Table
    name: str
    notes: tuple[str, ...] = ()


def is_folder(address: str | Path) -> bool:
    """Whether an address is that of a folder, such as a store, and not of a table."""
    if "://" in str(address):
        return _suffix(str(address)) not in _SUFFIXES
    return Path(address).is_dir()


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix.lower()


def read_file(address: str | Path) -> TableFile:
    """A parquet or CSV file (also gzipped, also by semicolons or tabs), local or `s3://`, as it is.

    Raises:
        UserError: no such file, another kind of file, or one that is damaged or too large.
    """
    with copy_of(address) as path:
        return _read_file(path, str(address))


def _read_file(path: Path, name: str) -> TableFile:
    suffix = _suffix(name)
    try:
        if path.is_dir():
            raise UserError(_folder(path))
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: expected a file, found a device or a pipe; write it to one.")
        if suffix not in _SUFFIXES:
            raise UserError(
                f"{name}: expected a store folder or a file {', '.join(_SUFFIXES)}, found "
                f"{suffix or 'none of these'!r}; {_remedy(suffix)}."
            )
        with path.open("rb") as file:
            magic = file.read(len(_PARQUET))
        if magic == _PARQUET or suffix in {".parquet", ".pq"}:
            return TableFile(table=_parquet(path, name), name=name)
        text = read_text(path, name=name)
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file; check the path.") from error
    except OSError as error:
        if error.strerror is None:
            raise
        raise UserError(
            f"{name}: expected a file that can be read, found: {error.strerror}; check its "
            "permissions."
        ) from error
    return TableFile(table=text.table, name=text.name, notes=text.notes)


def _remedy(suffix: str) -> str:
    if suffix in {".xlsx", ".xls", ".ods"}:
        return "save the sheet as CSV"
    return "`neuneu import` reads what evaluation tools write"


def check_store(address: str | Path) -> None:
    """Checks that a folder, if it is a local one, is a store.

    Raises:
        UserError: it is none; the tables in it are named.
    """
    folder = Path(address)
    if "://" not in str(address) and not (folder / META).exists():
        raise UserError(_folder(folder))


def _folder(path: Path) -> str:
    found = sorted(p.name for p in path.iterdir() if p.name.endswith(_SUFFIXES))
    found += sorted(p.parent.name for p in path.glob(f"*/{META}"))
    remedy = f"name one of {listed(found)} in it" if found else "make one with `neuneu import`"
    return f"{path}: expected a file or a store ({META}), found another folder; {remedy}."


def _parquet(path: Path, name: str) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            check_version(file.schema_arrow, name=name)
            if file.metadata.num_columns > MAX_COLUMNS:
                raise DataError(
                    f"{name}: expected one evaluation a row (run, task, step, value), found"
                    f" {file.metadata.num_columns:,} columns; make rows of them (`neuneu import "
                    "--wide`)."
                )
            if file.metadata.num_rows > MAX_ROWS:
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
