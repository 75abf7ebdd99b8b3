"""Sampled futures: margins as forecast, checkpoints that move together as fitted."""

import numpy as np
import pytest

from neuneu.errors import DataError
from neuneu.joint import Joint, fit_joint, sample_futures, scores
from neuneu.quantiles import FORECAST_LEVELS

X = np.linspace(20.0, 24.0, 30)
NORMAL = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])


def bands(n: int = 30, sd: float = 0.02) -> np.ndarray:
    return 0.4 + np.linspace(0.0, 0.1, n)[:, None] + sd * NORMAL


def test_margins_are_the_forecast_quantiles() -> None:
    joint = Joint(reach=1.0, noise=0.2)
    drawn = sample_futures(
        bands(), FORECAST_LEVELS, X, joint, count=20_000, generator=np.random.default_rng(0)
    )
    assert drawn.shape == (20_000, 30)
    found = np.quantile(drawn, FORECAST_LEVELS, axis=0).T
    np.testing.assert_allclose(found, bands(), atol=0.002)


def test_fit_recovers_what_moved_together() -> None:
    truth = Joint(reach=1.5, noise=0.3)
    generator = np.random.default_rng(1)
    outcomes = [
        sample_futures(bands(), FORECAST_LEVELS, X, truth, count=1, generator=generator)[0]
        for _ in range(600)
    ]
    y = np.concatenate(outcomes)
    z = scores(np.tile(bands(), (600, 1)), FORECAST_LEVELS, y)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1.0, abs=0.06)
    found = fit_joint(z, np.tile(X, 600), np.repeat(np.arange(600), 30))
    assert found.noise == pytest.approx(0.3, abs=0.08)
    assert found.reach == pytest.approx(1.5, rel=0.3)
    assert Joint.from_json(found.to_json()) == found


def test_independent_scores_have_nothing_in_common() -> None:
    z = np.random.default_rng(2).standard_normal(30 * 400)
    found = fit_joint(z, np.tile(X, 400), np.repeat(np.arange(400), 30))
    near = (1.0 - found.noise) * np.exp(-0.14 / found.reach)
    assert near < 0.05


def test_scores_of_outcomes_beyond_the_distribution_are_bounded() -> None:
    z = scores(bands(3), FORECAST_LEVELS, np.array([0.0, 0.45, 1.0]))
    assert z[0] == -2.6
    assert z[2] == 2.6
    assert np.isfinite(scores(np.full((1, 7), 0.5), FORECAST_LEVELS, np.array([0.5]))).all()


def test_samples_stay_accuracies_and_bad_records_are_refused() -> None:
    joint = Joint(reach=1.0, noise=0.0)
    generator = np.random.default_rng(0)
    wide = np.clip(0.05 + 0.5 * NORMAL[None, :].repeat(30, axis=0), 0.0, 1.0)
    drawn = sample_futures(wide, FORECAST_LEVELS, X, joint, count=100, generator=generator)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    with pytest.raises(DataError, match="not a joint distribution"):
        Joint.from_json({"reach": 1.0})
    with pytest.raises(DataError, match="two targets"):
        fit_joint(np.zeros(3), np.zeros(3), np.arange(3))
