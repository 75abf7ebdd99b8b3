"""Checks of the rows of a table: the first impossible value is named, with what to do.

All functions take tables that have their schema's types already.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray
from neuneu.data.cells import as_floats, quoted, row_name
from neuneu.data.scales import scale_of

LARGEST: Final = 1e30
"""No run has so many tokens, FLOPs or steps: the largest so far took 1e26 FLOPs."""

_REQUIRED: Final = (
    "family", "suite", "run", "num_fewshot", "step", "tokens", "task", "metric", "value",
)  # fmt: skip
_COUNTS: Final = ("step", "tokens", "flops", "params", "planned_tokens", "stderr", "num_fewshot")
_POSITIVE: Final = ("params", "planned_tokens")
_OPTIONAL: Final = ("flops", "params", "planned_tokens", "stderr")
# Parameters of a run that differ by less, relatively, were rounded.
_TOLERANCE: Final = 1e-3

Mask = npt.NDArray[np.bool_]


def check_accuracies(table: pa.Table, *, name: str) -> None:
    """Check each row of `schemas.ACCURACIES`, and that a run has one size and one family.

    Raises:
        DataError: with the row and the column.
    """
    for column in _REQUIRED:
        check_present(table, column, name=name)
    for column in _COUNTS:
        check_count(table, column, name=name)
    check_bounds(table, name=name)
    trained = _values(table, "step") > 0
    for column in ("tokens", "flops"):
        _refuse(
            trained & (_values(table, column) <= 0), table, column, name,
            f"expected a positive number at a step beyond 0. Give the {column} of the run so far.",
        )  # fmt: skip
    for column in ("family", "params"):
        _check_one_per_run(table, column, name)


def check_present(table: pa.Table, column: str, *, name: str) -> None:
    """Check that no cell of a column is null, NaN or empty.

    Raises:
        DataError: with the row.
    """
    found = table.column(column)
    missing = pc.is_null(found, nan_is_null=True)
    if pa.types.is_string(found.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(found, ""), False))
    row = pc.index(missing, True).as_py()
    if row >= 0:
        raise DataError(
            f"{name}: {row_name(name, row)}: {column} is missing or NaN; expected one in every "
            "row. Give it or drop the row."
        )


def check_count(table: pa.Table, column: str, *, name: str) -> None:
    """Check that the counts in a column are at least 0 and at most `LARGEST`, where given.

    Raises:
        DataError: with the row.
    """
    values = _values(table, column)
    too_large = values > LARGEST
    least = "a positive number" if column in _POSITIVE else "a number of at least 0"
    most = f" and at most {LARGEST:g}" if too_large.any() else ""
    remedy = (
        "Leave it empty where it is unknown."
        if column in _OPTIONAL
        else "Correct it or drop the row."
    )
    too_small = values <= 0 if column in _POSITIVE else values < 0
    _refuse(too_small | too_large, table, column, name, f"expected {least}{most}. {remedy}")


def check_losses(table: pa.Table, *, name: str) -> None:
    """Check each row of `schemas.LOSSES`; a value may be missing.

    Raises:
        DataError: with the row.
    """
    for column in ("suite", "run", "step", "name", "metric"):
        check_present(table, column, name=name)
    value = _values(table, "value")
    nats = pc.equal(table.column("metric"), "cross_entropy_loss").to_numpy()
    wrong = np.isinf(value) | (nats & (value < 0))
    _refuse(wrong, table, "value", name, "expected a loss in nats. Correct it or drop the row.")


def check_tasks(table: pa.Table, *, name: str) -> None:
    """Check each row of `schemas.TASKS`.

    Raises:
        DataError: with the row.
    """
    check_present(table, "task", name=name)
    chance, items = _values(table, "chance"), _values(table, "n_items")
    _refuse(
        (chance < 0) | (chance >= 1), table, "chance", name,
        "expected a fraction in [0, 1), such as 0.25 for four choices.",
    )  # fmt: skip
    _refuse(items <= 0, table, "n_items", name, "expected a positive number, or nothing.")


def check_order(table: pa.Table, starts: npt.NDArray[np.int64], *, name: str) -> None:
    """Check that steps and tokens grow together within each trajectory.

    Args:
        table: `schemas.ACCURACIES` sorted by trajectory and tokens, with `_row`, the row that
            each had before it was sorted.
        starts: rows at which a trajectory begins.
        name: what messages call the table.

    Raises:
        DataError: with both rows.
    """
    steps, tokens = _values(table, "step"), _values(table, "tokens")
    stuck = np.diff(tokens, prepend=-np.inf) <= 0
    stuck |= np.diff(steps, prepend=-np.inf) <= 0
    stuck[starts] = False
    if not stuck.any():
        return
    at = int(np.argmax(stuck))
    here = {key: values[0] for key, values in table.slice(at, 1).to_pydict().items()}
    first, second = sorted(table.column("_row")[at - 1 : at + 1].to_pylist())
    where = (
        f"run {quoted(here['run'])}, task {quoted(here['task'])}, {here['metric']}, "
        f"{here['num_fewshot']}-shot"
    )
    before = int(steps[at - 1])
    if here["step"] == before:
        raise DataError(
            f"{name}: {row_name(name, second)}: step {before} of {where} is in "
            f"{row_name(name, first)} already; expected each checkpoint of a trajectory once. Drop "
            "one, or tell them apart by run, suite, metric or num_fewshot."
        )
    raise DataError(
        f"{name}: {row_name(name, second)}: tokens do not grow with step: step {before} of {where} "
        f"has {tokens[at - 1]:g} tokens and step {here['step']} has {tokens[at]:g} "
        f"({row_name(name, first)}). Correct step or tokens."
    )


def check_bounds(table: pa.Table, *, name: str) -> None:
    """Check that each value is within the bounds of its metric (`data.scales`).

    Args:
        table: with columns `value` and, if its metrics are not all accuracies, `metric`.
        name: what messages call the table.

    Raises:
        DataError: with the row.
    """
    value = _values(table, "value")
    fractions = np.ones(len(value), dtype=bool)
    metrics = table.column("metric") if "metric" in table.column_names else pa.nulls(0)
    for metric in (m for m in pc.unique(metrics).to_pylist() if m is not None):
        scale = scale_of(metric)
        if scale.low == 0.0 and scale.high == 1.0:
            continue
        own = pc.fill_null(pc.equal(metrics, metric), False).to_numpy(zero_copy_only=False)
        fractions &= ~own
        _refuse(
            own & ~((value >= scale.low) & (value <= scale.high) & np.isfinite(value)),
            table, "value", name,
            f"expected {metric} in [{scale.low:g}, {scale.high:g}]. Correct it or drop the row.",
        )  # fmt: skip
    _check_fractions(table, fractions, value, name)


def _check_fractions(table: pa.Table, chosen: Mask, value: FloatArray, name: str) -> None:
    wrong = chosen & ~((value >= 0.0) & (value <= 1.0))
    if not wrong.any():
        return
    value = np.where(chosen, value, np.nan)
    found = value[np.argmax(wrong)]
    remedy = "Correct it or drop the row."
    if 1.0 < found <= 100.0 and np.nanmedian(value) > 1.0:
        remedy = "Divide percentages by 100, or read the table with `neuneu import --percent`."
    elif 1.0 < found < np.inf:
        remedy = (
            "Divide percentages by 100; name the metric of what is not an accuracy (bpb, nll_gold, "
            "perplexity, ...)."
        )
    _refuse(wrong, table, "value", name, f"expected a fraction in [0, 1]. {remedy}")


def _check_one_per_run(table: pa.Table, column: str, name: str) -> None:
    found = table.column(column).combine_chunks()
    runs = pc.binary_join_element_wise(table.column("suite"), table.column("run"), "\0")
    codes = runs.combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    of_run = first[codes]
    if pa.types.is_string(found.type):
        other = pc.not_equal(found, found.take(of_run)).to_numpy(zero_copy_only=False)
    else:
        values = _values(table, column)
        apart = np.abs(values - values[of_run]) > _TOLERANCE * np.abs(values)
        other = apart | (np.isnan(values) != np.isnan(values[of_run]))
    if other.any():
        row = int(np.argmax(other))
        there = int(of_run[row])
        raise DataError(
            f"{name}: {row_name(name, row)}: {column} is {_shown(found[row])}, but "
            f"{_shown(found[there])} in {row_name(name, there)} of the same run "
            f"{quoted(table.column('run')[row].as_py())}; expected one {column} per run. Give "
            "different runs different names."
        )


def _refuse(wrong: Mask, table: pa.Table, column: str, name: str, expected: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        found = _shown(table.column(column)[row])
        raise DataError(f"{name}: {row_name(name, row)}: {column} is {found}; {expected}")


def _shown(cell: pa.Scalar) -> str:
    value = cell.as_py()
    if value is None:
        return "missing"
    return f"{value:.12g}" if isinstance(value, float) else quoted(value)


def _values(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """Return a column as numbers, NaN where it is null."""
    return np.asarray(as_floats(table.column(column)).to_numpy(), dtype=np.float64)
