"""The data contract: one pyarrow schema a table, and the validation of a table on entry.

Tidy tables, one observation a row. `docs/data-contract.md` explains the columns.
"""

import re
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.errors import DataError
from neuneu.quantiles import FORECAST_LEVELS, column

SCHEMA_VERSION: Final = "1"
_VERSION_KEY: Final = b"neuneu_schema_version"


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind) for name, kind in fields],
        metadata={_VERSION_KEY: SCHEMA_VERSION.encode()},
    )


_RUN = (("family", pa.string()), ("suite", pa.string()), ("run", pa.string()))
_POSITION = (
    ("params", pa.float64()),
    ("num_fewshot", pa.int32()),
    ("step", pa.int64()),
    ("tokens", pa.float64()),
    ("flops", pa.float64()),
)

ACCURACIES: Final = _schema(
    *_RUN,
    *_POSITION,
    ("task", pa.string()),
    ("metric", pa.string()),
    ("value", pa.float64()),
    ("stderr", pa.float64()),
    ("planned_tokens", pa.float64()),
)
"""One accuracy of one checkpoint; value in [0, 1]; stderr and planned_tokens may be null."""

LOSSES: Final = _schema(
    *_RUN, *_POSITION, ("name", pa.string()), ("metric", pa.string()), ("value", pa.float64())
)
"""One mean validation loss of one checkpoint. `cross_entropy_loss` is in nats a token."""

TASKS: Final = _schema(
    ("task", pa.string()),
    ("metric", pa.string()),
    ("base_task", pa.string()),
    ("format", pa.string()),
    ("split", pa.string()),
    ("group", pa.string()),
    ("chance", pa.float64()),
    ("n_items", pa.int64()),
    ("higher_is_better", pa.bool_()),
)
"""What a (task, metric) is. `format` is rc, mc, minimal_pair or cloze; chance in [0, 1]."""

CHECKPOINTS: Final = _schema(
    *_RUN,
    ("params", pa.float64()),
    ("step", pa.int64()),
    ("tokens", pa.float64()),
    ("flops", pa.float64()),
    ("planned_tokens", pa.float64()),
    ("uri", pa.string()),
    ("revision", pa.string()),
    ("config_hash", pa.string()),
    ("tokenizer_hash", pa.string()),
    ("weights_hash", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("attempts", pa.int32()),
)
"""One checkpoint and what became of it: `status` is `done` or `quarantined`."""

TOKEN_LOSSES: Final = _schema(
    ("suite", pa.string()),
    ("run", pa.string()),
    ("step", pa.int64()),
    ("corpus_hash", pa.string()),
    ("tokenizer_hash", pa.string()),
    ("unit", pa.string()),
    ("start", pa.int64()),
    ("count", pa.int64()),
    ("losses", pa.list_(pa.float16())),
)
"""Losses in nats of `count` units (`token` or `word`) of a corpus from unit `start` on."""

FORECASTS: Final = _schema(
    *_RUN,
    ("num_fewshot", pa.int32()),
    ("task", pa.string()),
    ("metric", pa.string()),
    ("forecaster", pa.string()),
    ("protocol", pa.string()),
    ("sees", pa.string()),
    ("context_step", pa.int64()),
    ("context_tokens", pa.float64()),
    ("step", pa.int64()),
    ("tokens", pa.float64()),
    ("flops", pa.float64()),
    ("y", pa.float64()),
    ("calibration_group", pa.string()),
    *((column(level), pa.float64()) for level in FORECAST_LEVELS),
)
"""One forecast of one later checkpoint; y is null when the future is not known."""

_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")

TRAJECTORY_KEY: Final = ("suite", "run", "num_fewshot", "task", "metric")


def conform(table: pa.Table, schema: pa.Schema, *, name: str) -> pa.Table:
    """Casts a table to `schema`; columns the schema lets be null may be absent.

    A column that pandas wrote for its index is left out.

    Args:
        table: any table.
        schema: one of this module's schemas.
        name: what to call the table in messages, such as its file name.

    Raises:
        DataError: unknown or missing columns, or a value that does not fit its type.
    """
    table = table.drop_columns([c for c in table.column_names if _PANDAS_INDEX.fullmatch(c)])
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise DataError(
            f"{name}: unknown columns {unknown}; expected {schema.names}. Drop or rename them."
        )
    optional = {"stderr", "planned_tokens", "revision", "error"}
    missing = [c for c in schema.names if c not in table.column_names and c not in optional]
    if missing:
        raise DataError(f"{name}: missing columns {missing}; found {table.column_names}.")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{name}: column {field.name!r}: expected {field.type}, found {error}."
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def validate_accuracies(table: pa.Table, *, name: str) -> pa.Table:
    """Conforms an accuracy table and checks its values; returns it sorted by trajectory, tokens.

    Raises:
        DataError: with the row: null or NaN value, value outside [0, 1], tokens that do not
            grow with step within a trajectory, or a checkpoint given twice.
    """
    table = conform(table, ACCURACIES, name=name)
    for key in ("run", "task", "metric", "step", "tokens", "value"):
        if table.column(key).null_count:
            row = pc.index(pc.is_null(table.column(key)), True).as_py()
            raise DataError(f"{name}: row {row}: {key} is missing; give it or drop the row.")
    value = table.column("value").to_numpy()
    bad = ~((value >= 0.0) & (value <= 1.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{name}: row {row}: value is {value[row]:g}; expected a fraction in [0, 1] "
            "(divide percentages by 100)."
        )
    order = [(key, "ascending") for key in (*TRAJECTORY_KEY, "tokens")]
    table = table.append_column("_row", pa.array(np.arange(table.num_rows))).sort_by(order)
    starts = trajectory_starts(table)
    same = np.ones(table.num_rows, dtype=bool)
    same[starts] = False
    for key in ("tokens", "step"):
        values = table.column(key).to_numpy()
        stuck = same & (np.diff(values, prepend=values[:1]) <= 0)
        if stuck.any():
            at = int(np.argmax(stuck))
            row = table.column("_row")[at].as_py()
            where = {k: table.column(k)[at].as_py() for k in TRAJECTORY_KEY}
            raise DataError(
                f"{name}: row {row}: {key} {values[at]:g} of {where} does not exceed the "
                f"{values[at - 1]:g} before it; give each checkpoint of a trajectory once."
            )
    return table.drop_columns(["_row"])


def trajectory_starts(table: pa.Table) -> np.ndarray:
    """Row indices (int64) at which a new trajectory starts in a table sorted by trajectory."""
    if table.num_rows == 0:
        return np.zeros(0, dtype=np.int64)
    changed = np.zeros(table.num_rows, dtype=bool)
    changed[0] = True
    for key in TRAJECTORY_KEY:
        codes = pc.dictionary_encode(table.column(key).combine_chunks()).indices.to_numpy(
            zero_copy_only=False
        )
        changed[1:] |= codes[1:] != codes[:-1]
    return np.flatnonzero(changed)


def check_version(schema: pa.Schema, *, name: str) -> None:
    """Refuses a parquet file that another version of the contract wrote.

    Raises:
        DataError: the file carries a version, and it is not `SCHEMA_VERSION`.
    """
    found = (schema.metadata or {}).get(_VERSION_KEY)
    if found is not None and found.decode() != SCHEMA_VERSION:
        raise DataError(
            f"{name}: schema version {found.decode()}, this neuneu reads {SCHEMA_VERSION}; "
            "use the neuneu that wrote it or write it again."
        )
