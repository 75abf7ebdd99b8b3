"""The five questions, by the Python API and by the command line, on the package's forecaster."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curves import ladder, write_table
from typer.testing import CliRunner

import neuneu
from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.data.fingerprints import fingerprints
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.predictor import Predictor
from neuneu.forecasters.cross_run.export import load_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.registry import PRETRAINED

END = 20_000.0


@pytest.fixture(scope="module")
def model() -> Predictor:
    return neuneu.load()


def curves() -> list[Trajectory]:
    """r0 and r1 have reached the end, r2 to r4 not."""
    return [t if t.run in {"r0", "r1"} else t.slice(0, 8) for t in ladder(5)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("t") / "a.parquet", curves(), planned_tokens=END)


def test_forecast_has_a_row_a_trajectory_and_every_place(model: Predictor, table: Path) -> None:
    answer = model.forecast(table, points=7, explain=True)
    assert {row["run"] for row in answer.rows} == {"r2", "r3", "r4"}
    assert len(answer.rows) == 12
    for row in answer.rows:
        assert row["q0.05"] <= row["q0.1"] <= row["q0.5"] <= row["q0.9"] <= row["q0.95"]
        assert row["tokens"] == END
        assert {"f/r0", "f/r1"} <= set(row["compared_with"])
        assert set(row["baselines"]) >= {"persistence", "power-law"}
        assert row["calibrated_on"] >= 10
    forecasts = answer.tables["forecasts"]
    assert forecasts.num_rows == 12 * 7
    assert forecasts.column("y").null_count == 84
    assert answer.tables["observed"].num_rows == 12 * 8
    assert answer.to_numpy()["q0.5"].shape == (12,)
    assert answer.to_arrow().num_rows == 12


def test_runs_that_the_forecaster_learnt_from_are_named(table: Path) -> None:
    learnt = [t for t in ladder(5) if t.run == "r2"]
    saved = load_networks(PRETRAINED)
    knowing = CrossRunForecaster(
        saved.networks, training_runs=fingerprints(learnt),
        joint=neuneu.load().forecaster.joint,
    )  # fmt: skip
    asked = Predictor(knowing)
    for answer in (asked.forecast(table, points=2), asked.when(table, 0.9)):
        assert [n for n in answer.notes if "was trained on 'f/r2'" in n], answer.notes
    only = neuneu.load().forecast(table, points=2)
    assert not any("trained on" in note for note in only.notes)


def test_forecast_of_the_same_numbers_is_the_same_however_they_are_given(model: Predictor) -> None:
    tokens = np.arange(1, 13) * 1e9
    values = 0.7 - 0.4 * np.arange(1, 13) ** -0.4
    columns = {"run": ["a"] * 12, "task": ["t"] * 12, "tokens": tokens, "value": values}
    given = [columns, pa.table(columns), pa.table(columns).to_pylist()]
    answers = [model.forecast(each, until=30e9) for each in given]
    first = answers[0].rows[0]
    assert all(answer.rows == [first] for answer in answers)
    assert values[-1] - 0.05 < first["q0.5"] < 0.7
    assert first["family"] == "unknown"
    assert any("no column params" in note for note in answers[0].notes)


def test_only_steps_are_enough_and_that_they_stand_for_tokens_is_said(model: Predictor) -> None:
    values = 0.7 - 0.4 * np.arange(1, 13) ** -0.4
    rows = {"run": ["a"] * 12, "task": ["t"] * 12, "step": np.arange(1, 13) * 100, "value": values}
    answer = model.forecast(rows, until_step=3000)
    assert answer.rows[0]["tokens"] == 3000
    assert any("steps stand for them" in note for note in answer.notes)


def test_rank_orders_all_runs_with_probabilities_that_fit(model: Predictor, table: Path) -> None:
    answer = model.rank(table, explain=True)
    rows = answer.rows
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert sum(row["best"] for row in rows) == pytest.approx(1.0, abs=0.001)
    by_name = {row["run"]: row for row in rows}
    for row in rows:
        for other, probability in row["beats"].items():
            assert probability + by_name[other]["beats"][row["run"]] == pytest.approx(1, abs=2e-4)
    assert by_name["r0"]["finished"]
    assert not by_name["r2"]["finished"]
    assert by_name["r0"]["q0.1"] == by_name["r0"]["q0.9"]
    # Unfinished runs are never each other's references.
    assert set(by_name["r2"]["compared_with"]) == {"f/r0", "f/r1"}
    assert rows[0]["task"] == "mean of 4 tasks"


def test_the_future_of_a_candidate_never_reaches_another(model: Predictor) -> None:
    """Cutting runs down by `context` gives what a table without the rest gives."""
    whole = [t for t in ladder(5) if t.run in {"r2", "r3", "r4"}]
    options = {"until": END, "seed": 3}
    cut = model.rank(as_rows([t.slice(0, 9) for t in whole]), **options)
    pretended = model.rank(as_rows(whole), context=0.4, **options)
    assert cut.rows == pretended.rows


def as_rows(trajectories: list[Trajectory]) -> list[dict]:
    return [
        {"family": t.family, "suite": t.suite, "run": t.run, "params": t.params, "task": t.task,
         "metric": t.metric, "num_fewshot": 0, "step": int(step), "tokens": float(tokens),
         "flops": float(flops), "value": float(value)}
        for t in trajectories
        for step, tokens, flops, value in zip(t.steps, t.tokens, t.flops, t.values, strict=True)
    ]  # fmt: skip


def test_stop_weighs_a_target_and_a_rival(model: Predictor, table: Path) -> None:
    easy = model.stop(table, target=0.02)
    hard = model.stop(table, target=0.98)
    assert {row["advice"] for row in easy.rows} == {"go on"}
    assert {row["advice"] for row in hard.rows} == {"stop"}
    assert [row["run"] for row in hard.rows] == ["r2", "r3", "r4"]
    for row in hard.rows:
        assert row["success"] < 0.1
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["remaining_share"] == pytest.approx(0.6)
        assert row["remaining_tokens"] == pytest.approx(12_000)
    against = model.stop(table, rival="r0", runs=["r0", "r2"])
    assert [row["run"] for row in against.rows] == ["r2"]
    ranked = model.rank(table, runs=["r0", "r2"])
    beats = {row["run"]: row["beats"] for row in ranked.rows}
    assert against.rows[0]["success"] == pytest.approx(beats["r2"]["r0"])


def test_when_tells_a_distribution_with_never(model: Predictor, table: Path) -> None:
    present = {row["run"]: row["present"] for row in model.rank(table).rows}
    low = model.when(table, max(0.01, min(present.values()) - 0.05))
    assert any(row["reached"] for row in low.rows)
    far = model.when(table, 0.99)
    assert all(row["never"] > 0.9 and row["t0.5"] is None for row in far.rows)
    near = model.when(table, present["r2"] + 0.01, runs=["r2"])
    (row,) = near.rows
    assert row["by"] == sorted(row["by"])
    assert row["by"][-1] == pytest.approx(1 - row["never"], abs=2e-4)
    assert 8000 < row["places"][0] <= row["places"][-1] == END


def test_next_eval_prefers_the_late_checkpoint_and_minds_costs(
    model: Predictor, table: Path
) -> None:
    saved = [{"run": "r2", "step": step} for step in (9, 12, 19)]
    answer = model.next_eval(table, checkpoints=saved, runs=["r2"])
    assert len(answer.rows) == 3 * 4
    narrowing = {(row["task"], row["step"]): row["narrowing"] for row in answer.rows}
    assert all(narrowing[task, 19] > narrowing[task, 9] for task, _ in narrowing)
    dear = answer.rows[0]["task"]
    priced = model.next_eval(
        table, checkpoints=saved, runs=["r2"], costs={dear: 1000.0}, goal="final"
    )
    assert priced.rows[0]["task"] != dear
    assert {row["cost"] for row in priced.rows} == {1.0, 1000.0}
    with pytest.raises(UserError, match="nothing is left to evaluate"):
        model.next_eval(table)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m, t: m.rank(t, runs=["r9"]), "run 'r9' is not in the table"),
        (lambda m, t: m.rank(t, runs=["r2"]), "expected at least 2 runs"),
        (lambda m, t: m.rank(t, task="x"), "task x: not in the table"),
        (lambda m, t: m.rank(t, until=9e4, until_step=9), "one of them at most"),
        (lambda m, t: m.rank(t, untill=9e4), "did you mean 'until'"),
        (lambda m, t: m.stop(t, target=0.5, rival="r0"), "expected one of them, found both"),
        (lambda m, t: m.stop(t, target=65.0), "expected a fraction between 0 and 1, found 65"),
        (lambda m, t: m.stop(t, target=0.5, runs=["r0"]), "no run is unfinished"),
        (lambda m, t: m.when(t, 1.5), "expected a fraction"),
        (lambda m, t: m.next_eval(t, checkpoints=[{"step": 3}]), "expected columns run and step"),
        (lambda m, t: m.forecast(42), "expected a path, a pyarrow table"),
        (lambda m, t: m.forecast({"run": ["a"], "task": ["t"], "value": [0.5]}), "step, tokens or"),
        (lambda m, t: m.forecast(t, token_losses="nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_line(model: Predictor, table: Path, ask, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        ask(model, table)
    assert "\n" not in str(raised.value)


def test_commands_print_write_and_speak_json(table: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    commands = {
        "forecast": [], "rank": ["--task", "task0,task1"], "stop": ["--target", "0.5"],
        "when": ["0.5"], "next-eval": ["--checkpoints", str(tmp_path / "saved.csv")],
    }  # fmt: skip
    (tmp_path / "saved.csv").write_text("run,step\nr2,12\nr3,14\n")
    tasks = sorted({t.task for t in curves()})
    commands["rank"][1] = ",".join(tasks[:2])
    for name, more in commands.items():
        out = tmp_path / "out"
        shown = runner.invoke(app, [name, str(table), *more, "-o", str(out)])
        assert shown.exit_code == 0, shown.output
        assert "r2" in shown.output
        spoken = runner.invoke(app, [name, str(table), *more, "--json"])
        record = json.loads(spoken.stdout)
        assert record["question"] == name
        assert record["rows"] == json.loads((out / f"{name}.json").read_text())["rows"]
    assert pq.read_table(out / "forecasts.parquet").num_rows == 12 * 20
    wrong = runner.invoke(app, ["stop", str(table), "--target", "65"])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("neuneu: target: expected a fraction")
