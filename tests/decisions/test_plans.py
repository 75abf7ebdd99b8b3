"""Runs that have not started: how they are given, forecast and ranked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from relatives import ENDS, Relatives, rows
from typer.testing import CliRunner

import neuneu
from neuneu.cli.app import app
from neuneu.core.errors import UserError
from neuneu.data.schemas import ACCURACIES, FORECASTS, conform
from neuneu.decisions.answers import Answer
from neuneu.decisions.plans import parse_plan
from neuneu.decisions.predictor import Predictor

BIG = "run=big,params=8e9,tokens=2T,recipe=web,schedule=wsd"


@pytest.fixture
def model() -> Predictor:
    return Predictor(Relatives())


def of_run(answer: Answer, run: str) -> list[dict[str, Any]]:
    return [row for row in answer.rows if row["run"] == run]


@pytest.mark.parametrize(
    "plan",
    [
        "run=big, params=8B ,tokens=2T, recipe=web,schedule=WSD",
        "run=big,params=8e9,planned_tokens=2000B,recipe=web,schedule=wsd,decay_start_tokens=1.6e12",
        {"run": "big", "params": 8e9, "tokens": 2e12, "recipe": "web", "schedule": "wsd"},
        {"run": "big", "params": "8000m", "tokens": "2t", "recipe": "web", "schedule": "wsd",
         "family": None, "suite": ""},
    ],
)  # fmt: skip
def test_plans_are_read(plan: str | Mapping[str, Any]) -> None:
    found = parse_plan(plan)
    assert (found.run, found.params, found.planned_tokens) == ("big", 8e9, 2e12)
    assert (found.recipe, found.schedule, found.decay_begins) == ("web", "wsd", 1.6e12)
    assert (found.family, found.suite) == (None, None)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("big", "expected key=value pairs separated by commas"),
        ("params=7B", "expected run=NAME"),
        ("run=big,parms=7B", "unknown key 'parms'; did you mean params? Expected run, params"),
        ("run=big,params=7X", "params is '7X'; expected a positive number, such as 7e9 or 7B"),
        ("run=big,params=-7", "params is '-7'; expected a positive number"),
        ("run=big,params=0", "params is '0'; expected a positive number"),
        ("run=big,tokens=1e40", "tokens is '1e40'; expected a positive number"),
        ("run=big,params=1,params=2", "params is given twice"),
        ("run=big,tokens=1,planned_tokens=2", "tokens is given twice"),
        ("run=big,schedule=step", "schedule is 'step'; expected one of cosine"),
        ("run=big,tokens=1T,decay_start_tokens=2T", "expected a decay that begins before"),
        ({"run": "big", "params": [1]}, "params is [1]; expected a positive number"),
    ],
)
def test_bad_plan_is_one_line(plan: str | Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_plan(plan)
    assert message in str(caught.value)
    assert str(caught.value).startswith("plan")
    assert "\n" not in str(caught.value)


def test_planned_run_is_forecast_from_finished_relatives(model: Predictor) -> None:
    answer = model.forecast(rows(), plan=BIG, points=5, explain=True)
    found = {row["task"]: row for row in of_run(answer, "big")}
    assert set(found) == {"t0", "t1"}
    for task, row in found.items():
        assert row["q0.5"] == pytest.approx(ENDS["web"][int(task[1])])
        assert (row["family"], row["suite"], row["num_fewshot"]) == ("f", "s", 0)
        assert (row["present"], row["checkpoints"], row["seen_tokens"]) == (None, 0, 0.0)
        assert row["tokens"] == 2e12
        assert row["compared_with"] == ["f/web-1e+08", "f/web-4e+08"]
        assert list(row["baselines"]) == ["ladder-two-step"]
    assert answer.settings["plan"] == BIG
    assert [row["checkpoints"] for row in of_run(answer, "running")] == [3, 3]


def test_queries_say_what_is_planned(model: Predictor) -> None:
    model.forecast(rows(), plan=BIG, points=5)
    fitted, asked = model.forecaster.references, model.forecaster.queries
    assert {t.run for t in fitted} == {f"{r}-{n}" for r in ENDS for n in ("1e+08", "4e+08")}
    query = next(q for q in asked if q.context.run == "big")
    context = query.context
    assert len(context) == len(context.tokens) == len(context.values) == 0
    assert (context.params, context.recipe, context.schedule) == (8e9, "web", "wsd")
    assert (context.planned_tokens, context.decay_start) == (2e12, 1.6e12)
    assert (context.base_task, context.metric) == (context.task, "acc")
    np.testing.assert_allclose(query.target_tokens, np.geomspace(2e10, 2e12, 5))
    np.testing.assert_allclose(query.target_flops, 6 * 8e9 * query.target_tokens)
    np.testing.assert_allclose(query.target_steps, query.target_tokens / 1e6, atol=0.5)


def test_tables_of_a_forecast_before_the_start(model: Predictor) -> None:
    answer = model.forecast(rows(), plan=BIG)
    table = conform(answer.tables["forecasts"], FORECASTS, name="x").to_pylist()
    mine = [row for row in table if row["run"] == "big"]
    assert len(mine) == 2 * 20
    assert {(row["context_step"], row["context_tokens"]) for row in mine} == {(0, 0.0)}
    (only, _) = of_run(model.forecast(rows(), plan=BIG, points=1), "big")
    assert only["tokens"] == 2e12
    observed = conform(answer.tables["observed"], ACCURACIES, name="x").to_pylist()
    assert {row["run"] for row in observed} == {"running"}


def test_until_is_the_horizon_of_planned_runs_too(model: Predictor) -> None:
    plan = "run=big,params=8B"
    with pytest.raises(UserError, match=r"'big': expected its planned tokens, found none; add"):
        model.forecast(rows(), plan=plan)
    (first, _) = of_run(model.forecast(rows(), plan=plan, until=5e11), "big")
    assert first["tokens"] == 5e11
    (first, _) = of_run(model.forecast(rows(), plan=plan, until_flops=6 * 8e9 * 3e11), "big")
    assert first["tokens"] == 3e11
    with pytest.raises(UserError, match="run 'big' has not started and has no steps; give until"):
        model.forecast(rows(), plan=plan, until_step=1000)


@pytest.mark.parametrize(
    ("plan", "table", "message"),
    [
        ("run=big,tokens=2T", rows(), "'big': expected its number of parameters, found none"),
        ("run=running,params=1,tokens=1", rows(), "'running': a run of this name was evaluated"),
        ([BIG, {"run": "big", "params": 1, "tokens": 1}], rows(), "'big' is planned twice"),
        (BIG, [*rows(), *rows(more={"family": "g", "suite": "z"})],
         "'big': expected its family, because the table has 'f', 'g'; add family"),
        (f"{BIG},family=f", [*rows(), *rows(more={"suite": "z"})],
         "'big': expected its suite, because the table has 's', 'z'; add suite"),
        (BIG, [row for row in rows() if row["run"] == "running"], "need finished relatives"),
    ],
)  # fmt: skip
def test_plan_that_does_not_fit_the_table_is_one_line(
    model: Predictor, plan: Any, table: Sequence[dict[str, Any]], message: str
) -> None:
    for ask in (model.forecast, model.rank):
        with pytest.raises(UserError) as caught:
            ask(table, plan=plan)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_relatives_are_those_of_the_family_else_all(model: Predictor) -> None:
    other = [row | {"family": "g", "suite": "z", "task": f"{row['task']}-g"} for row in rows()]
    ours, theirs = {"t0", "t1"}, {"t0-g", "t1-g"}
    plan = f"{BIG},family="
    for family, tasks in (("f", ours), ("g", theirs), ("new", ours | theirs)):
        answer = model.forecast([*rows(), *other], plan=plan + family)
        assert {row["task"] for row in of_run(answer, "big")} == tasks
        assert {row["family"] for row in of_run(answer, "big")} == {family}


def test_relatives_may_stand_in_the_reference_table(model: Predictor) -> None:
    running = [row for row in rows() if row["run"] == "running"]
    finished = [row for row in rows() if row["run"] != "running"]
    answer = model.forecast(running, reference=finished, plan=BIG)
    assert [row["q0.5"] for row in of_run(answer, "big")] == pytest.approx(list(ENDS["web"]))


def test_rows_of_the_table_of_runs_are_planned_runs(model: Predictor) -> None:
    runs = [
        {"run": "big", "params": 8e9, "planned_tokens": 2e12, "recipe": "books"},
        {"run": "unsized", "params": None, "planned_tokens": 2e12},
    ]
    answer = model.forecast(rows(), run_table=runs)
    assert [row["q0.5"] for row in of_run(answer, "big")] == pytest.approx(list(ENDS["books"]))
    assert not of_run(answer, "unsized")
    assert any("left out: planned run 'unsized': expected its number" in n for n in answer.notes)
    both = model.forecast(rows(), run_table=runs, plan="run=big,recipe=web")
    assert [row["q0.5"] for row in of_run(both, "big")] == pytest.approx(list(ENDS["web"]))


def test_rank_says_which_recipe_the_large_run_should_use(model: Predictor) -> None:
    plans = [f"run=big-{r},params=8B,tokens=2T,recipe={r}" for r in ENDS]
    answer = model.rank(rows(), plan=plans, runs=["big-web", "big-books"])
    first, second = answer.rows
    assert [first["run"], second["run"]] == ["big-books", "big-web"]
    assert first["q0.5"] == pytest.approx(np.mean(ENDS["books"]), abs=1e-3)
    assert (first["present"], first["seen_tokens"], first["finished"]) == (None, 0.0, False)
    assert first["beats"]["big-web"] > 0.99
    assert {t.run for t in model.forecaster.references}.isdisjoint({"big-web", "big-books"})
    everyone = {row["run"]: row for row in model.rank(rows(), plan=plans).rows}
    assert set(everyone) == {
        "big-web", "big-books", "running", *(t.run for t in model.forecaster.references),
    }  # fmt: skip
    assert everyone["web-1e+08"]["finished"]
    alone = model.rank(rows(), plan=plans[0], runs=["big-web", "running"])
    assert {row["q0.5"] for row in alone.rows} <= {row["q0.5"] for row in everyone.values()}


def test_when_covers_planned_runs(model: Predictor) -> None:
    plan = "run=big,params=8B,tokens=2T,recipe=web"
    (row,) = model.when(rows(), 0.5, plan=plan, runs=["big"]).rows
    assert (row["present"], row["reached"]) == (None, None)
    assert 0.4 < row["never"] < 0.6
    assert len(row["places"]) == 100
    assert row["places"][0] == 2e10
    assert row["places"][-1] == 2e12
    (row,) = model.when(rows(), 0.55, plan=plan, runs=["big"]).rows
    assert row["never"] == 1.0


def test_stop_and_next_eval_leave_planned_runs_out(model: Predictor) -> None:
    runs = [{"run": "big", "params": 8e9, "planned_tokens": 2e12, "recipe": "web"}]
    saved = [{"run": "running", "tokens": 5e11}]
    for answer in (
        model.stop(rows(), target=0.9, run_table=runs),
        model.next_eval(rows(), run_table=runs, checkpoints=saved),
    ):
        assert {row["run"] for row in answer.rows} == {"running"}
        assert any("planned runs 'big'; this question is about" in note for note in answer.notes)


def test_forecaster_that_needs_a_context_says_so() -> None:
    model = Predictor(Relatives(needs_context=True))
    answer = model.forecast(rows(), plan=BIG)
    assert {row["run"] for row in answer.rows} == {"running"}
    assert any(n.startswith("no forecast of 'big' on 't0', 't1': planned") for n in answer.notes)
    ranked = model.rank(rows(), plan=BIG)
    assert "big" not in {row["run"] for row in ranked.rows}
    assert any("no forecast of 'big'" in note for note in ranked.notes)
    finished = [row for row in rows() if row["run"] != "running"]
    with pytest.raises(UserError, match=r"nothing to forecast: no forecast of 'big'.*relatives"):
        model.forecast(finished, plan=BIG)
    with pytest.raises(UserError, match=r"at least 2 runs.*no forecast of 'big'"):
        model.rank(rows(), plan=BIG, runs=["big", "running"])


def test_command_line_takes_plans_and_a_table_of_runs(
    model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuneu, "load", lambda _: model)
    runs = [{"run": "big-books", "params": 8e9, "planned_tokens": 2e12, "recipe": "books"}]
    for name, table in (("a", rows()), ("runs", runs)):
        pacsv.write_csv(pa.Table.from_pylist(table), tmp_path / f"{name}.csv")
    command = ["rank", str(tmp_path / "a.csv"), "--run-table", str(tmp_path / "runs.csv")]
    planned = ["--plan", "run=big-web,params=8B,tokens=2T,recipe=web", "--plan", f"{BIG},suite=s"]
    result = CliRunner().invoke(app, [*command, *planned, "--json"])
    assert result.exit_code == 0
    ranked = [row["run"] for row in json.loads(result.stdout)["rows"]]
    assert ranked.index("big-books") < ranked.index("big-web")
    assert "big" in ranked
    result = CliRunner().invoke(app, [*command, "--plan", "run=x,size=7B"])
    assert result.exit_code == 2
    assert "unknown key 'size'" in result.output
