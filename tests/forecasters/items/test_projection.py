"""What is known without relatives: margins go on as they went."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import pair_choices, scored_trajectory

from neuneu.forecasters.items.courses import Course, at, course_of, recent_weights, slopes
from neuneu.forecasters.items.projection import ahead, project, projected_accuracy, shifted


def _course(margins: list[list[float]], tokens: list[float]) -> Course:
    found = course_of(scored_trajectory(pair_choices(margins, tokens=tokens)))
    assert found is not None
    return found


def test_margins_are_in_units_of_their_spread_at_the_last_checkpoint() -> None:
    course = _course([[1.0, 1.0], [3.0, -4.0]], [1e3, 2e3])
    spread = np.sqrt((9 + 16) / 2)
    np.testing.assert_allclose(course.margins, np.array([[1, 1], [3, -4]]) / spread, rtol=1e-6)
    np.testing.assert_array_equal(course.right, [[1, 1], [1, 0]])
    half = course.until(1)
    np.testing.assert_allclose(half.margins, [[1.0, 1.0]], rtol=1e-6)


def test_the_untrained_checkpoint_is_left_out() -> None:
    choices = pair_choices([[1.0], [2.0]], tokens=[0.0, 2e3])
    course = course_of(scored_trajectory(choices))
    assert course is not None
    assert len(course) == 1


def test_slope_of_a_line_is_found_up_to_its_shrinkage() -> None:
    ln_tokens = np.log(np.array([1e3, 2e3, 4e3, 8e3, 16e3]))
    line = (0.5 * ln_tokens)[:, None].astype(np.float32)
    weights = recent_weights(ln_tokens, 1.5)
    spread = weights @ (ln_tokens - weights @ ln_tokens) ** 2
    assert slopes(line, ln_tokens)[0] == pytest.approx(0.5 * spread / (spread + 0.05), rel=1e-4)
    assert slopes(line[:1], ln_tokens[:1])[0] == 0.0


def test_values_between_checkpoints_are_interpolated_in_ln_tokens() -> None:
    course = _course([[1.0, 1.0], [3.0, -4.0]], [1e3, 4e3])
    values = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(at(course, values, np.log(2e3)), [0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(at(course, values, np.log(9e9)), [1.0, 0.0])
    np.testing.assert_allclose(at(course, values, np.log(1.0)), [0.0, 1.0])


def test_rising_margins_near_zero_raise_the_accuracy_and_far_ones_do_not() -> None:
    tokens = [1e3, 2e3, 4e3, 8e3]
    rising = [[-0.8, 5.0], [-0.6, 5.0], [-0.4, 5.0], [-0.2, 5.0]]
    near = projected_accuracy(_course(rising, tokens), np.array([0.5, 2.0]))
    assert 0.5 < near[0] < near[1] < 1.0
    safe = [[-8.0, 5.0], [-7.8, 5.0], [-7.6, 5.0], [-7.4, 5.0]]
    far = projected_accuracy(_course(safe, tokens), np.array([0.5, 2.0]))
    np.testing.assert_allclose(far, 0.5, atol=0.01)


def test_constant_margins_stay_where_they_are() -> None:
    course = _course([[1.0, -1.0, 2.0]] * 4, [1e3, 2e3, 4e3, 8e3])
    np.testing.assert_allclose(projected_accuracy(course, np.array([0.1, 3.0])), 2 / 3, atol=1e-6)
    assert ahead(np.array([0.0]))[0] == 0.0
    assert ahead(np.array([1e6]))[0] == pytest.approx(2.0)


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=30),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3),
)
def test_shifted_probabilities_have_the_mean_and_keep_the_order(
    log_odds: list[float], means: list[float]
) -> None:
    table = np.tile(np.array(log_odds, np.float32), (len(means), 1))
    chances = shifted(table, np.array(means))
    np.testing.assert_allclose(chances.mean(axis=1, dtype=np.float64), means, atol=1e-4)
    order = np.argsort(table[0], kind="stable")
    assert (np.diff(chances[:, order], axis=1) >= 0).all()


def test_projection_of_one_checkpoint_is_its_margins() -> None:
    course = _course([[1.0, -1.0]], [1e3])
    np.testing.assert_allclose(project(course, np.array([1.0])), [[1.702, -1.702]], rtol=1e-5)
