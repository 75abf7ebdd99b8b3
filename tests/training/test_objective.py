"""Scores that training minimises: hand-worked, proper, and weighted without changing the scale."""

import numpy as np
import pytest
import torch

from neuneu.training.objective import ObjectiveConfig, log_score, objective, sample_weights

LEVELS = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
QUANTILES = torch.tensor([[0.2, 0.28, 0.3, 0.35, 0.5]], dtype=torch.float64)


def density(y: np.ndarray) -> np.ndarray:
    outcomes = torch.from_numpy(y)
    rows = QUANTILES.expand(len(y), -1)
    return np.exp(-log_score(rows, outcomes, LEVELS).numpy())


def test_density_integrates_to_one_with_the_quantiles_in_place() -> None:
    y = np.linspace(-3, 4, 700_001)
    mass = np.cumsum(density(y)) * (y[1] - y[0])
    assert mass[-1] == pytest.approx(1.0, abs=1e-4)
    for level, quantile in zip(LEVELS.tolist(), QUANTILES[0].tolist(), strict=True):
        assert np.interp(quantile, y, mass) == pytest.approx(level, abs=2e-4)


def test_log_score_hand_worked() -> None:
    inside = torch.tensor([0.29], dtype=torch.float64)  # a quarter of the mass on 0.02
    assert log_score(QUANTILES, inside, LEVELS).item() == pytest.approx(-np.log(0.25 / 0.02))
    # Below 0.2: density starts as that of the next interval, 0.15 / 0.08, and falls at
    # that rate over the tail's mass of 0.1.
    below = torch.tensor([0.15], dtype=torch.float64)
    start = 0.15 / 0.08
    expected = np.log(start) - start / 0.1 * 0.05
    assert log_score(QUANTILES, below, LEVELS).item() == pytest.approx(-expected)


@pytest.mark.parametrize(
    "settings", [{}, {"tails": 0.5}, {"score": "log"}], ids=["pinball", "tails", "log"]
)
def test_scores_are_proper(settings: dict[str, object]) -> None:
    generator = np.random.default_rng(0)
    truth = torch.from_numpy(generator.normal(0.4, 0.05, 40_000))
    normal = torch.tensor([-1.2816, -0.6745, 0.0, 0.6745, 1.2816], dtype=torch.float64)
    config = ObjectiveConfig(**settings)  # type: ignore[arg-type]

    def score(mean: float, deviation: float) -> float:
        rows = (mean + deviation * normal).expand(len(truth), -1)
        return objective(config, rows, truth, LEVELS)[0].mean().item()

    best = score(0.4, 0.05)
    for mean, deviation in ((0.41, 0.05), (0.39, 0.05), (0.4, 0.03), (0.4, 0.08)):
        assert best < score(mean, deviation)


def test_tails_weigh_outer_levels_up_and_report_plain_pinball() -> None:
    far = torch.tensor([0.9], dtype=torch.float64)
    plain, same = objective(ObjectiveConfig(), QUANTILES, far, LEVELS)
    assert plain.item() == same.item()
    heavy, reported = objective(ObjectiveConfig(tails=1.0), QUANTILES, far, LEVELS)
    assert reported.item() == plain.item()
    weight = 1 / (LEVELS * (1 - LEVELS))
    expected = (LEVELS * (0.9 - QUANTILES[0]) * weight / weight.mean()).mean()
    assert heavy.item() == pytest.approx(expected.item())


def test_weights_have_mean_one_and_the_right_order() -> None:
    ahead, noise = np.array([0.0, 0.1, 1.0, 4.0]), np.array([0.001, 0.01, 0.02, 0.04])
    np.testing.assert_array_equal(sample_weights(ObjectiveConfig(), ahead, noise), 1.0)
    near = sample_weights(ObjectiveConfig(horizon=0.5), ahead, noise)
    assert near.mean() == pytest.approx(1.0)
    assert near[0] == near[1] > near[2] > near[3]
    clean = sample_weights(ObjectiveConfig(noise=1.0), ahead, noise)
    np.testing.assert_allclose(clean / clean[3], [4.0, 4.0, 2.0, 1.0], rtol=1e-6)


def test_weights_have_mean_one_over_the_targets_that_there_are() -> None:
    ahead, there = np.array([[0.5, np.nan], [2.0, 4.0]]), np.array([[True, False], [True, True]])
    noise = np.array([[0.02], [0.05]])
    found = sample_weights(ObjectiveConfig(horizon=0.5, noise=1.0), ahead, noise, there)
    assert found[there].mean() == pytest.approx(1.0)
    assert np.isfinite(found).all()
