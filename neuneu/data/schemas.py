"""The data contract: one pyarrow schema a table, and the validation of a table on entry.

Tidy tables, one observation a row. `docs/data-contract.md` explains the columns.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.cells import as_type, listed
from neuneu.data.quantiles import FORECAST_LEVELS, column
from neuneu.data.row_checks import check_accuracies, check_losses, check_order, check_tasks

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
    ("proof", pa.string()),
    ("ties", pa.int32()),
)
"""One checkpoint and what became of it: `status` is `done` or `quarantined`.

`proof` says what shows that the engine held the checkpoint's weights; `ties` counts the items
whose best choice was shared by several. Both are null where it was not scored, and in results
of versions before they were counted.
"""

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

_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__|Unnamed: 0")
_OPTIONAL: Final = frozenset({"stderr", "planned_tokens", "revision", "error"})
_OTHER_NAMES: Final = {
    "accuracy": "value", "acc": "value", "score": "value", "metric_value": "value",
    "model": "run", "model_name": "run", "name": "run", "benchmark": "task", "dataset": "task",
    "parameters": "params", "n_params": "params", "size": "params", "iteration": "step",
    "global_step": "step", "checkpoint": "step", "tokens_seen": "tokens", "shots": "num_fewshot",
    "compute": "flops",
}  # fmt: skip
"""What others call our columns."""

TRAJECTORY_KEY: Final = ("suite", "run", "num_fewshot", "task", "metric")


def known_columns(table: pa.Table, schema: pa.Schema, *, name: str) -> pa.Table:
    """The table without an index that pandas wrote, once all its columns are of `schema`.

    Raises:
        DataError: a column that the schema does not have, with the nearest that it has, or one
            that stands there twice.
    """
    table = table.drop_columns([c for c in table.column_names if _PANDAS_INDEX.fullmatch(c)])
    found = table.column_names
    twice = [column for column, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{name}: column {listed(twice)} stands there twice; drop or rename one.")
    unknown = [column for column in found if column not in schema.names]
    if unknown:
        several = "columns" if len(unknown) > 1 else "column"
        meant = _nearest(unknown[0], [c for c in schema.names if c not in found])
        hint = f"; did you mean {meant!r}" + (f" by {unknown[0]!r}?" if len(unknown) > 1 else "?")
        raise DataError(
            f"{name}: unknown {several} {listed(unknown)}{hint if meant else ';'} "
            f"Expected {', '.join(schema.names)}. Rename or drop what is not among them."
        )
    return table


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
    table = known_columns(table, schema, name=name)
    missing = [c for c in schema.names if c not in table.column_names and c not in _OPTIONAL]
    if missing:
        several = "columns" if len(missing) > 1 else "column"
        raise DataError(
            f"{name}: missing {several} {listed(missing)}; found {listed(table.column_names)}. "
            "Add what is missing (docs/data-contract.md says what it means)."
        )
    columns = [
        _column(table, field, name)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def validate_accuracies(table: pa.Table, *, name: str) -> pa.Table:
    """Conforms an accuracy table and checks its values; returns it sorted by trajectory, tokens.

    Raises:
        DataError: with the row: something missing or not finite, a value outside [0, 1], tokens
            that do not grow with step within a trajectory, a checkpoint given twice, a run of
            several sizes or families.
    """
    table = conform(table, ACCURACIES, name=name)
    check_accuracies(table, name=name)
    order = [(key, "ascending") for key in (*TRAJECTORY_KEY, "tokens")]
    rows = pa.array(np.arange(table.num_rows))
    table = table.append_column("_row", rows).sort_by(order)
    check_order(table, trajectory_starts(table), name=name)
    return table.drop_columns(["_row"])


def validate(table: pa.Table, schema: pa.Schema, *, name: str) -> pa.Table:
    """Conforms a table of `schema` that came from outside, and checks its values.

    Raises:
        DataError: a table that breaks the contract, with the row.
    """
    if schema is ACCURACIES:
        return validate_accuracies(table, name=name)
    table = conform(table, schema, name=name)
    if schema is LOSSES:
        check_losses(table, name=name)
    if schema is TASKS:
        check_tasks(table, name=name)
    return table


def _column(table: pa.Table, field: pa.Field, name: str) -> pa.Array:
    found = table.column(field.name)
    if not pa.types.is_list(field.type):
        return as_type(found, field.type, title=field.name, name=name)
    try:
        return found.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{name}: column {field.name!r}: expected {field.type}, found {error}."
        ) from error


def _nearest(column: str, free: Iterable[str]) -> str | None:
    plain = column.strip().lower().replace(" ", "_").replace("-", "_")
    if plain in free:
        return plain
    other = _OTHER_NAMES.get(plain)
    if other in set(free):
        return other
    near = difflib.get_close_matches(plain, list(free), n=1, cutoff=0.6)
    return near[0] if near else None


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
