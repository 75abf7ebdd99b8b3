"""Documents of tasks from parquet tables."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core.errors import DataError


def read_columns(path: Path, columns: Sequence[str], *, what: str) -> pa.Table:
    """The columns of a parquet file, in the order given; `what` names the file in messages.

    Raises:
        DataError: unreadable, a column is not there, or a value is missing.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{what} {path}: expected parquet, found {error}.") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{what} {path}: missing columns {missing}; found {table.column_names}.")
    table = table.select(columns)
    for name in columns:
        if table.column(name).null_count:
            raise DataError(f"{what} {path}: column {name!r} has missing values; drop those rows.")
    return table
