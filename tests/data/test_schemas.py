"""Validation of tables on entry: each break of the contract is named with its row."""

from pathlib import Path

import pyarrow as pa
import pytest
from rows import accuracy

from neuneu.core.errors import DataError
from neuneu.data.schemas import (
    ACCURACIES,
    CHECKPOINTS,
    FORECASTS,
    LOSSES,
    TASKS,
    TOKEN_LOSSES,
    check_version,
    conform,
    validate_accuracies,
)


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


def test_validate_accuracies_sorts_by_trajectory_and_tokens() -> None:
    rows = [accuracy(step=20), accuracy(step=10), accuracy(step=20, task="a")]
    checked = validate_accuracies(table(*rows), name="x")
    assert checked.column("task").to_pylist() == ["a", "t", "t"]
    assert checked.column("step").to_pylist() == [20, 10, 20]
    assert checked.schema == ACCURACIES


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([accuracy(value=45.0)], r"row 0: value is 45; expected a fraction"),
        ([accuracy(), accuracy(step=20, value=float("nan"))], r"row 1: value is missing or NaN"),
        ([accuracy(), accuracy()], r"row 1: step 10 of run 'r', .* is in row 0 already"),
        (
            [accuracy(), accuracy(step=20, tokens=5.0)],
            r"row 1: .* step 20 of .* has 5 tokens and step 10 has 10000 \(row 0\)",
        ),
        ([accuracy(), accuracy(step=20, params=2e6)], r"row 1: params is 2000000, but 1000000 in"),
        ([accuracy(), accuracy(task="u", family="g")], r"row 1: family is 'g', but 'f' in row 0"),
        ([accuracy(step=20, tokens=0.0)], r"row 0: tokens is 0; expected a positive number"),
        ([accuracy(tokens=-1.0)], r"row 0: tokens is -1; expected a number of at least 0"),
        ([accuracy(tokens=float("inf"))], r"row 0: tokens is inf"),
        ([accuracy(stderr=float("inf"))], r"row 0: stderr is inf"),
        ([accuracy(task=None), accuracy()], r"row 0: task is missing"),
    ],
)
def test_validate_accuracies_bad_value_names_row(rows: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate_accuracies(table(*rows), name="x")


def test_conform_index_that_pandas_wrote_is_left_out() -> None:
    indexed = table(accuracy() | {"__index_level_0__": 7})
    assert conform(indexed, ACCURACIES, name="x").column_names == ACCURACIES.names


def test_conform_unknown_column_is_named() -> None:
    with pytest.raises(DataError, match=r"unknown column 'accuracy'.* Rename or drop"):
        conform(table(accuracy(accuracy=0.3)), ACCURACIES, name="x")


def test_conform_missing_column_is_named() -> None:
    row = accuracy()
    del row["task"]
    with pytest.raises(DataError, match=r"missing column 'task'; found 'family'"):
        conform(table(row), ACCURACIES, name="x")


def test_conform_text_in_number_names_column() -> None:
    with pytest.raises(DataError, match=r"row 0: value is 'high'; expected a number\."):
        conform(table(accuracy(value="high")), ACCURACIES, name="x")


def test_check_version_other_version_is_refused() -> None:
    check_version(ACCURACIES, name="x")
    newer = ACCURACIES.with_metadata({b"neuneu_schema_version": b"99"})
    with pytest.raises(DataError, match="schema version 99"):
        check_version(newer, name="x")


def test_data_contract_page_names_every_column() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-contract.md").read_text()
    for schema in (ACCURACIES, LOSSES, TASKS, CHECKPOINTS, TOKEN_LOSSES, FORECASTS):
        assert [name for name in schema.names if f"`{name}`" not in page] == []
