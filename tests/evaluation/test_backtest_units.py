"""Backtests of metrics that are not accuracies: in their units, and of one unit at a time."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuneu.core.errors import UserError
from neuneu.evaluation.backtest import backtest
from neuneu.evaluation.config import BacktestConfig
from neuneu.reports.backtest.page import headline


@pytest.fixture
def table(tmp_path: Path) -> str:
    tokens = np.geomspace(1e9, 1e11, 12)
    rows = [
        {"run": f"r{run}", "task": "t", "metric": metric, "tokens": x, "params": 1e9,
         "value": value}
        for run in range(4)
        for x in tokens
        for metric, value in (("bpb", 1.5 + 0.1 * run + (x / 1e9) ** -0.5), ("acc", 0.3))
    ]  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def test_errors_are_in_bits_and_the_page_says_so(table: str, tmp_path: Path) -> None:
    config = BacktestConfig(
        accuracies=table, metric="bpb", output=str(tmp_path / "out"), figures=False,
        forecasters=("persistence", "power-law", "parametric-ensemble"), bootstrap_samples=100,
        folds=2, context=0.5,
    )  # fmt: skip
    found = backtest(config)
    assert found["mae"]["power-law"] < 1e-3
    assert found["mae"]["persistence"] > 0.05
    assert found["mae"]["parametric-ensemble"] < found["mae"]["persistence"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["unit"] == "bits per byte"
    assert summary["counts"]["trajectories"] == 4
    assert "bits per byte" in headline(summary)[1]
    y = pq.read_table(tmp_path / "out" / "forecasts.parquet").column("y").to_numpy()
    assert y.min() > 1.5


def test_metrics_of_several_units_are_not_pooled(table: str, tmp_path: Path) -> None:
    config = BacktestConfig(accuracies=table, output=str(tmp_path / "out"), figures=False)
    with pytest.raises(UserError, match=r"metrics acc, bpb: expected metrics of one unit"):
        backtest(config)
    assert not (tmp_path / "out").exists()
