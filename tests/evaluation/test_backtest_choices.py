"""A backtest with scored choices: each forecaster with and without the evidence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from rows import accuracy
from scored import pair_choices, scored_trajectory
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.data.choice_files import write_choices
from neuneu.data.choices import Choices
from neuneu.evaluation.backtest import backtest
from neuneu.evaluation.config import BacktestConfig

ITEMS = 60
EVIDENCE = "neuneu + evidence"
TOKENS = 1e9 * np.arange(1, 13)


def scored(run: int) -> Choices:
    """A run whose items are learnt one after the other, larger runs sooner."""
    skill = np.log(TOKENS / 1e9)[:, None] + 0.4 * run
    difficulty = np.random.default_rng(0).normal(2.0, 1.5, ITEMS)
    noise = np.random.default_rng(run).normal(0, 0.3, (len(TOKENS), ITEMS))
    return pair_choices(
        skill - difficulty + noise, tokens=TOKENS, task="t", run=f"r{run}", params=1e8 * 2**run
    )


def write(folder: Path, name: str, runs: range) -> tuple[Path, Path]:
    """Write the accuracies and the choices of some runs."""
    choices = [scored(run) for run in runs]
    rows = [
        accuracy(
            family=t.family, suite=t.suite, run=t.run, params=t.params, task=t.task, step=int(step),
            tokens=float(tokens), value=float(value), flops=float(flops), stderr=None,
        )
        for t in map(scored_trajectory, choices)
        for step, tokens, flops, value in zip(t.steps, t.tokens, t.flops, t.values, strict=True)
    ]  # fmt: skip
    pacsv.write_csv(pa.Table.from_pylist(rows), folder / f"{name}.csv")
    write_choices(choices, folder / f"{name}-choices.parquet")
    return folder / f"{name}.csv", folder / f"{name}-choices.parquet"


def run_cli(*arguments: Any, output: Path) -> dict[str, Any]:
    sets = ("figures=false", "bootstrap_samples=100", "folds=2")
    options = [word for setting in sets for word in ("--set", setting)]
    done = CliRunner().invoke(
        app, ["backtest", *map(str, arguments), "-o", str(output), "--json", *options]
    )
    assert done.exit_code == 0, done.stderr
    return json.loads((output / "summary.json").read_text())["forecasters"]


def quantiles(output: Path, forecaster: str) -> np.ndarray:
    rows = pq.read_table(output / "forecasts.parquet").to_pylist()
    return np.array([row["q0.5"] for row in rows if row["forecaster"] == forecaster])


def test_backtest_scores_forecasters_with_and_without_evidence(tmp_path: Path) -> None:
    table, choices = write(tmp_path, "all", range(5))
    names = ("--forecasters", "neuneu,persistence")
    with_, without = tmp_path / "with", tmp_path / "without"
    found = run_cli(table, "--choices", choices, *names, output=with_)
    assert list(found) == ["persistence", "neuneu", EVIDENCE]
    assert found[EVIDENCE]["kind"] == "trained"
    assert found[EVIDENCE]["references_given"] == found["neuneu"]["references_given"]
    errors = {name: entry["overall"]["mae"]["value"] for name, entry in found.items()}
    assert errors[EVIDENCE] < errors["neuneu"]  # the same items in other runs say more
    run_cli(table, *names, output=without)
    np.testing.assert_array_equal(quantiles(with_, "neuneu"), quantiles(without, "neuneu"))
    assert len(quantiles(without, EVIDENCE)) == 0


def test_backtest_reads_choices_of_reference_runs(tmp_path: Path) -> None:
    table, choices = write(tmp_path, "targets", range(3, 5))
    reference, theirs = write(tmp_path, "finished", range(3))
    given = (table, "--choices", choices, "--reference", reference, "--forecasters", "neuneu")
    run_cli(*given, output=tmp_path / "alone")
    run_cli(*given, "--reference-choices", theirs, output=tmp_path / "beside")
    alone, beside = (quantiles(tmp_path / name, EVIDENCE) for name in ("alone", "beside"))
    assert len(alone) == len(beside) > 0
    assert (alone != beside).any()


def test_backtest_choices_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    table, choices = write(tmp_path, "all", range(5))
    config = {"accuracies": table, "figures": False, "forecasters": ("persistence",)}
    with pytest.raises(UserError, match=r"expected a forecaster to combine .* found persistence;"):
        backtest(BacktestConfig(**config, choices=choices))
    with pytest.raises(UserError, match="reference_choices: expected choices beside them"):
        backtest(BacktestConfig(**config, reference_choices=choices))
