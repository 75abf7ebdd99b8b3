"""No question sees what lies after the cut, nor an unfinished run that is no peer beside it."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import ladder, trajectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neuneu
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import Answer
from neuneu.decisions.average import AverageForecast
from neuneu.decisions.options import RankOptions
from neuneu.decisions.predictor import Predictor
from neuneu.forecasters.queries import Horizon

model = functools.cache(neuneu.load)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LENGTH = 12
"""Checkpoints of a whole run, 1000 tokens apart."""
CUT = 7
TASKS = ("t0", "t1")
Rows = list[dict[str, Any]]
Values = dict[str, list[float]]

ASK: dict[str, Callable[..., Answer]] = {
    "forecast": lambda table, **more: model().forecast(table, points=3, explain=True, **more),
    "rank": lambda table, **more: model().rank(table, explain=True, **more),
    "stop": lambda table, **more: model().stop(table, target=0.5, explain=True, **more),
    "when": lambda table, **more: model().when(table, 0.5, explain=True, **more),
    "next_eval": lambda table, **more: model().next_eval(
        table, checkpoints=[{"run": "a", "step": 9}, {"run": "b", "step": 11}], goal="final", **more
    ),
}


def values() -> st.SearchStrategy[list[float]]:
    """Accuracies of one whole run on one task."""
    return st.lists(st.floats(0.0, 1.0, width=32), min_size=LENGTH, max_size=LENGTH)


def rows(run: str, task: str, of: list[float], *, stop: int, planned: int, **more: Any) -> Rows:
    """The first `stop` checkpoints of a run of `planned`."""
    return [
        {
            "family": "f", "suite": "s", "run": run, "params": 1e6, "task": task, "metric": "acc",
            "num_fewshot": 0, "step": step, "tokens": 1e3 * step, "flops": 6e9 * step,
            "value": value, "planned_tokens": 1e3 * planned,
        } | more
        for step, value in enumerate(of[:stop], start=1)
    ]  # fmt: skip


def losses(run: str, name: str, of: list[float], first: int = 1) -> Rows:
    return [
        {
            "family": "f", "suite": "s", "run": run, "params": 1e6, "num_fewshot": 0, "step": step,
            "tokens": 1e3 * step, "flops": 6e9 * step, "name": name,
            "metric": "cross_entropy_loss", "value": 2.0 + loss,
        }
        for step, loss in enumerate(of, start=1)
        if step >= first
    ]  # fmt: skip


def alike(found: Any, expected: Any) -> None:
    """Equal up to the rounding of numbers, which the size of a batch may tip."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            alike(found[key], value)
    elif isinstance(expected, list | tuple) and expected and not isinstance(expected[0], str):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=2.1e-5)
    else:
        assert found == expected


@FEW
@given(
    st.fixed_dictionaries({f"{run}/{task}": values() for run in "abd" for task in TASKS}),
    values(),
    values(),
    st.booleans(),
)
def test_what_lies_after_the_cut_changes_no_answer(
    of: Values, other: list[float], loss: list[float], logged_late: bool
) -> None:
    """Values, and losses; `d` has reached its end before the cut, `a` and `b` go on."""

    def tables(after: list[float], late: list[float]) -> tuple[Rows, Rows]:
        known, heard = [], []
        for name, whole in of.items():
            run, task = name.split("/")
            end = 6 if run == "d" else LENGTH
            known += rows(run, task, [*whole[:CUT], *after[CUT:]], stop=end, planned=end)
        for run in "abd":
            heard += losses(run, "v", [*loss[:CUT], *late[CUT:]])
        return known, heard

    first, second = tables(other, loss), tables(other[::-1], other)
    if logged_late:  # a validation set that comes first by name, logged only after the cut
        second[1].extend(losses("a", "lambada_openai", loss, first=CUT + 1))
    for ask in ASK.values():
        answers = [ask(known, losses=heard, context_step=CUT) for known, heard in (first, second)]
        alike(answers[1].rows, answers[0].rows)
        assert answers[1].notes == answers[0].notes
        assert answers[1].warnings == answers[0].warnings
        for name, table in answers[0].tables.items():
            alike(answers[1].tables[name].to_pylist(), table.to_pylist())


@FEW
@given(
    st.fixed_dictionaries({f"{run}/{task}": values() for run in "abd" for task in TASKS}),
    st.lists(
        st.tuples(values(), values(), st.integers(1, LENGTH - 1), st.sampled_from([1e5, 1e6, 3e7])),
        min_size=1,
        max_size=3,
    ),
)
def test_unfinished_siblings_change_no_other_answer(
    of: Values, siblings: list[tuple[list[float], list[float], int, float]]
) -> None:
    """`d` is finished and compared with; how `a` and `b` go on rests on nothing else.

    Only a question that compares runs also reads the contexts of peers (`decisions.peers`).
    """
    table = []
    for name, whole in of.items():
        run, task = name.split("/")
        table += rows(run, task, whole, stop=LENGTH if run == "d" else CUT, planned=LENGTH)
    beside = []
    for place, (first, second, stop, params) in enumerate(siblings):
        for task, whole in zip(TASKS, (first, second), strict=True):
            name = f"sibling{place}"
            beside += rows(name, task, whole, stop=stop, planned=LENGTH, params=params)
    has_peers = any(
        params == 1e6 and abs(np.log(stop / CUT)) <= 0.2 for *_, stop, params in siblings
    )
    for question in ["forecast"] if has_peers else list(ASK):
        ask = ASK[question]
        before, after = (told(question, ask(known)) for known in (table, table + beside))
        for key, row in before.items():
            alike(after[key], row)


def test_planned_runs_change_no_other_answer() -> None:
    table = []
    for t in ladder(4, tasks=2):
        stop = 20 if t.run in {"r0", "r1"} else 6
        table += rows(t.run, t.task, t.values.tolist(), stop=stop, planned=20, params=t.params)
    plans = [{"run": f"plan{size:g}", "params": size, "tokens": 4e4} for size in (1e6, 1e8)]
    for question in ("forecast", "rank", "when"):
        before, after = (
            told(question, ASK[question](table, **more)) for more in ({}, {"plan": plans})
        )
        assert before
        for key, row in before.items():
            alike(after[key], row)
            named = row["compared_with"] + row["left_out"]
            assert not any("plan" in run for run in named)


def told(question: str, answer: Answer) -> dict[tuple[str, ...], dict[str, Any]]:
    """What is said of each run alone: not who is better, nor what is cheaper."""
    beside = {"rank", "best", "beats", "regret", "cost", "value"} - (
        set() if question in {"rank", "next_eval"} else {"value"}
    )
    keys = ("run", "task", "step") if question == "next_eval" else ("run", "task")
    return {
        tuple(str(row[key]) for key in keys): {k: v for k, v in row.items() if k not in beside}
        for row in answer.rows
    }


def test_forecast_and_rank_answer_alike_about_a_run_among_unfinished_ones() -> None:
    table = []
    for t in ladder(4):
        stop = 20 if t.run == "r0" else 6
        table += rows(t.run, t.task, t.values.tolist(), stop=stop, planned=20, params=t.params)
    for task in ("t0", "t3"):
        forecast = {row["run"]: row for row in model().forecast(table).rows if row["task"] == task}
        rank = {row["run"]: row for row in model().rank(table, task=task).rows}
        assert set(rank) == {"r0", *forecast} == {"r0", "r1", "r2", "r3"}
        asked = AverageForecast(model().forecaster, table, {"task": task}, RankOptions)
        for future in asked.futures:
            if future.finished:
                continue
            run = future.run[2]
            # The same quantiles, from which `rank` draws what it tells.
            (answer,) = model().forecaster.predict(future.queries)
            levels = [forecast[run][f"q{level:g}"] for level in model().forecaster.levels]
            np.testing.assert_allclose(answer[-1], levels, atol=1.1e-5)
            band = forecast[run]["q0.9"] - forecast[run]["q0.1"]
            for level in ("q0.1", "q0.5", "q0.9"):
                assert rank[run][level] == pytest.approx(forecast[run][level], abs=0.1 * band)


def run_of(n: int, planned: float | None, run: str = "r") -> Trajectory:
    """A run seen up to n thousand tokens."""
    return replace(trajectory(np.full(n, 0.5), run=run), planned_tokens=planned)


@pytest.mark.parametrize(
    ("known", "horizon", "finished"),
    [
        (run_of(10, 10e3), Horizon(), True),
        (run_of(9, 10e3), Horizon(), False),
        (run_of(10, None), Horizon(), False),  # nothing says how far it goes
        (run_of(10, None), Horizon(until=10e3), True),
        (run_of(10, None), Horizon(until=20e3), False),
        (run_of(10, 10e3), Horizon(until=20e3), True),  # it has ended, whatever the question asks
        (run_of(10, 20e3), Horizon(until=10e3), True),
        (run_of(10, 10e3), Horizon(context=0.5), False),
        (run_of(10, 10e3), Horizon(context_step=9), False),
        (run_of(5, 5e3), Horizon(context_step=9, until=20e3), True),
        (run_of(10, 10.005e3), Horizon(), True),  # plans are rounded
    ],
)
def test_a_run_is_finished_where_what_is_seen_reaches_its_plan_or_the_end(
    known: Trajectory, horizon: Horizon, finished: bool
) -> None:
    assert horizon.finished(known) is finished
    references = horizon.references([known, run_of(3, 9e3, "other")], [run_of(2, None, "given")])
    assert [t.run for t in references] == [*(["r"] if finished else []), "given"]


def test_references_of_the_table_hold_only_what_is_seen() -> None:
    (seen,) = Horizon(context_step=8, until=8e3).references([run_of(10, 10e3)])
    assert seen.tokens.tolist() == [1e3 * step for step in range(1, 9)]


@pytest.mark.parametrize(
    ("end", "tokens"), [({"until_step": 40}, 40e3), ({"until_flops": 8e13}, 40e3)]
)
def test_the_end_goes_on_as_steps_and_flops_were_seen_to(
    end: dict[str, Any], tokens: float
) -> None:
    """1000 tokens a step and 2e9 FLOPs a token up to the cut, thrice as many later."""
    later = np.where(np.arange(1, 11) > 5, 3.0, 1.0)
    steps = trajectory(np.full(10, 0.5))
    run = replace(steps, tokens=steps.tokens * later, flops=steps.tokens * later**2 * 2e9)
    assert Horizon(context_step=5, **end).end(run) == pytest.approx(tokens)


def test_a_run_that_ended_before_the_question_is_asked_about_and_compared_with() -> None:
    """`d` has read its 20K tokens, as many a parameter as `a` will have at 40K."""
    whole = np.linspace(0.3, 0.6, 20).tolist()
    table = rows("a", "t", whole, stop=9, planned=40)
    table += rows("d", "t", whole[::-1], stop=20, planned=20, params=5e5)
    for answer in (
        model().forecast(table, until=40e3, explain=True),
        model().rank(table, until=40e3, explain=True),
    ):
        of = {row["run"]: row for row in answer.rows}
        assert of["a"]["compared_with"] == ["f/d"]
        assert of["d"]["compared_with"] == []
        assert of["d"]["q0.1"] < of["d"]["q0.9"]
        assert {row["tokens"] for row in answer.rows} == {40e3}


@pytest.mark.parametrize("ask", [Predictor.forecast, Predictor.rank])
def test_a_run_at_the_end_up_to_rounding_has_no_future_in_any_question(
    ask: Callable[..., Answer],
) -> None:
    whole = np.linspace(0.3, 0.6, 20).tolist()
    table = rows("a", "t", whole, stop=20, planned=20, planned_tokens=20_010.0)
    table += rows("b", "t", whole, stop=9, planned=20)
    ahead = [row["run"] for row in ask(model(), table).rows if not row.get("finished")]
    assert ahead == ["b"]
