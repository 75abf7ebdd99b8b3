"""Values of a table's rows: the first that cannot be is named, with what to do.

All functions read tables that have their schema's types already.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuneu.core.errors import DataError
from neuneu.data.cells import quoted, row_name

_REQUIRED: Final = (
    "family", "suite", "run", "num_fewshot", "step", "tokens", "task", "metric", "value",
)  # fmt: skip
_ONE_A_RUN: Final = ("family", "params")
LARGEST: Final = 1e30
"""No run has so many tokens, FLOPs or steps: the largest so far took 1e26 FLOPs."""

_TOLERANCE: Final = 1e-3
"""Parameters of a run that differ by less, relatively, were rounded."""

Mask = npt.NDArray[np.bool_]


def check_accuracies(table: pa.Table, *, name: str) -> None:
    """Checks each row of `schemas.ACCURACIES`, and that a run has one size and one family.

    Raises:
        DataError: with the row and the column.
    """
    for column in _REQUIRED:
        check_present(table, column, name=name)
    for column in ("step", "tokens", "flops", "params", "planned_tokens", "stderr", "num_fewshot"):
        check_position(table, column, name=name)
    _check_fractions(table, name)
    trained = _values(table, "step") > 0
    for column in ("tokens", "flops"):
        _refuse(
            trained & (_values(table, column) <= 0), table, column, name,
            f"expected a positive number at a step beyond 0. Give the {column} of the run so far.",
        )  # fmt: skip
    for column in _ONE_A_RUN:
        _check_one_a_run(table, column, name)


def check_present(table: pa.Table, column: str, *, name: str) -> None:
    """Checks that a column is neither null, NaN nor empty anywhere.

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


def check_position(table: pa.Table, column: str, *, name: str) -> None:
    """Checks that what is given of a column that counts something is at least 0 and possible.

    Raises:
        DataError: with the row.
    """
    values = _values(table, column)
    positive = column in {"params", "planned_tokens"}
    wrong = (values < 0) | (values > LARGEST) | ((values == 0) & positive)
    least = "a positive number" if positive else "a number of at least 0"
    least += f" and at most {LARGEST:g}" if (values > LARGEST).any() else ""
    optional = column in {"flops", "params", "planned_tokens", "stderr"}
    remedy = "Leave it empty where it is unknown." if optional else "Correct it or drop the row."
    _refuse(wrong, table, column, name, f"expected {least}. {remedy}")


def check_losses(table: pa.Table, *, name: str) -> None:
    """Checks each row of `schemas.LOSSES`; a value may be missing.

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
    """Checks each row of `schemas.TASKS`.

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
    """Checks that steps and tokens grow together within each trajectory.

    Args:
        table: `schemas.ACCURACIES` sorted by trajectory and tokens, with `_row`, the row that
            each had before it was sorted.
        starts: rows at which a trajectory begins.
        name: what to call the table in messages.

    Raises:
        DataError: with both rows.
    """
    same = np.ones(table.num_rows, dtype=bool)
    same[starts] = False
    steps, tokens = _values(table, "step"), _values(table, "tokens")
    stuck = np.zeros(table.num_rows, dtype=bool)
    stuck[1:] = same[1:] & ((np.diff(tokens) <= 0) | (np.diff(steps) <= 0))
    if not stuck.any():
        return
    at = int(np.argmax(stuck))
    first, second = sorted(table.column("_row").to_numpy()[at - 1 : at + 1].tolist())
    who = {key: table.column(key)[at].as_py() for key in ("run", "task", "metric", "num_fewshot")}
    where = (
        f"run {quoted(who['run'])}, task {quoted(who['task'])}, {who['metric']}, "
        f"{who['num_fewshot']}-shot"
    )
    step, before = int(steps[at]), int(steps[at - 1])
    if step == before:
        raise DataError(
            f"{name}: {row_name(name, second)}: step {step} of {where} stands in "
            f"{row_name(name, first)} already; expected each checkpoint of a trajectory once. Drop "
            "one, or tell them apart by run, suite, metric or num_fewshot."
        )
    raise DataError(
        f"{name}: {row_name(name, second)}: tokens do not grow with step: step {before} of {where} "
        f"has {tokens[at - 1]:g} tokens and step {step} has {tokens[at]:g} "
        f"({row_name(name, first)}). Correct step or tokens."
    )


def _check_fractions(table: pa.Table, name: str) -> None:
    value = _values(table, "value")
    wrong = ~((value >= 0.0) & (value <= 1.0))
    if not wrong.any():
        return
    found = value[np.argmax(wrong)]
    remedy = "Correct it or drop the row."
    if 1.0 < found <= 100.0 and np.nanmedian(value) > 1.0:
        remedy = "Divide percentages by 100, or read the table with `neuneu import --percent`."
    elif 1.0 < found < np.inf:
        remedy = "Divide percentages by 100; leave out what is no accuracy."
    _refuse(wrong, table, "value", name, f"expected a fraction in [0, 1]. {remedy}")


def _check_one_a_run(table: pa.Table, column: str, name: str) -> None:
    if table.num_rows == 0:
        return
    runs = _codes(table, ("suite", "run"))
    _, first, inverse = np.unique(runs, return_index=True, return_inverse=True)
    of_run = first[inverse.reshape(-1)]
    if pa.types.is_string(table.schema.field(column).type):
        codes = _codes(table, (column,))
        other = codes != codes[of_run]
    else:
        values = _values(table, column)
        apart = np.abs(values - values[of_run]) > _TOLERANCE * np.abs(values)
        other = apart | (np.isnan(values) != np.isnan(values[of_run]))
    if not other.any():
        return
    row = int(np.argmax(other))
    here, there = (_shown(table.column(column)[r].as_py()) for r in (row, int(of_run[row])))
    raise DataError(
        f"{name}: {row_name(name, row)}: {column} is {here}, but {there} in "
        f"{row_name(name, int(of_run[row]))} of the same run "
        f"{quoted(table.column('run')[row].as_py())}; expected one {column} a run. Give different "
        "runs different names."
    )


def _codes(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """Integers that are equal where all `columns` are."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for column in columns:
        encoded = pc.dictionary_encode(table.column(column).combine_chunks())
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
    return codes


def _refuse(wrong: Mask, table: pa.Table, column: str, name: str, expected: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        found = _shown(table.column(column)[row].as_py())
        raise DataError(f"{name}: {row_name(name, row)}: {column} is {found}; {expected}")


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    return f"{value:.12g}" if isinstance(value, float) else quoted(value)


def _values(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """A column as numbers; NaN where it is null."""
    return np.asarray(table.column(column).cast(pa.float64()).to_numpy(), dtype=np.float64)
