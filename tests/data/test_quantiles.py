"""The one pinball loss, by hand."""

import numpy as np
import torch

from neuneu.data.quantiles import FORECAST_LEVELS, column, pinball, pinball_torch


def test_pinball_hand_worked_values() -> None:
    # y = 0.6: at level 0.9, q = 0.5 is 0.1 too low -> 0.9 x 0.1; at 0.1, q = 0.8 is 0.2 too high
    # -> 0.9 x 0.2; at the median half the absolute error.
    loss = pinball(np.array([[0.8, 0.5, 0.5]]), np.array([0.6]), np.array([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(loss, [[0.18, 0.05, 0.09]], atol=1e-12)


def test_pinball_minimised_at_the_empirical_quantile() -> None:
    sample = np.random.default_rng(0).normal(size=4001)
    grid = np.linspace(-2, 2, 401)
    for level in (0.1, 0.5, 0.9):
        loss = [pinball(np.full((4001, 1), q), sample, np.array([level])).mean() for q in grid]
        best = grid[int(np.argmin(loss))]
        assert abs(best - np.quantile(sample, level)) < 0.011


def test_pinball_torch_gradient_is_level_minus_indicator() -> None:
    predicted = torch.tensor([[0.2, 0.9]], requires_grad=True)
    levels = torch.tensor([0.25, 0.75])
    pinball_torch(predicted, torch.tensor([0.5]), levels).sum().backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.tensor([[-0.25, 0.25]]))


def test_column_names_are_those_of_the_contract() -> None:
    assert [column(level) for level in FORECAST_LEVELS] == [
        "q0.05", "q0.1", "q0.25", "q0.5", "q0.75", "q0.9", "q0.95",
    ]  # fmt: skip
