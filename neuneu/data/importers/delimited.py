"""Tables of other makers: CSV with any separator, and parquet, as they are."""

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from neuneu.core.errors import DataError
from neuneu.data.table_files import DELIMITERS

_SUFFIXES: Final = (".csv", ".tsv", ".parquet")


def is_delimited(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.is_file() and _kind(path) in _SUFFIXES


def read_header(path: Path) -> list[str]:
    """The names of the columns, without reading the rows of a parquet file or of a long CSV.

    Raises:
        DataError: not readable as a table.
    """
    try:
        if _kind(path) == ".parquet":
            return list(pq.read_schema(path).names)
        with pacsv.open_csv(path, parse_options=_parse_options(path)) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as a table ({error}).") from error


def read_delimited(path: Path) -> pa.Table:
    """The whole table; the separator is the one that the first line has most often.

    Raises:
        DataError: not readable as a table.
    """
    try:
        if _kind(path) == ".parquet":
            return pq.read_table(path)
        return pacsv.read_csv(path, parse_options=_parse_options(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as a table ({error}).") from error


def _parse_options(path: Path) -> pacsv.ParseOptions:
    with pa.input_stream(path) as stream:
        first = stream.read(1 << 16).decode("utf-8-sig", errors="replace").split("\n", 1)[0]
    return pacsv.ParseOptions(delimiter=max(DELIMITERS, key=first.count))


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()
