"""Worth of evaluations against what linear Gaussian theory says."""

import numpy as np
import pytest

from neuneu.decisions.statistics import weigh

COUNT = 200_000


def draws(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, COUNT))


def test_narrowing_is_that_of_the_correlation() -> None:
    z = draws(0, 2)
    final = 0.5 + 0.02 * z[:1]
    seen = np.stack([0.6 * z[0] + 0.8 * z[1], z[1]])
    found = weigh(final, seen, np.array([0, 0]))
    assert found.narrowing[0] == pytest.approx(0.2, abs=0.01)  # 1 - sqrt(1 - 0.36)
    assert found.narrowing[1] == pytest.approx(0.0, abs=0.001)
    np.testing.assert_array_equal(found.value, 0.0)


def test_value_of_seeing_one_of_two_equal_runs_is_the_normal_partial_expectation() -> None:
    z = draws(1, 2)
    final = 0.5 + 0.02 * z
    found = weigh(final, final, np.array([0, 1]))
    # E max(0, 0.02 Z) = 0.02 / sqrt(2 pi)
    np.testing.assert_allclose(found.value, 0.02 / np.sqrt(2 * np.pi), rtol=0.03)


def test_a_run_that_cannot_win_is_not_worth_evaluating() -> None:
    z = draws(2, 3)
    final = np.array([[0.50], [0.49], [0.30]]) + 0.02 * z
    found = weigh(final, final, np.array([0, 1, 2]))
    assert found.value[2] < 1e-6 < found.value[1]
    assert found.narrowing[2] == pytest.approx(1.0, abs=1e-6)


def test_an_evaluation_that_shows_nothing_new_is_worth_nothing() -> None:
    final = 0.5 + 0.02 * draws(3, 1)
    found = weigh(final, np.full((1, COUNT), 0.4), np.array([0]))
    assert found.narrowing[0] == 0.0


def test_where_no_value_seen_would_change_the_choice_it_gains_exactly_nothing() -> None:
    # Not 1e-17 of rounding, by which answers would be in another order on another machine.
    final = np.array([[0.80], [0.62], [0.55]]) + 0.002 * draws(4, 3)
    seen = final + 0.003 * draws(5, 3)
    np.testing.assert_array_equal(weigh(final, seen, np.arange(3)).value, 0.0)
