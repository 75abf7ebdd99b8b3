"""`neuneu check`: forecasts of the finished runs of a table, held out, by Python and command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curves import ladder, write_table
from planted import NOISE, Planted, noisy_runs
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.check import OVERALL, RULES
from neuneu.decisions.predictor import Predictor

END = 20_000.0


def table(tmp_path: Path, trajectories: list[Trajectory], **columns: object) -> str:
    return str(write_table(tmp_path / "a.parquet", trajectories, **columns))


def test_a_row_for_all_tasks_and_one_for_each(tmp_path: Path) -> None:
    known = noisy_runs(10, tasks=3)
    ahead = [t.slice(0, 4) for t in noisy_runs(1, tasks=3, prefix="new")]
    path = table(tmp_path, [*known, *ahead], planned_tokens=END)
    answer = Predictor(Planted(3.0)).check(path)
    assert [row["task"] for row in answer.rows] == [OVERALL, "t0", "t1", "t2"]
    whole, *parts = answer.rows
    assert (whole["runs"], whole["trajectories"]) == (10, 30)
    assert all((row["runs"], row["trajectories"]) == (10, 10) for row in parts)
    # |outcome - 0.5| is 0.8 standard deviations on average, that from the last value 1.13.
    assert whole["error"] == pytest.approx(0.8 * NOISE, rel=0.1)
    assert whole["error_low"] < whole["error"] < whole["error_high"]
    assert whole["rule"] in RULES
    assert whole["ratio"] == pytest.approx(whole["error"] / whole["rule_error"], abs=0.001)
    assert 0.6 < whole["ratio"] < 1.0
    for key, share in (("coverage_50", 0.5), ("coverage_80", 0.8), ("coverage_90", 0.9)):
        assert whole[key] == pytest.approx(share, abs=0.06)
        assert whole[key] == pytest.approx(np.mean([row[key] for row in parts]), abs=0.001)
    assert whole["uncorrected_coverage_80"] > 0.99
    assert whole["width_80"] < whole["uncorrected_width_80"] / 2
    assert answer.notes[-4:-1] == (
        "10 finished runs were forecast from 20 % of their tokens, one held out at a time",
        "finished runs were cut where the unfinished ones stand",
        "coverage and width are those of answers, corrected by the other runs",
    )
    assert answer.notes[-1].startswith("on your 10 finished runs: error 2.4 points")


def test_the_best_rule_is_the_one_of_least_error(tmp_path: Path) -> None:
    level = np.full(20, 0.3)
    level[3] = 0.6  # the last of the context: persistence is off by 0.3, a mean of three by 0.1
    runs = [replace(t, values=level) for t in noisy_runs(3, tasks=1)]
    (row, _) = (
        Predictor(Planted()).check(table(tmp_path, runs, planned_tokens=END), context=0.2).rows
    )
    assert row["rule"] == "recent-mean"
    assert row["rule_error"] == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("options", "contexts"), [({}, "10 %, 20 %, 40 %"), ({"context": 0.3}, "30 %")]
)
def test_without_planned_tokens_the_last_checkpoint_is_the_end(
    tmp_path: Path, options: dict[str, float], contexts: str
) -> None:
    path = table(tmp_path, noisy_runs(3))
    notes = Predictor(Planted()).check(path, **options).notes  # type: ignore[arg-type]
    assert any(f"were forecast from {contexts} of their tokens" in note for note in notes)
    assert "3 runs have no planned tokens: their last checkpoint was taken as their end" in notes
    by_end = Predictor(Planted()).check(path, until=END, **options)  # type: ignore[arg-type]
    assert not any("no planned tokens" in note for note in by_end.notes)


def test_many_runs_are_dealt_to_folds(tmp_path: Path) -> None:
    path = table(tmp_path, noisy_runs(30, tasks=1), planned_tokens=END)
    notes = Predictor(Planted()).check(path).notes
    assert any("in 10 folds with runs of all sizes" in note for note in notes)


def test_families_are_checked_apart(tmp_path: Path) -> None:
    strangers = [replace(t, family="g") for t in noisy_runs(2, tasks=1, prefix="g")]
    path = table(tmp_path, [*noisy_runs(3, tasks=1), *strangers], planned_tokens=END)
    answer = Predictor(Planted(trained_on=["r0"])).check(path)
    assert [(row["task"], row["runs"]) for row in answer.rows] == [
        (f"f: {OVERALL}", 2), ("f: t0", 2), (f"g: {OVERALL}", 2), ("g: t0", 2),
    ]  # fmt: skip
    assert any(note.startswith("1 finished runs do not count") for note in answer.notes)
    assert sum(note.startswith("on your 2 finished runs of family") for note in answer.notes) == 2


def test_one_finished_run_is_one_clear_line(tmp_path: Path) -> None:
    ahead = [t.slice(0, 4) for t in noisy_runs(2, prefix="new")]
    path = table(tmp_path, [*noisy_runs(1), *ahead], planned_tokens=END)
    with pytest.raises(UserError, match=r"expected at least two finished runs .* found f/r0"):
        Predictor(Planted()).check(path)
    with pytest.raises(UserError, match="task nonsense: not in the table"):
        Predictor(Planted()).check(path, task="nonsense")
    with pytest.raises(UserError, match="context: expected a fraction"):
        Predictor(Planted()).check(path, context=1.5)


def test_the_command_prints_a_table_writes_a_folder_and_prints_json(tmp_path: Path) -> None:
    curves = [t if t.run < "r4" else t.slice(0, 8) for t in ladder(6)]
    path = table(tmp_path, curves, planned_tokens=END)
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["check", path, "-o", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "Forecasts of finished runs" in shown.output
    assert "on your" in shown.output
    result = CliRunner().invoke(app, ["check", path, "--json", "--task", "t0,t1"])
    record = json.loads(result.stdout)
    assert [row["task"] for row in record["rows"]] == [OVERALL, "t0", "t1"]
    assert record["self_calibration"][0]["runs"] == record["rows"][0]["runs"]
    written = json.loads((out / "check.json").read_text())
    assert [row["task"] for row in written["rows"]] == [OVERALL, "t0", "t1", "t2", "t3"]
    few = write_table(tmp_path / "few.parquet", [t for t in curves if t.run >= "r3"])
    refused = CliRunner().invoke(app, ["check", str(few), "--until", "20e3"])
    assert refused.exit_code == 2
    assert "expected at least two finished runs" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
