"""Ranking from joint samples, by hand-worked numbers."""

import numpy as np
import pytest

from neuneu.decisions.statistics import rank

FINAL = np.array([
    [0.5, 0.6, 0.5, 0.4],
    [0.4, 0.7, 0.5, 0.3],
    [0.1, 0.1, 0.1, 0.1],
])  # fmt: skip


def test_probabilities_are_counts_of_samples_and_ties_count_half() -> None:
    found = rank(FINAL)
    np.testing.assert_allclose(found.beats, [[0.5, 0.625, 1], [0.375, 0.5, 1], [0, 0, 0.5]])
    np.testing.assert_allclose(found.best, [0.625, 0.375, 0.0])
    assert found.best.sum() == pytest.approx(1.0)


def test_regret_is_what_hindsight_would_have_gained() -> None:
    found = rank(FINAL)
    np.testing.assert_allclose(found.regret, [0.025, 0.05, 0.425])
    assert found.order == (0, 1, 2)


def test_shared_noise_makes_a_small_lead_certain() -> None:
    generator = np.random.default_rng(0)
    shared = 0.05 * generator.standard_normal(4000)
    apart = 0.05 * generator.standard_normal((2, 4000))
    together = rank(np.stack([0.51 + shared, 0.50 + shared]))
    alone = rank(np.array([[0.51], [0.50]]) + apart)
    assert together.beats[0, 1] == 1.0
    assert 0.5 < alone.beats[0, 1] < 0.62
