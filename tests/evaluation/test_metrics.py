"""Scores of forecasts against numbers worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from forecasts import trajectory
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.ranking import comparable_pairs, finals, pair_scores, value_noise
from neuneu.evaluation.aggregation import RunBootstrap, trajectory_means
from neuneu.evaluation.metrics import (
    absolute_error,
    inside_interval,
    interval_score,
    mean_pinball,
    shared_levels,
    weighted_interval_score,
)

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def test_absolute_error_is_symmetric_and_keeps_nan() -> None:
    error = absolute_error(np.array([0.5, 0.5, np.nan]), np.array([0.7, 0.3, 0.3]))
    np.testing.assert_allclose(error, [0.2, 0.2, np.nan])


def test_mean_pinball_by_hand() -> None:
    # 0.1 x 0.4, 0.5 x 0.2 below the outcome; 0.1 x 0.2 above it: 0.16 / 3.
    loss = mean_pinball(np.array([[0.2, 0.4, 0.8]]), np.array([0.6]), (0.1, 0.5, 0.9))
    np.testing.assert_allclose(loss, [(0.04 + 0.1 + 0.02) / 3])


def test_interval_score_penalises_misses_by_two_over_alpha() -> None:
    lower, upper = np.full(3, 0.2), np.full(3, 0.4)
    score = interval_score(lower, upper, np.array([0.3, 0.1, 0.5]), alpha=0.2)
    np.testing.assert_allclose(score, [0.2, 0.2 + 10 * 0.1, 0.2 + 10 * 0.1])


def test_weighted_interval_score_by_hand() -> None:
    # 50 % band 0.4-0.6 (alpha 0.5): 0.2 + 4 x 0.1 = 0.6; 80 % band 0.3-0.8 (alpha 0.2): 0.5.
    # (0.5 x 0.2 + 0.25 x 0.6 + 0.1 x 0.5) / 2.5 = 0.3 / 2.5.
    quantiles = np.array([[0.3, 0.4, 0.5, 0.6, 0.8]])
    np.testing.assert_allclose(weighted_interval_score(quantiles, np.array([0.7]), LEVELS), 0.12)


@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5).map(sorted),
    st.floats(0, 1),
)
def test_weighted_interval_score_is_twice_the_mean_pinball(values: list[float], y: float) -> None:
    # Bracher et al. (2021), section 2.2: WIS is the pinball loss averaged over the 2K + 1 levels,
    # doubled.
    quantiles, outcome = np.array([values]), np.array([y])
    np.testing.assert_allclose(
        weighted_interval_score(quantiles, outcome, LEVELS),
        2.0 * mean_pinball(quantiles, outcome, LEVELS),
        atol=1e-12,
    )


def test_weighted_interval_score_of_a_point_is_its_absolute_error() -> None:
    point = np.full((1, 5), 0.5)
    np.testing.assert_allclose(weighted_interval_score(point, np.array([0.8]), LEVELS), 0.3)
    np.testing.assert_allclose(
        weighted_interval_score(np.array([[0.5]]), np.array([0.8]), (0.5,)), 0.3
    )


def test_weighted_interval_score_unpaired_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.9"):
        weighted_interval_score(np.zeros((1, 2)), np.zeros(1), (0.5, 0.9))


def test_inside_interval_counts_the_bounds_and_keeps_nan() -> None:
    lower, upper = np.array([0.2, 0.2, 0.2, np.nan]), np.array([0.4, 0.4, 0.4, 0.4])
    inside = inside_interval(lower, upper, np.array([0.2, 0.4, 0.41, 0.3]))
    np.testing.assert_array_equal(inside, [1.0, 1.0, 0.0, np.nan])


def test_shared_levels_ignores_point_forecasters_and_drops_unpaired_levels() -> None:
    assert shared_levels([(0.5,), (0.1, 0.25, 0.5, 0.9), (0.05, 0.1, 0.5, 0.9)]) == (0.1, 0.5, 0.9)
    assert shared_levels([(0.5,)]) == (0.5,)


def test_trajectory_means_part_answered_is_unanswered() -> None:
    items = np.array([[1.0], [3.0], [np.nan], [5.0]])
    means = trajectory_means(items, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_array_equal(means, [[2.0], [np.nan], [np.nan]])


def test_bootstrap_value_is_the_plain_mean_and_lies_inside() -> None:
    values = np.random.default_rng(0).normal(size=(200, 2))
    group = np.repeat(np.arange(20), 10)
    for column, estimate in enumerate(RunBootstrap(samples=500).means(values, group)):
        assert estimate.value == pytest.approx(values[:, column].mean())
        assert estimate.low < estimate.value < estimate.high


def test_bootstrap_interval_comes_from_runs_not_from_trajectories() -> None:
    # Within a run all trajectories agree: a thousand of them say no more than ten.
    level = np.array([0.0, 1.0, 2.0, 3.0])
    few, many = np.repeat(level, 10)[:, None], np.repeat(level, 1000)[:, None]
    bootstrap = RunBootstrap(samples=2000, seed=3)
    (of_few,) = bootstrap.means(few, np.repeat(np.arange(4), 10))
    (of_many,) = bootstrap.means(many, np.repeat(np.arange(4), 1000))
    assert (of_few.low, of_few.high) == (of_many.low, of_many.high)
    # The mean of 4 of {0, 1, 2, 3}: its standard error is sqrt(1.25 / 4) = 0.56.
    assert of_few.high - of_few.low == pytest.approx(2 * 1.96 * 0.559, rel=0.15)


def test_bootstrap_one_run_has_no_interval() -> None:
    (estimate,) = RunBootstrap().means(np.array([[1.0], [3.0]]), np.array([7, 7]))
    assert estimate.value == 2.0
    assert np.isnan([estimate.low, estimate.high]).all()


def test_bootstrap_nan_is_left_out_of_value_and_count() -> None:
    values = np.array([[1.0], [np.nan], [3.0], [5.0]])
    (estimate,) = RunBootstrap(samples=200).means(values, np.array([0, 0, 1, 2]))
    assert estimate.value == 3.0
    assert 1.0 <= estimate.low <= estimate.high <= 5.0


def test_bootstrap_same_seed_same_interval_other_seed_another() -> None:
    values, group = np.random.default_rng(1).normal(size=(50, 1)), np.arange(50) % 10
    first, again, other = (RunBootstrap(seed=s).means(values, group)[0] for s in (0, 0, 1))
    assert first == again
    assert first.low != other.low


def test_mean_of_means_weighs_parts_alike() -> None:
    values, part = np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1])
    estimate = RunBootstrap(samples=200).mean_of_means(values, np.arange(4), part)
    assert estimate.value == 3.0


def test_ranking_finals_are_the_mean_and_spread_of_the_last_three() -> None:
    y = np.array([0.9, 0.1, 0.2, 0.3, 0.5, 0.6])
    truth = finals(y, np.array([0, 4]), np.array([4, 6]))
    np.testing.assert_allclose(truth.final, [0.2, np.nan])
    np.testing.assert_allclose(truth.noise, [0.1, np.nan])


def test_ranking_noise_is_the_standard_error_else_the_scatter_around_neighbours() -> None:
    generator = np.random.default_rng(0)
    tokens = 1e9 * np.arange(1.0, 4001.0)
    line = 0.2 + 0.1 * np.log(tokens / 1e9) / 9.0
    noisy = trajectory(line + 0.01 * generator.standard_normal(4000), tokens=tokens)
    assert value_noise(noisy) == pytest.approx(0.01, rel=0.05)
    assert value_noise(trajectory(line, tokens=tokens)) < 1e-6
    assert np.isnan(value_noise(noisy.slice(0, 9)))
    known = replace(noisy, stderrs=np.where(np.arange(4000) < 3999, np.nan, 0.03))
    assert value_noise(known) == pytest.approx(0.03)
    truth = finals(np.array([0.1, 0.2, 0.3]), np.array([0]), np.array([3]), np.array([0.5]))
    np.testing.assert_allclose(truth.noise, [0.5])


def test_ranking_only_real_differences_of_other_runs_count() -> None:
    # Noise 0.01 each: joint 0.0141, so that finals must differ by more than 0.0283.
    y = np.concatenate([0.01 * np.array([-1, 0, 1]) + final for final in (0.50, 0.52, 0.55, 0.90)])
    starts = np.arange(0, 12, 3)
    truth = finals(y, starts, starts + 3)
    first, second = comparable_pairs(truth, np.zeros(4, dtype=int), np.array([0, 1, 2, 2]))
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [
        (0, 2), (0, 3), (1, 2), (1, 3),
    ]  # fmt: skip
    apart, _ = comparable_pairs(truth, np.arange(4), np.arange(4))
    assert len(apart) == 0


def test_ranking_scores_right_wrong_tie_and_unanswered() -> None:
    y = np.repeat([0.1, 0.5], 3)
    truth = finals(y, np.array([0, 3]), np.array([3, 6]))
    one, two = np.array([0]), np.array([1])
    for forecast, expected in (
        ((0.1, 0.2), 1.0), ((0.2, 0.1), 0.0), ((0.2, 0.2), 0.5), ((np.nan, 0.2), np.nan),
    ):  # fmt: skip
        np.testing.assert_equal(pair_scores(truth, np.array(forecast), one, two), [expected])


def test_pair_mean_two_runs_have_no_interval_three_have() -> None:
    bootstrap = RunBootstrap(samples=500)
    alone = bootstrap.pair_mean(np.array([1.0, 0.0]), np.array([0, 0]), np.array([1, 1]), 2)
    assert alone.value == 0.5
    assert np.isnan(alone.low)
    three = bootstrap.pair_mean(
        np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1]), np.array([1, 2, 2]), 3
    )
    assert three.value == pytest.approx(2 / 3)
    assert three.low == 0.0
    assert three.high == 1.0
