"""From items to accuracies: moments, regression, uncertainty."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.forecasters.items.logistic import Rows, fit_logistic, probabilities
from neuneu.forecasters.items.model import Case, ItemModel, accuracy_moments, fit_model


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=7))
def test_moments_are_those_of_all_outcomes(chances: list[float]) -> None:
    mean, variance = accuracy_moments(np.array([chances], np.float32))
    total = square = 0.0
    for outcome in itertools.product((0, 1), repeat=len(chances)):
        weight = float(np.prod([p if o else 1 - p for p, o in zip(chances, outcome, strict=True)]))
        total += weight * np.mean(outcome)
        square += weight * np.mean(outcome) ** 2
    assert mean[0] == pytest.approx(total, abs=1e-6)
    assert variance[0] == pytest.approx(square - total**2, abs=1e-6)


def test_items_that_are_sure_have_less_noise_than_a_binomial() -> None:
    sure = np.array([[1.0, 1.0, 0.0, 0.0]], np.float32)
    even = np.full((1, 4), 0.5, np.float32)
    assert accuracy_moments(sure)[0] == accuracy_moments(even)[0]
    assert accuracy_moments(sure)[1][0] == 0.0
    assert accuracy_moments(even)[1][0] == pytest.approx(0.25 / 4)


def test_regression_on_a_constant_is_the_log_odds_of_the_share() -> None:
    rows = Rows(
        features=np.ones((400, 1), np.float32),
        outcomes=np.array([1] * 300 + [0] * 100, np.float32),
        weights=np.ones(400, np.float32),
    )
    found = fit_logistic(rows, prior=np.zeros(1), precision=np.full(1, 1e-6))
    assert found[0] == pytest.approx(np.log(3.0), abs=1e-3)
    prior = fit_logistic(rows, prior=np.full(1, 5.0), precision=np.full(1, 1e9))
    assert prior[0] == pytest.approx(5.0, abs=1e-3)


def test_regression_recovers_planted_coefficients() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20_000, 3)).astype(np.float32)
    planted = np.array([1.0, -0.5, 0.0])
    y = (generator.random(len(x)) < probabilities(x, planted)).astype(np.float32)
    rows = Rows(features=x, outcomes=y, weights=np.ones(len(x), np.float32))
    found = fit_logistic(rows, prior=np.zeros(3), precision=np.full(3, 1.0))
    np.testing.assert_allclose(found, planted, atol=0.06)


def _cases(shift: float, generator: np.random.Generator) -> list[Case]:
    """Runs whose tasks all differ by a shift that no feature tells."""
    cases = []
    for run in "abcdefgh":
        for _ in range(10):
            margin = generator.normal(size=(3, 200)).astype(np.float32)
            together = shift * generator.normal()
            right = (margin + together + 0.5 * generator.normal(size=margin.shape) > 0).astype(
                np.float32
            )
            features = np.stack([np.ones_like(margin), margin], axis=2)
            cases.append(
                Case(run=run, features=features, right=right, distances=np.array([0.1, 0.5, 1.0]))
            )
    return cases


def test_intervals_are_as_wide_as_the_error_that_items_share() -> None:
    generator = np.random.default_rng(1)
    narrow = fit_model(_cases(0.0, generator))
    wide = fit_model(_cases(0.5, generator))
    assert sum(narrow.spread) < 1e-3
    assert sum(wide.spread) > 5e-3
    inside = []
    for case in _cases(0.5, generator):
        quantiles = wide.quantiles(wide.probabilities(case.features), case.distances)
        truth = case.right.mean(axis=1)
        inside += [(quantiles[:, 1] <= truth) & (truth <= quantiles[:, 5])]
    assert 0.7 < np.mean(inside) < 0.9


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20),
    st.floats(0, 0.05),
    st.floats(0, 3),
)
def test_quantiles_are_ordered_and_within_bounds(
    chances: list[float], spread: float, distance: float
) -> None:
    model = ItemModel(coefficients=np.zeros(0), spread=(spread, spread))
    quantiles = model.quantiles(np.array([chances], np.float32), np.array([distance]))
    assert quantiles.shape == (1, len(FORECAST_LEVELS))
    assert (np.diff(quantiles) >= 0).all()
    assert quantiles.min() >= 0
    assert quantiles.max() <= 1
