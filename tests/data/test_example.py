"""The example that comes with the package: small, of our own measuring, and forecast as shown."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.data.example_data import POINTS
from neuneu.data.load import load_dataset

FINISHED = {"xs-all-s0", "xs-mixed-s0", "s-all-s0", "s-mixed-s0"}


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert POINTS.stat().st_size < 100_000
    assert "points.csv" in (POINTS.parent / "README.md").read_text()


def test_every_value_was_measured() -> None:
    """As it stands in the whole table of the reference ladder."""
    columns = ["run", "task", "metric", "step", "tokens", "params", "value"]
    table = pq.read_table(POINTS.parent / "accuracies.parquet", columns=columns)
    measured = {
        (row["run"], row["task"], row["step"]): row
        for row in table.to_pylist()
        if row["metric"] == "acc"
    }
    for t in load_dataset(POINTS).trajectories:
        for step, tokens, value in zip(t.steps, t.tokens, t.values, strict=True):
            row = measured[t.run, t.task, step]
            assert row["value"] == pytest.approx(value, abs=1e-6)
            assert (row["tokens"], row["params"]) == (tokens, t.params)


def test_it_is_shown_and_the_unfinished_run_is_forecast() -> None:
    result = CliRunner().invoke(app, ["forecast", "--example", "--json"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert {row["run"] for row in rows} == {"m-all-s0"}
    assert len(rows) == 4
    for run in FINISHED | {"m-all-s0"}:
        assert run in result.stderr
    (place,) = [line for line in result.stderr.splitlines() if line.startswith("from ")]
    assert Path(place.removeprefix("from ")) == POINTS


@pytest.mark.parametrize("arguments", [[], ["--example", "points.csv"]])
def test_a_table_or_the_example(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["forecast", *arguments])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "expected a table or --example" in line
