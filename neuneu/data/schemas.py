"""The data contract: a pyarrow schema per table, and the validation of tables on entry.

Tables are tidy, one observation per row. `docs/data-contract.md` explains the columns.
"""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.cells import as_type, listed
from neuneu.data.checks import check_accuracies, check_losses, check_order, check_tasks
from neuneu.data.quantiles import FORECAST_LEVELS, column

SCHEMA_VERSION: Final = "1"
VERSION_KEY: Final = b"neuneu_schema_version"


def _fields(kind: pa.DataType, *names: str) -> list[pa.Field]:
    return [pa.field(name, kind) for name in names]


def _schema(*fields: list[pa.Field]) -> pa.Schema:
    metadata = {VERSION_KEY: SCHEMA_VERSION.encode()}
    return pa.schema([field for several in fields for field in several], metadata=metadata)


_TEXT, _NUMBER, _INT32, _INT64 = pa.string(), pa.float64(), pa.int32(), pa.int64()
_RUN: Final = _fields(_TEXT, "family", "suite", "run")
_POSITION: Final = [
    *_fields(_NUMBER, "params"),
    *_fields(_INT32, "num_fewshot"),
    *_fields(_INT64, "step"),
    *_fields(_NUMBER, "tokens", "flops"),
]

ACCURACIES: Final = _schema(
    _RUN,
    _POSITION,
    _fields(_TEXT, "task", "metric"),
    _fields(_NUMBER, "value", "stderr", "planned_tokens"),
)
"""One accuracy of one checkpoint; value in [0, 1]; stderr and planned_tokens may be null."""

LOSSES: Final = _schema(
    _RUN, _POSITION, _fields(_TEXT, "name", "metric"), _fields(_NUMBER, "value")
)
"""One mean validation loss of one checkpoint. `cross_entropy_loss` is in nats per token."""

TASKS: Final = _schema(
    _fields(_TEXT, "task", "metric", "base_task", "format", "split", "group"),
    _fields(_NUMBER, "chance"),
    _fields(_INT64, "n_items"),
    _fields(pa.bool_(), "higher_is_better"),
)
"""What a (task, metric) is. `format` is rc, mc, minimal_pair or cloze; chance in [0, 1]."""

RUNS: Final = _schema(
    _RUN, _fields(_NUMBER, "params", "planned_tokens"), _fields(_TEXT, "recipe", "schedule"),
    _fields(_NUMBER, "decay_start_tokens"),
)  # fmt: skip
"""One run, evaluated or planned; all but `run` may be null (`data.runs` says what they mean)."""

CHOICES: Final = _schema(
    _RUN,
    _POSITION,
    _fields(_TEXT, "task", "task_hash"),
    _fields(_INT32, "doc", "choice", "label"),
    _fields(pa.float32(), "logprob", "unconditional_logprob"),
    _fields(_INT32, "n_tokens", "n_chars", "n_bytes"),
)
"""One choice of one item at one checkpoint; log-probabilities are sums over its tokens, in nats.

`label` is the right choice of the item. `unconditional_logprob` and counts may be null."""

CHECKPOINTS: Final = _schema(
    _RUN,
    _fields(_NUMBER, "params"),
    _fields(_INT64, "step"),
    _fields(_NUMBER, "tokens", "flops", "planned_tokens"),
    _fields(_TEXT, "uri", "revision", "config_hash", "tokenizer_hash", "weights_hash"),
    _fields(_TEXT, "status", "error"),
    _fields(_INT32, "attempts"),
    _fields(_TEXT, "proof"),
    _fields(_INT32, "ties"),
)
"""One checkpoint and what became of it: `status` is `done` or `quarantined`.

`proof` says how it was verified that the engine held the checkpoint's weights; `ties` counts the
items whose best choice was shared by several. Both are null where the checkpoint was not scored,
and in results of versions that did not record them.
"""

TOKEN_LOSSES: Final = _schema(
    _fields(_TEXT, "suite", "run"),
    _fields(_INT64, "step"),
    _fields(_TEXT, "corpus_hash", "tokenizer_hash", "unit"),
    _fields(_INT64, "start", "count"),
    _fields(pa.list_(pa.float16()), "losses"),
)
"""Losses in nats of `count` units (`token` or `word`) of a corpus, from unit `start` on.

Rounded to nearest by `data.token_losses.stored_losses`: off by at most x / 2048 or 2^-25 nats,
whichever is more; none is negative or above 65,504 nats.
"""

FORECASTS: Final = _schema(
    _RUN,
    _fields(_INT32, "num_fewshot"),
    _fields(_TEXT, "task", "metric", "forecaster", "protocol", "sees"),
    _fields(_INT64, "context_step"),
    _fields(_NUMBER, "context_tokens"),
    _fields(_INT64, "step"),
    _fields(_NUMBER, "tokens", "flops", "y"),
    _fields(_TEXT, "calibration_group"),
    _fields(_NUMBER, *(column(level) for level in FORECAST_LEVELS)),
)
"""One forecast of one later checkpoint; y is null where the future is unknown."""

_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__|Unnamed: 0")
_OPTIONAL: Final = frozenset({"stderr", "planned_tokens", "revision", "error"})
_RUNS_OPTIONAL: Final = frozenset(RUNS.names) - {"run"}
SYNONYMS: Final = {
    "run": "run model model_name run_name name",
    "step": "step steps global_step training_step train_step checkpoint iteration",
    "tokens": "tokens tokens_seen train_tokens training_tokens total_tokens",
    "flops": "flops train_flops compute",
    "params": "params parameters n_params num_params model_size",
    "task": "task task_name benchmark dataset eval",
    "metric": "metric metric_name",
    "value": "value score accuracy acc result",
    "stderr": "stderr standard_error acc_stderr se",
    "num_fewshot": "num_fewshot shots num_shots n_shot fewshot n_shots",
    "family": "family model_family",
    "suite": "suite",
    "planned_tokens": "planned_tokens",
}
"""Our columns, and what others call them: in any case, with spaces or hyphens for underscores."""
_HINTS: Final = {name: ours for ours, names in SYNONYMS.items() for name in names.split()} | {
    "metric_value": "value",
    "size": "params",
}

TRAJECTORY_KEY: Final = ("suite", "run", "num_fewshot", "task", "metric")


def check_repeated(columns: Sequence[str], *, name: str) -> None:
    """Refuse a table in which two columns have one name.

    Raises:
        DataError: a name appears twice.
    """
    if repeated := [column for column, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{name}: column {listed(repeated)} appears twice; drop or rename one.")


def conform(table: pa.Table, schema: pa.Schema, *, name: str, partial: bool = False) -> pa.Table:
    """Cast a table to `schema`; columns that may be null may be absent.

    An index column that pandas wrote is dropped.

    Args:
        table: any table.
        schema: one of this module's schemas.
        name: what messages call the table, such as its file name.
        partial: whether any column may be absent, also in the result.

    Raises:
        DataError: unknown, repeated or missing columns, or a value that does not fit its type.
    """
    table = table.drop_columns([c for c in table.column_names if _PANDAS_INDEX.fullmatch(c)])
    found = table.column_names
    check_repeated(found, name=name)
    if unknown := [column for column in found if column not in schema.names]:
        several = len(unknown) > 1
        meant = _nearest(unknown[0], [c for c in schema.names if c not in found])
        hint = (
            f" did you mean {meant!r}{f' by {unknown[0]!r}' if several else ''}?" if meant else ""
        )
        raise DataError(
            f"{name}: unknown column{'s' * several} {listed(unknown)};{hint} Expected "
            f"{', '.join(schema.names)}. Rename or drop what is not among them."
        )
    optional = _RUNS_OPTIONAL if schema is RUNS else _OPTIONAL
    missing = [c for c in schema.names if c not in found and c not in optional]
    if missing and not partial:
        raise DataError(
            f"{name}: missing column{'s' * (len(missing) > 1)} {listed(missing)}; found "
            f"{listed(found)}. Add what is missing (docs/data-contract.md says what it means)."
        )
    kept = [field for field in schema if field.name in found or not partial]
    columns = [
        as_type(table.column(field.name), field.type, title=field.name, name=name)
        if field.name in found
        else pa.nulls(table.num_rows, field.type)
        for field in kept
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(kept, metadata=schema.metadata))


def validate_accuracies(table: pa.Table, *, name: str) -> pa.Table:
    """Conform an accuracy table, check its values, and sort it by trajectory and tokens.

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
    """Conform a table from outside to `schema`, and check its values.

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


def plain_name(column: str) -> str:
    """Return a column's name in lower case, with underscores, as `SYNONYMS` has it."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _nearest(column: str, free: Sequence[str]) -> str | None:
    plain = plain_name(column)
    near = [plain, _HINTS.get(plain), *difflib.get_close_matches(plain, free, n=1)]
    return next((name for name in near if name in free), None)


def trajectory_starts(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the rows at which a new trajectory starts in a table sorted by trajectory."""
    changed = np.ones(table.num_rows, dtype=bool)
    changed[1:] = False
    for key in TRAJECTORY_KEY:
        values = table.column(key)
        differs = pc.not_equal(values[1:], values[:-1])
        changed[1:] |= pc.fill_null(differs, True).to_numpy()
    return np.flatnonzero(changed)


def check_version(schema: pa.Schema, *, name: str) -> None:
    """Refuse a parquet file written by another version of the contract.

    Raises:
        DataError: the file carries a version, and it is not `SCHEMA_VERSION`.
    """
    found = (schema.metadata or {}).get(VERSION_KEY)
    if found is not None and found.decode() != SCHEMA_VERSION:
        raise DataError(
            f"{name}: schema version {found.decode()}, this neuneu reads {SCHEMA_VERSION}; "
            "use the neuneu that wrote it or write it again."
        )
