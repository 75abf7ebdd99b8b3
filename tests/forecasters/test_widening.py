"""Intervals widened by the noise of evaluations: what is computed, and what is fitted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.forecasters.widening import SCALES, Widening, fit_widening, widen

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
Z = np.array([-1.6448536, -1.2815516, -0.6744898, 0.0, 0.6744898, 1.2815516, 1.6448536])


def test_widen_adds_scaled_distance_and_noise_in_squares() -> None:
    found = widen(np.array([[0.4, 0.5, 0.7]]), (0.1, 0.5, 0.9), np.array([0.02]), 0.5, 2.0)
    low, high = np.hypot(0.05, 2 * 1.2815516 * 0.02), np.hypot(0.1, 2 * 1.2815516 * 0.02)
    np.testing.assert_allclose(found, [[0.5 - low, 0.5, 0.5 + high]])


def test_widen_without_a_change_keeps_the_quantiles() -> None:
    quantiles = np.sort(np.random.default_rng(0).random((20, 7)), axis=1)
    kept = widen(quantiles, LEVELS, np.full(20, 0.05), 1.0, 0.0)
    np.testing.assert_allclose(kept, quantiles)


@given(
    st.lists(st.floats(0, 1), min_size=7, max_size=7), st.floats(0, 0.2), st.floats(0.1, 2),
    st.floats(0, 3),
)  # fmt: skip
def test_widen_never_crosses(row: list[float], noise: float, scale: float, share: float) -> None:
    quantiles = np.sort(np.array([row]), axis=1)
    found = widen(quantiles, LEVELS, np.array([noise]), scale, share)
    assert (np.diff(found) >= -1e-12).all()
    assert found[0, 3] == quantiles[0, 3]


def test_fit_widening_finds_that_the_network_ignores_noise() -> None:
    generator = np.random.default_rng(1)
    noise = generator.choice([0.01, 0.06], size=6000)
    outcomes = 0.5 + generator.normal(0, np.hypot(0.01, noise))
    quantiles = np.tile(0.5 + 0.03 * Z, (6000, 1))  # 0.03 everywhere
    found = fit_widening(quantiles, outcomes, noise, LEVELS, np.ones(6000))
    assert found.scale < 0.6
    assert found.share == pytest.approx(1.0, abs=0.25)
    moved = widen(quantiles, LEVELS, noise, found.scale, found.share)
    inside = (moved[:, 1] <= outcomes) & (outcomes <= moved[:, 5])
    for size in (0.01, 0.06):
        assert inside[noise == size].mean() == pytest.approx(0.8, abs=0.06)


def test_fit_widening_without_known_noise_only_scales() -> None:
    generator = np.random.default_rng(2)
    outcomes = 0.5 + generator.normal(0, 0.01, 3000)
    quantiles = np.tile(0.5 + 0.02 * Z, (3000, 1))
    found = fit_widening(quantiles, outcomes, np.zeros(3000), LEVELS, np.ones(3000))
    assert found.share == 0.0
    assert found.scale == pytest.approx(SCALES[np.argmin(abs(SCALES - 0.5))], rel=0.25)
    assert Widening() == Widening(scale=1.0, share=0.0)
