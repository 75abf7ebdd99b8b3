"""First passage: three checkpoints whose mean is high enough."""

import numpy as np
import pytest

from neuneu.decisions.statistics import first_passage, reached_at, running_mean

TOKENS = np.array([4.0, 5.0, 6.0, 7.0])


def test_running_means_take_fewer_at_the_beginning() -> None:
    found = running_mean(np.array([0.3, 0.5, 0.4, 0.9]))
    np.testing.assert_allclose(found, [0.3, 0.4, 0.4, 0.6])


def test_one_lucky_checkpoint_is_not_a_level() -> None:
    past = np.array([0.3, 0.3, 0.3])
    lucky = np.array([[0.3, 0.45, 0.3, 0.3]])
    steady = np.array([[0.3, 0.45, 0.45, 0.45]])
    assert np.isinf(first_passage(past, TOKENS, lucky, 0.39).tokens).all()
    assert first_passage(past, TOKENS, steady, 0.39).tokens.tolist() == [6.0]


def test_the_past_belongs_to_the_first_means() -> None:
    # (0.5 + 0.5 + 0.2) / 3 = 0.4 already at the first place, reached with the past's help.
    found = first_passage(np.array([0.1, 0.5, 0.5]), TOKENS, np.array([[0.2, 0.2, 0.2, 0.2]]), 0.39)
    assert found.tokens.tolist() == [4.0]
    assert reached_at(np.array([0.1, 0.5, 0.6]), 0.4) == 2
    assert reached_at(np.array([0.1, 0.2]), 0.4) is None


def test_without_a_past_the_first_place_counts_alone() -> None:
    found = first_passage(np.zeros(0), TOKENS, np.array([[0.5, 0.1, 0.1, 0.1]]), 0.4)
    assert found.tokens.tolist() == [4.0]


def test_the_distribution_has_a_share_that_never_arrives() -> None:
    samples = np.array([[0.5] * 4, [0.3, 0.5, 0.5, 0.5], [0.3] * 4, [0.3] * 4])
    found = first_passage(np.full(2, 0.3), TOKENS, samples, 0.49)
    assert found.tokens.tolist() == [6.0, 7.0, np.inf, np.inf]
    assert found.never == 0.5
    assert found.by(6.0) == 0.25
    assert found.by(7.0) == pytest.approx(0.5)
    assert found.quantile(0.5) == 7.0
    assert np.isinf(found.quantile(0.9))
