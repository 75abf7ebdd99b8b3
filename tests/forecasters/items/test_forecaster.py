"""The forecaster: planted relatives, missing evidence, nothing of the future."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import pair_choices, scored_trajectory

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.combination import DEFAULT_WEIGHT, choose_weight, combine
from neuneu.forecasters.items.forecaster import ItemForecaster
from neuneu.forecasters.protocol import Forecaster, Query
from neuneu.forecasters.queries import query_at

TOKENS = np.geomspace(1e5, 1e7, 12)
N_ITEMS = 80


def _run(name: str, params: float, *, late: bool = True, task: str = "t") -> Trajectory:
    """A run in which the second half of the items turns right late, in every run alike."""
    generator = np.random.default_rng([len(name), len(task), ord(task[0])])
    progress = np.log(TOKENS / TOKENS[0])[:, None] / np.log(100.0)
    turn = np.concatenate([np.full(N_ITEMS // 2, 0.2), np.full(N_ITEMS // 2, 0.7 if late else 9.0)])
    margins = 4 * (progress - turn) + 0.3 * generator.normal(size=(len(TOKENS), N_ITEMS))
    choices = pair_choices(margins, tokens=TOKENS.tolist(), run=name, params=params, task=task)
    return scored_trajectory(choices)


def _query(trajectory: Trajectory, end: int) -> tuple[Query, FloatArray]:
    context = trajectory.slice(0, end)
    return query_at(context, trajectory.tokens[end:]), trajectory.values[end:]


RELATIVES = [_run("a" * n, 1e6 * n, task=task) for n in (1, 2, 3, 4) for task in ("t", "u")]


def test_relatives_tell_which_items_will_turn() -> None:
    query, truth = _query(_run("target", 2.5e6), 6)
    forecaster = ItemForecaster()
    forecaster.fit(RELATIVES)
    forecast = forecaster.forecast(query)
    assert forecast is not None
    np.testing.assert_allclose(forecast.quantiles[:, 3], truth, atol=0.08)
    flips = forecast.likely_flips(100)
    assert {doc for doc, _ in flips} <= set(range(N_ITEMS // 2, N_ITEMS))
    assert len(flips) > N_ITEMS // 4
    alone = ItemForecaster(sees="own")
    alone.fit(RELATIVES)
    unaware = alone.predict([query])[0][:, 3]
    assert np.abs(forecast.quantiles[:, 3] - truth).mean() < np.abs(unaware - truth).mean() / 2


def test_forecaster_keeps_its_protocol() -> None:
    forecaster: Forecaster = ItemForecaster()
    query, truth = _query(_run("target", 2.5e6), 5)
    forecaster.fit([])
    (alone,) = forecaster.predict([query])
    assert alone.shape == (len(truth), len(forecaster.levels))
    assert np.isfinite(alone).all()
    assert (np.diff(alone, axis=1) >= 0).all()


def test_without_choices_there_is_no_answer() -> None:
    target = _run("target", 2.5e6)
    bare, _ = _query(replace(target, choices=None), 5)
    other, _ = _query(replace(target, metric="pct_stereotype"), 5)
    unstarted = replace(bare, context=target.slice(0, 0))
    forecaster = ItemForecaster()
    forecaster.fit(RELATIVES)
    for answer in forecaster.predict([bare, other, unstarted]):
        assert np.isnan(answer).all()


def test_a_run_is_never_its_own_relative() -> None:
    target = _run("target", 2.5e6)
    query, _ = _query(target, 5)
    forecaster = ItemForecaster()
    forecaster.fit([target])
    assert forecaster.relatives(query) == []


def test_runs_on_other_items_are_no_relatives() -> None:
    forecaster = ItemForecaster()
    forecaster.fit([_run("a", 1e6, task="v")])
    query, _ = _query(_run("target", 2.5e6), 5)
    assert forecaster.relatives(query) == []


@given(st.integers(2, 10))
def test_nothing_after_the_context_changes_an_answer(end: int) -> None:
    same = _run("target", 2.5e6)
    changed_margins = pair_choices(
        np.where(
            np.arange(len(TOKENS))[:, None] < end,
            same.choices.logprobs[:, ::2] + 5,  # type: ignore[union-attr]
            -3.0,
        ),
        tokens=TOKENS.tolist(), run="target", params=2.5e6,
    )  # fmt: skip
    forecaster = ItemForecaster()
    forecaster.fit(RELATIVES)
    first, second = (
        forecaster.predict([_query(t, end)[0]])[0]
        for t in (same, scored_trajectory(changed_margins))
    )
    np.testing.assert_array_equal(first, second)


def test_the_order_of_items_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(N_ITEMS)

    def reordered(trajectory: Trajectory) -> Trajectory:
        assert trajectory.choices is not None
        margins = trajectory.choices.logprobs[:, ::2] + 5
        return scored_trajectory(
            pair_choices(
                margins[:, order], tokens=TOKENS.tolist(), run=trajectory.run,
                params=trajectory.params,
            )
        )  # fmt: skip

    runs = [_run("target", 2.5e6), _run("a", 1e6), _run("aa", 2e6)]
    answers = []
    for change in (lambda t: t, reordered):
        target, *relatives = map(change, runs)
        forecaster = ItemForecaster()
        forecaster.fit(relatives)
        answers.append(forecaster.predict([_query(target, 6)[0]])[0])
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_combination_is_the_weighted_mean_and_the_network_where_items_are_silent() -> None:
    network = np.array([[0.2, 0.4], [0.3, 0.5]])
    items = np.array([[0.4, 0.8], [np.nan, np.nan]])
    np.testing.assert_allclose(combine(network, items, 0.25), [[0.25, 0.5], [0.3, 0.5]])


def test_weight_is_what_finished_runs_say_shrunk_to_the_default() -> None:
    def answer(median: float) -> FloatArray:
        return np.full((1, 7), median)

    truths = [np.array([0.5])] * 6
    runs = ["a", "a", "b", "c", "d", "e"]
    good, bad = [answer(0.5)] * 6, [answer(0.9)] * 6
    assert choose_weight(bad, good, truths, runs) == pytest.approx((5 * 1 + 2 * DEFAULT_WEIGHT) / 7)
    assert choose_weight(good, bad, truths, runs) == pytest.approx(2 * DEFAULT_WEIGHT / 7)
    silent = [np.full((1, 7), np.nan)] * 6
    assert choose_weight(good, silent, truths, runs) == DEFAULT_WEIGHT
