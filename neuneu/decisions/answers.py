"""An answer: rows of plain values, notes on what was assumed, and warnings."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.core import __version__
from neuneu.core.files import atomic_path, write_text_atomic
from neuneu.core.storage import Folder, written_to
from neuneu.forecasters.warnings import Warning

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The answer to one question.

    `rows` are mappings of JSON types: accuracies as fractions, tokens as numbers, probabilities
    in [0, 1], None where something is beyond the horizon. `notes` say what was assumed or
    chosen; `warnings`, each with a `code` and a `text`, why intervals may be off. `tables` holds
    larger results, such as every forecast (`schemas.FORECASTS`); `settings` the options.
    `self_calibration` says how far off forecasts of the table's own finished runs are, one mapping
    for each family.
    """

    question: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict, repr=False)
    self_calibration: tuple[Mapping[str, Any], ...] = ()

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """The warnings of all rows, each once."""
        return row_warnings(*self.rows)

    def to_arrow(self) -> pa.Table:
        """Return the rows as a table; lists and mappings stay nested."""
        return pa.Table.from_pylist(self.rows)

    def to_pandas(self) -> Any:
        """Return the rows as a pandas DataFrame (requires pandas)."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Return every column as a NumPy array with one value per row."""
        return {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tables as JSON types."""
        return {
            "question": self.question,
            "rows": self.rows,
            "notes": list(self.notes),
            "warnings": [asdict(warning) for warning in self.warnings],
            "settings": dict(self.settings),
            "self_calibration": [dict(check) for check in self.self_calibration],
            "neuneu": __version__,
        }

    def write(self, folder: str | Path) -> None:
        """Write `QUESTION.json` and a parquet file for every table; local or `s3://`."""
        record = f"{self.question}.json"
        with written_to(Folder(folder), last=record) as local:
            for name, table in self.tables.items():
                with atomic_path(local / f"{name}.parquet") as temporary:
                    pq.write_table(table, temporary, compression="zstd")
            text = json.dumps(self.to_json(), indent=1, allow_nan=False, default=str)
            write_text_atomic(local / record, text + "\n")


def plain(value: float, digits: int = 5) -> float | None:
    """A number for JSON: rounded, None where it is not finite."""
    return round(float(value), digits) if np.isfinite(value) else None


def plain_tokens(value: float) -> float | None:
    """Tokens for JSON, to four digits; None beyond the horizon."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def merged(parts: Iterable[Iterable[T]]) -> tuple[T, ...]:
    """The items of several lists, each once, in order."""
    return tuple(dict.fromkeys(item for part in parts for item in part))


def row_warnings(*rows: Mapping[str, Any]) -> tuple[Warning, ...]:
    """The warnings of rows, each once."""
    return merged([Warning(**record) for record in row.get("warnings", ())] for row in rows)
