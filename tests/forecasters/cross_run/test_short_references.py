"""Runs that ended before a question does: left out and named, but where they went as far."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from curves import ask as query
from curves import ladder, trajectory
from fitted import fit
from test_cross_run import SMALL

import neuneu
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.references import far_enough
from neuneu.forecasters.registry import PRETRAINED
from neuneu.reports.answers.terminal import show
from neuneu.training.cross_run.fitting import CrossRunOptim, FitConfig

model = functools.cache(neuneu.load)
B = 1e9


def run(
    name: str, end: float, *, params: float = 1e9, level: float = 0.3, rise: float = 0.03
) -> Trajectory:
    """30 checkpoints up to `end` tokens; accuracy rises with ln tokens."""
    steps = np.arange(1, 31)
    one = trajectory(level + rise * np.log(steps), run=name)
    tokens = end / 30 * steps
    return replace(one, tokens=tokens, params=params, flops=6 * params * tokens)


def rows(*runs: Trajectory) -> list[dict[str, Any]]:
    return [
        {"family": t.family, "run": t.run, "task": t.task, "params": t.params, "step": int(step),
         "tokens": float(tokens), "value": float(value)}
        for t in runs
        for step, tokens, value in zip(t.steps, t.tokens, t.values, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("end", "params", "enough"),
    [
        (300 * B, 1e9, False),
        (1000 * B, 1e9, True),
        (910 * B, 1e9, True),  # up to a tenth
        (890 * B, 1e9, False),
        (300 * B, 2e9, False),  # a larger one read fewer tokens a parameter still
        (1000 * B, 2e9, True),
        (100 * B, 1e8, True),  # 1000 tokens a parameter, as the asked run has at 1T
        (50 * B, 1e8, False),
        (100 * B, 1.0, False),  # of unknown size
        (1000 * B, 1.0, True),
    ],
)
def test_a_reference_went_far_enough_in_tokens_or_for_its_size(
    end: float, params: float, enough: bool
) -> None:
    codes = Codes()
    asked = build_curves([run("asked", 200 * B)], codes)
    library = build_curves([run("other", end, params=params)], codes)
    found = far_enough(library, np.array([[0]]), asked, np.array([0]), np.array([np.log(1000 * B)]))
    assert found.tolist() == [[enough]]


def test_a_reference_of_300b_says_nothing_about_1t() -> None:
    """And that it was left out is said, with where it ends."""
    asked = rows(run("asked", 150 * B))
    other = rows(run("other", 300 * B, level=0.5, rise=0.05))
    alone = model().forecast(asked, until=1000 * B)
    answer = model().forecast(asked, reference=other, until=1000 * B, explain=True)
    (before,), (row,) = alone.rows, answer.rows
    assert row["q0.9"] - row["q0.1"] <= 1.5 * (before["q0.9"] - before["q0.1"])
    assert [row[f"q{level:g}"] for level in model().forecaster.levels] == [
        before[f"q{level:g}"] for level in model().forecaster.levels
    ]
    assert answer.tables["forecasts"].equals(alone.tables["forecasts"])
    assert row["calibration_group"].startswith("alone")
    assert (row["compared_with"], row["n_compared_with"]) == ([], 0)
    assert (row["left_out"], row["n_left_out"]) == (["f/other"], 1)
    assert row["baselines"]["nearest-analogue"] is None
    (note,) = [note for note in answer.notes if "not used as references" in note]
    assert "'f/other' (ends at 300B tokens)" in note


def test_a_reference_that_reaches_the_end_is_read_and_nothing_is_said() -> None:
    asked = rows(run("asked", 150 * B))
    other = rows(run("other", 300 * B, level=0.32))
    alone = model().forecast(asked, until=300 * B)
    answer = model().forecast(asked, reference=other, until=300 * B, explain=True)
    (row,) = answer.rows
    assert row["q0.5"] != alone.rows[0]["q0.5"]
    assert row["compared_with"] == ["f/other"]
    assert (row["left_out"], row["n_left_out"]) == ([], 0)
    assert row["baselines"]["nearest-analogue"] is not None
    assert not any("not used as references" in note for note in answer.notes)


@pytest.mark.parametrize("question", ["rank", "stop", "when", "next_eval"])
def test_every_question_leaves_short_references_out_and_names_them(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = rows(run("a", 150 * B), run("b", 120 * B, level=0.31))
    others = [run(f"other{i}", (200 + 10 * i) * B, level=0.5) for i in range(7)]
    more: dict[str, dict[str, Any]] = {
        "stop": {"target": 0.5}, "when": {"score": 0.5},
        "next_eval": {"checkpoints": [{"run": "a", "tokens": 500 * B}]},
    }  # fmt: skip
    ask = functools.partial(
        getattr(model(), question),
        asked,
        until=1000 * B,
        self_calibrate=False,
        **more.get(question, {}),
    )
    alone, answer = ask(), ask(reference=rows(*others))
    assert answer.rows == alone.rows
    (note,) = [note for note in answer.notes if "not used as references" in note]
    assert "'f/other0' (ends at 200B tokens), 'f/other1' (ends at 210B tokens)" in note
    assert "and 2 more" in note
    if question != "next_eval":
        show(ask(reference=rows(*others), explain=True))
        assert "reference runs none; left out f/other" in " ".join(capsys.readouterr().out.split())


def test_the_end_of_the_whole_question_counts_not_that_of_a_part() -> None:
    """Long horizons are answered in pieces, and the reference reaches the first of them."""
    asked, other = run("asked", 150 * B), run("other", 300 * B, level=0.5)
    far = run("asked", 150 * B)
    far = replace(
        far, steps=np.arange(1, 201), tokens=5 * B * np.arange(1, 201), values=np.full(200, 0.4),
        flops=np.arange(1, 201) * 3e19, stderrs=np.full(200, np.nan),
    )  # fmt: skip
    question = query(far, 30)
    assert question.target_tokens[0] < other.tokens[-1] < question.target_tokens[-1]
    question = replace(question, context=asked)
    forecaster = CrossRunForecaster.load(PRETRAINED)
    forecaster.fit([])
    (alone,) = forecaster.predict([question])
    forecaster.fit([other])
    np.testing.assert_array_equal(forecaster.predict([question])[0], alone)


def test_smaller_runs_that_went_as_far_for_their_size_are_compared_with() -> None:
    """A ladder of twenty tokens a parameter: what one has before the largest run."""
    sizes = (1e8, 2e8, 4e8)
    runs = [run(f"r{p:g}", 20 * p, params=p, level=0.2 + 0.02 * i) for i, p in enumerate(sizes)]
    short = run("short", 5e8, params=1e8)
    question = query(replace(run("large", 20e9), planned_tokens=20e9), 8)
    forecaster = CrossRunForecaster.load(PRETRAINED)
    forecaster.fit([*runs, short])
    (runs,) = forecaster.reference_runs([question])
    assert {t.run for t in runs.used} == {"r1e+08", "r2e+08", "r4e+08"}
    assert [t.run for t in runs.left_out] == ["short"]


def test_short_runs_are_left_out_whether_the_family_is_known_or_not() -> None:
    config = FitConfig(network=SMALL, optim=CrossRunOptim(max_steps=5, batch_size=16))
    forecaster = CrossRunForecaster([fit(ladder(), config)])
    whole = ladder(2, n=20)
    short = [t.slice(0, 5) for t in whole if t.run == "r1"]
    known = query(whole[0], 5)
    strange = replace(known, context=replace(known.context, family="new"))
    forecaster.fit(short)
    found = forecaster.reference_runs([known, strange])
    assert [len(runs.used) for runs in found] == [0, 0]
    assert [[t.run for t in runs.left_out] for runs in found] == [["r1"], ["r1"]]
