"""Questions about a metric of which lower is better and that has no upper bound of one."""

import numpy as np
import pytest

import neuneu
from neuneu.core.errors import UserError
from neuneu.data.load import load_dataset
from neuneu.data.scales import scale_of
from neuneu.forecasters.baselines.power_law import PowerLaw
from neuneu.forecasters.queries import query_at
from neuneu.reports.answers.phrasing import headline, rank_sentence, stop_sentence, when_sentence

END = 1e11


def bits(tokens: np.ndarray, level: float) -> np.ndarray:
    """A power law to 1 + level bits per byte."""
    return 1.0 + level + 2.0 * (tokens / 1e9) ** -0.4


def table() -> dict:
    """Six finished runs, and two (a better, b worse) at a fifth of their tokens."""
    found: dict[str, list] = {
        key: [] for key in ("run", "task", "metric", "value", "tokens", "params", "planned_tokens")
    }
    generator = np.random.default_rng(0)
    for i in range(8):
        name = "ab"[i - 6] if i >= 6 else f"done{i}"
        level = {"a": 0.0, "b": 0.3}.get(name, 0.05 * i)
        tokens = np.geomspace(1e9, END, 24)
        tokens = tokens[tokens < 0.2 * END] if i >= 6 else tokens
        for task in ("t", "u"):
            values = bits(tokens, level) + generator.normal(0.0, 0.004, len(tokens))
            n = len(tokens)
            for key, cells in {
                "run": [name] * n, "task": [task] * n, "metric": ["bpb"] * n,
                "value": values.tolist(), "tokens": tokens.tolist(), "params": [1e9] * n,
                "planned_tokens": [END] * n,
            }.items():  # fmt: skip
                found[key] += cells
    return found


@pytest.fixture(scope="module")
def model() -> neuneu.Predictor:
    return neuneu.load()


def test_forecasts_are_in_bits_and_beat_the_present(model: neuneu.Predictor) -> None:
    rows = model.forecast(table()).rows
    assert {row["run"] for row in rows} == {"a", "b"}
    for row in rows:
        truth = bits(np.array([END]), {"a": 0.0, "b": 0.3}[row["run"]])[0]
        assert row["q0.1"] < row["q0.5"] < row["q0.9"]
        assert abs(row["q0.5"] - truth) < 0.3 * abs(row["present"] - truth)
        assert row["chance"] is None
        assert row["higher_is_better"] is False


def test_less_is_better_in_every_answer(model: neuneu.Predictor) -> None:
    ranking = model.rank(table(), runs=["a", "b"])
    assert [row["run"] for row in ranking.rows] == ["a", "b"]
    first = ranking.rows[0]
    assert first["q0.5"] < ranking.rows[1]["q0.5"]
    assert first["best"] > 0.95
    assert first["beats"]["b"] > 0.95
    assert first["regret"] < ranking.rows[1]["regret"]
    assert headline(ranking).startswith("Choose a: it is expected to score lowest")
    assert "bits per byte" in rank_sentence(first)
    (row,) = model.when(table(), 1.45, runs=["a"]).rows
    assert row["t0.1"] <= row["t0.5"]
    assert 2e10 < row["t0.5"] < END
    assert "reaches 1.45 bits per byte on" in when_sentence(row)
    (row,) = model.when(table(), 2.9, runs=["a"]).rows
    assert row["reached"] is not None
    (row,) = model.when(table(), 0.5, runs=["a"]).rows
    assert row["never"] == 1.0
    stop = {row["run"]: row for row in model.stop(table(), target=1.45).rows}
    assert stop["a"]["success"] > 0.9
    assert stop["b"]["advice"] == "stop"
    assert stop["a"]["gain"] > 0.0
    assert stop["a"]["gain_low"] <= stop["a"]["gain"] <= stop["a"]["gain_high"]
    assert "improve it by" in stop_sentence(stop["a"])
    rivals = {row["run"]: row for row in model.stop(table(), runs=["a", "b"]).rows}
    assert rivals["a"]["success"] > 0.95
    assert rivals["b"]["success"] < 0.05


def test_what_to_evaluate_next_and_the_check_are_in_bits(model: neuneu.Predictor) -> None:
    (*_, last) = table()["tokens"]
    saved = {"run": ["a", "b"], "tokens": [0.3 * END, 0.3 * END]}
    rows = model.next_eval(table(), checkpoints=saved, runs=["a", "b"]).rows
    assert last < 0.3 * END
    assert all(0.0 <= row["narrowing"] <= 1.0 and row["value"] >= 0.0 for row in rows)
    check = model.check(table(), context=0.2).rows[0]
    assert check["metric"] == "bpb"
    assert 0.0 < check["error"] < 0.1


def test_scores_that_the_metric_cannot_have_are_refused(model: neuneu.Predictor) -> None:
    with pytest.raises(UserError, match="score: expected bpb between 0 and inf, found -1"):
        model.when(table(), -1.0)
    mixed = table()
    mixed["metric"] = ["acc" if task == "u" else "bpb" for task in mixed["task"]]
    mixed["value"] = [
        v / 10 if t == "u" else v for v, t in zip(mixed["value"], mixed["task"], strict=True)
    ]
    with pytest.raises(UserError, match="expected metrics of one range and unit"):
        model.rank(mixed)
    assert len(model.rank(mixed, metric="bpb", runs=["a", "b"]).rows) == 2
    assert {row["metric"] for row in model.forecast(mixed, metric="acc").rows} == {"acc"}


def test_the_power_law_of_bits_is_that_of_the_bits_themselves() -> None:
    trajectories = load_dataset(table()).trajectories
    run = next(t for t in trajectories if (t.run, t.task) == ("a", "t"))
    tokens = run.tokens
    exact = [1.0 + 2.0 * (x / 1e9) ** -0.4 for x in tokens]
    known = run.slice(0, len(run))
    known.values[:] = exact
    (answer,) = PowerLaw().predict([query_at(known, np.array([END]))])
    np.testing.assert_allclose(answer, [[bits(np.array([END]), 0.0)[0]]], rtol=1e-3)
    assert scale_of("bpb").best == 0.0
