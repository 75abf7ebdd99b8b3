"""The forecasting study: intervals of point forecasters, paired differences, rankings, pages."""

import json

import numpy as np
import pytest
from documents import ROOT
from forecasting import intervals
from forecasting.scores import against, interval_scores, rankings, strata, terciles
from forecasts import Shifted, trajectory
from page import render

from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.backtest import run_backtest
from neuneu.evaluation.table import read_evaluation


def runs(count: int, seed: int = 0) -> list[Trajectory]:
    generator = np.random.default_rng(seed)
    found = []
    for place in range(count):
        level = 0.3 + 0.05 * place
        values = level + 0.01 * generator.standard_normal(40)
        values[:9] = 0.5  # contexts that all end alike
        known = {"stderrs": np.full(40, 0.01), "params": 1e6 * (place + 1)}
        found.append(trajectory(values, run=f"r{place}", **known))
    return found


def test_bands_of_a_point_forecaster_hold_what_they_say() -> None:
    # One level for all: outcomes scatter around it by 0.01.
    generator = np.random.default_rng(0)
    flat = [
        trajectory(np.r_[np.full(9, 0.5), 0.5 + 0.01 * generator.standard_normal(91)], run=f"r{i}")
        for i in range(40)
    ]
    table = run_backtest([Shifted("point", levels=(0.5,))], flat, [], Anchored(fraction=0.08))
    assert intervals.is_point(table)
    offsets = intervals.measure(table)
    banded = intervals.with_intervals(table, offsets)
    assert not intervals.is_point(banded)
    y = banded["y"].to_numpy()
    inside = (banded["q0.1"].to_numpy() <= y) & (y <= banded["q0.9"].to_numpy())
    assert inside.mean() == pytest.approx(0.8, abs=0.02)
    np.testing.assert_array_equal(banded["q0.5"].to_numpy(), table["q0.5"].to_numpy())


def test_a_biased_forecaster_keeps_its_median_and_the_unanswered_stay_so() -> None:
    forecaster = Shifted("biased", shift=0.5, levels=(0.5,), unknown=("other",))
    targets = [*runs(3), trajectory(np.full(40, 0.4), run="x", task="other")]
    table = run_backtest([forecaster], targets, [], Anchored())
    offsets = np.array(intervals.measure(table))
    assert (offsets[:, 4:] == 0).all()  # what came lay below the median every time
    banded = intervals.with_intervals(table, offsets.tolist())
    assert banded["q0.9"].null_count == table["q0.5"].null_count == 31


def test_paired_differences_are_ours_minus_theirs_where_both_answered() -> None:
    targets = runs(4)
    near, far = Shifted("ours", shift=0.0), Shifted("theirs", shift=0.4, unknown=("none",))
    table = run_backtest([near, far], targets, [], Anchored())
    evaluation = read_evaluation(table)
    entry = against(evaluation, ["ours"], ["theirs"])["ours"]["theirs"]
    assert entry["mae"]["n"] == 4
    assert entry["mae"]["value"] < 0
    assert entry["mae"]["high"] < 0
    assert 0 < entry["ratio"] < 1
    assert list(entry["suites"]) == ["s"]
    thirds = terciles(evaluation, ["ours"])["ours"]
    assert list(thirds) == ["first third", "middle third", "last third"]
    kinds = strata(evaluation, targets)["ours"]
    assert kinds["suite: s"]["n"] == 4
    assert kinds["shots: 0 shots"]["value"] == kinds["suite: s"]["value"]


def test_one_who_answers_nothing_takes_no_bands_from_the_others() -> None:
    silent = Shifted("silent", unknown=("t",))
    table = run_backtest([Shifted("ours"), Shifted("theirs"), silent], runs(3), [], Anchored())
    evaluation = read_evaluation(table)
    assert np.isnan(interval_scores(evaluation, "silent")).all()
    found = against(evaluation, ["ours"], ["theirs", "silent"])["ours"]
    assert list(found) == ["theirs"]
    assert found["theirs"]["wis"]["value"] == 0.0


def test_rankings_count_real_differences_within_folds_and_sizes() -> None:
    targets = runs(4)
    table = run_backtest([Shifted("ours")], targets, [], Anchored())
    evaluation = read_evaluation(table)
    found = rankings(evaluation, targets)
    assert found["by parameters"]["n"] == 6
    assert found["by parameters"]["value"] == 1.0  # finals grow with size here
    assert found["ours"]["value"] < 1.0  # every context ended at the same value
    folds = [[("f", "r0"), ("f", "r1")], [("f", "r2"), ("f", "r3")]]
    assert rankings(evaluation, targets, folds=folds)["ours"]["n"] == 2
    assert rankings(evaluation, targets, same_size=True)["ours"]["n"] == 0


def test_page_of_token_losses_says_what_the_intervals_say() -> None:
    def entry(value: float, low: float, high: float) -> dict[str, object]:
        return {
            "mae": {"value": 0.03, "low": 0.02, "high": 0.04},
            "minus_none": {"value": value, "low": low, "high": high},
            "n": 5,
        }

    entries = {
        "none, first text": entry(0, 0, 0),
        "mean, first text": entry(-0.01, -0.02, -0.005),
        "cnn, first text": entry(0.01, 0.005, 0.02),
        "cnn, second text": entry(-0.5, -0.6, -0.4),
        "sets, first text": entry(0.0, -0.01, 0.01),
        "persistence, first text": entry(0.02, 0.01, 0.03),
    }
    record = json.loads((ROOT / "docs/results/token_losses.json").read_text())
    page = render("token_losses", record=record | {"results": {"text": entries}})
    assert page.splitlines()[-1] == (
        "Better than accuracies alone: mean loss of the text; worse: CNN over words in order "
        "(published); no difference that these runs can show: mean losses of its sources."
    )
    row = "| mean loss of the text | first | 3.00 (2.00 to 4.00) | -1.00 (-2.00 to -0.50) | 5 |"
    assert row in page
