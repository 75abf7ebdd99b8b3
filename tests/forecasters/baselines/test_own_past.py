"""Recent mean, line and parametric curves: each recovers what it assumes."""

import numpy as np
import pytest
from curves import ask, trajectory

from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.baselines.parametric import CURVES, ParametricEnsemble, fit_curve


def test_recent_mean_is_that_of_three() -> None:
    (answer,) = make_forecaster("recent-mean").predict(
        [ask(trajectory([0.9, 0.1, 0.2, 0.3, 0]), 4)]
    )
    np.testing.assert_allclose(answer, [[0.2]])


def test_line_in_log_tokens_is_recovered() -> None:
    values = 0.1 + 0.05 * np.log(np.arange(1, 31))
    (answer,) = make_forecaster("log-token-line").predict([ask(trajectory(values), 10)])
    np.testing.assert_allclose(answer[:, 0], values[10:], atol=1e-9)


def test_line_stays_within_bounds_and_one_point_is_carried_on() -> None:
    steep = trajectory([0.1, 0.9, 0.9, 0.9], steps=[1, 2, 1000, 100_000])
    (answer,) = make_forecaster("log-token-line").predict([ask(steep, 2)])
    np.testing.assert_array_equal(answer, 1.0)
    (answer,) = make_forecaster("log-token-line").predict([ask(steep, 1)])
    np.testing.assert_array_equal(answer, 0.1)


@pytest.mark.parametrize("name", ["recent-mean", "log-token-line", "parametric-ensemble"])
def test_empty_context_is_unanswered(name: str) -> None:
    (answer,) = make_forecaster(name).predict([ask(trajectory([0.1, 0.2]), 0)])
    assert np.isnan(answer).all()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_each_curve_fits_itself(curve) -> None:
    x = np.linspace(0.5, 10.0, 30)
    truth = np.array(curve.start)
    y = curve.value(x, truth)
    found, _ = fit_curve(curve, x, y)
    np.testing.assert_allclose(curve.value(x, found), y, atol=2e-3)


def test_ensemble_extrapolates_a_power_law_better_than_persistence() -> None:
    values = 0.7 - 0.4 * np.arange(1, 61) ** -0.4
    query = ask(trajectory(values), 15)
    (answer,) = ParametricEnsemble().predict([query])
    error = np.abs(answer[:, 0] - values[15:]).mean()
    assert error < 0.25 * np.abs(values[14] - values[15:]).mean()


def test_ensemble_of_a_short_context_is_persistence() -> None:
    (answer,) = ParametricEnsemble().predict([ask(trajectory([0.1, 0.2, 0.3, 0.4, 0.5]), 4)])
    np.testing.assert_array_equal(answer, [[0.4]])
