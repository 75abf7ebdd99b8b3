"""Finished runs of the table set the width of the answers, and the answers say so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from curves import ladder, write_table
from planted import LEVELS, NOISE, Planted, noisy_runs
from typer.testing import CliRunner

import neuneu
from neuneu.cli.app import app
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import Answer
from neuneu.decisions.predictor import Predictor
from neuneu.decisions.self_calibration import self_calibrate, unfinished
from neuneu.forecasters.calibration import Calibration, GroupAdjustment
from neuneu.forecasters.queries import Horizon

END = 20_000.0
BEFORE = 2 * 1.2816 * NOISE
"""Width of the planted 80 % interval at factor 1, which is right."""

KNOWN = noisy_runs(12, tasks=4)
AHEAD = [t.slice(0, 4) for t in noisy_runs(3, tasks=4, seed=7, prefix="new")]
OPTIONS: dict[str, dict[str, Any]] = {
    "forecast": {"points": 3}, "rank": {}, "stop": {"target": 0.5}, "when": {},
    "next_eval": {"checkpoints": [{"run": "new1", "step": 9}]},
}  # fmt: skip


def rows(trajectories: list[Trajectory], **columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "family": t.family, "suite": t.suite, "run": t.run, "params": t.params, "task": t.task,
            "step": int(step), "tokens": tokens, "value": value, "planned_tokens": END,
        } | columns
        for t in trajectories
        for step, tokens, value in zip(t.steps, t.tokens, t.values, strict=True)
    ]  # fmt: skip


def ask(question: str, table: list[dict[str, Any]], factor: float = 3.0, **more: Any) -> Answer:
    method = getattr(Predictor(Planted(factor)), question)
    score = [0.52] if question == "when" else []
    answer: Answer = method(table, *score, **OPTIONS[question], **more)
    return answer


def width(answer: Answer) -> float:
    row = next(row for row in answer.rows if row["run"] == "new1")
    return float(row["q0.9"] - row["q0.1"])


@pytest.mark.parametrize("question", ["forecast", "rank", "stop", "when"])
@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_intervals_become_as_wide_as_finished_runs_ask_for(question: str, factor: float) -> None:
    task = {} if question == "forecast" else {"task": "t0"}
    table = rows([*KNOWN, *AHEAD])
    answer = ask(question, table, factor, **task)
    assert width(answer) == pytest.approx(BEFORE, rel=0.25)
    off = ask(question, table, factor, self_calibrate=False, **task)
    assert width(off) == pytest.approx(factor * BEFORE, rel=0.1)


@pytest.mark.parametrize("question", list(OPTIONS))
def test_every_answer_says_how_good_forecasts_of_finished_runs_are(question: str) -> None:
    answer = ask(question, rows([*KNOWN, *AHEAD]))
    (note,) = (note for note in answer.notes if note.startswith("on your"))
    (record,) = answer.to_json()["self_calibration"]
    error, covered = record["error"], record["coverage_80"]
    assert note == (
        f"on your 12 finished runs: error {100 * error['value']:.1f} points, 80 % interval covered "
        f"{100 * covered['value']:.0f} %, made "
        f"{100 * (1 - record['width_80']['value'] / (3 * BEFORE)):.0f} % narrower"
    )
    assert record["runs"] == record["folds"] == 12
    assert record["contexts"] == [0.2]
    assert error["low"] < error["value"] < error["high"]
    assert error["value"] == pytest.approx(0.8 * NOISE, rel=0.1)
    assert covered["value"] == pytest.approx(0.8, abs=0.04)
    assert record["uncorrected"]["coverage_80"]["value"] > 0.99
    json.dumps(record, allow_nan=False)
    off = ask(question, rows([*KNOWN, *AHEAD]), self_calibrate=False)
    assert not any(note.startswith("on your") for note in off.notes)
    assert off.to_json()["self_calibration"] == []


@pytest.mark.parametrize("n_runs", [0, 1])
def test_fewer_than_two_finished_runs_say_nothing(n_runs: int) -> None:
    answer = ask("forecast", rows([*noisy_runs(n_runs, tasks=4), *AHEAD]))
    assert answer.self_calibration == ()
    assert not any("finished" in note for note in answer.notes)
    assert width(answer) == pytest.approx(3 * BEFORE, rel=0.01)


def test_runs_of_another_family_calibrate_nothing_unless_none_has_a_family() -> None:
    strangers = rows(KNOWN, family="g")
    apart = ask("forecast", strangers + rows(AHEAD))
    assert apart.self_calibration == ()
    assert width(apart) == pytest.approx(3 * BEFORE, rel=0.01)
    for given in (strangers, rows(KNOWN), rows(AHEAD)):
        for row in given:
            del row["family"]
    table = [row | {"planned_tokens": END} for row in strangers]
    without = [{k: v for k, v in row.items() if k != "family"} for row in rows(AHEAD)]
    assert width(ask("forecast", table + without)) == pytest.approx(BEFORE, rel=0.25)


def test_reference_runs_calibrate_like_finished_runs_of_the_table() -> None:
    beside = ask("forecast", rows(AHEAD), reference=rows(KNOWN))
    within = ask("forecast", rows([*KNOWN, *AHEAD]))
    assert beside.rows == within.rows
    assert beside.self_calibration == within.self_calibration


def test_unfinished_runs_beside_a_run_do_not_change_its_width() -> None:
    alone = ask("forecast", rows([*KNOWN, *[t for t in AHEAD if t.run == "new1"]]))
    far = [t.slice(0, 15) for t in noisy_runs(2, tasks=1, seed=9, prefix="far")]
    large = [replace(t, params=1e9, run=f"large{t.run}") for t in far]
    among = ask("forecast", rows([*KNOWN, *AHEAD, *far, *large]))
    assert [row for row in among.rows if row["run"] == "new1"] == alone.rows
    notes = [note for note in among.notes if note.startswith("on your")]
    assert len(notes) == 3
    assert notes[0].startswith("on your 12 finished runs from 20 % of their tokens: error")


def test_enough_finished_runs_put_a_family_into_the_calibration_set() -> None:
    group = GroupAdjustment(shifts=(0.0,) * 7, reached=(True,) * 7, n_runs=20)
    planted = Planted()
    planted.calibration = Calibration(
        levels=LEVELS, groups={"all": group}, families=("x",), largest_params=1e12
    )
    for n_runs, families in ((7, ("x",)), (8, ("f", "x"))):
        finished = [t for t in KNOWN if int(t.run[1:]) < n_runs]
        found = self_calibrate(planted, finished, unfinished(AHEAD, Horizon()))
        assert found.forecaster.calibration is not None
        assert found.forecaster.calibration.families == families


def test_a_wide_spread_of_a_larger_run_is_told_from_smaller_ones() -> None:
    known = [replace(t, params=1e6 * (1 + int(t.run[1:]) // 4)) for t in KNOWN]
    larger = [replace(t, params=1e9) for t in AHEAD]
    (record,) = ask("forecast", rows([*known, *larger])).self_calibration
    assert record["from_smaller"]
    assert record["runs"] == 8
    assert record["folds"] == 2


def test_the_command_line_leaves_intervals_alone_where_told(tmp_path: Path) -> None:
    curves = [t if t.run < "r4" else t.slice(0, 8) for t in ladder(6)]
    path = write_table(tmp_path / "a.parquet", curves, planned_tokens=END)
    results = [
        CliRunner().invoke(app, ["forecast", str(path), "--json", *flags])
        for flags in ([], ["--no-self-calibration"])
    ]
    calibrated, plain = (json.loads(result.stdout) for result in results)
    assert calibrated["self_calibration"][0]["runs"] in {3, 4}
    assert plain["self_calibration"] == []
    expected = neuneu.load().forecast(str(path), self_calibrate=False)
    assert plain["rows"] == expected.rows != calibrated["rows"]
