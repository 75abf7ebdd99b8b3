"""Baselines that read finished runs: analogue, loss laws, boosted trees."""

from dataclasses import replace

import numpy as np
import pytest
from curves import ask, trajectory
from forecasting.boosted import BoostedQuantiles

from neuneu.core.errors import DataError
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.baselines.logistic import logistic
from neuneu.forecasters.baselines.loss_law import fit_loss_law, loss_law

LAW = np.array([np.log(400.0), np.log(900.0), np.log(1.7), 0.34, 0.37])
ACCURACY = np.array([-0.6, 0.8, 4.0, 1.2])
STEPS = np.geomspace(1e3, 1e6, 24).round().astype(int)


def ladder(sizes: list[float]) -> list[Trajectory]:
    """Runs whose loss follows one law of N and D, and whose accuracy follows the loss."""
    runs = []
    for size in sizes:
        loss = loss_law(LAW, size, STEPS * 1e3)
        values = logistic(np.log(loss), ACCURACY)
        run = trajectory(values, steps=STEPS.tolist(), run=f"{size:g}", losses={"v": loss})
        runs.append(replace(run, params=size))
    return runs


def test_loss_law_is_recovered() -> None:
    sizes = np.repeat([1e6, 1e7, 1e8], 20)
    tokens = np.tile(np.geomspace(1e7, 1e10, 20), 3)
    law = fit_loss_law(sizes, tokens, loss_law(LAW, sizes, tokens))
    assert law is not None
    np.testing.assert_allclose(loss_law(law, 1e9, tokens), loss_law(LAW, 1e9, tokens), rtol=0.02)
    assert fit_loss_law(sizes[:5], tokens[:5], np.ones(5)) is None


@pytest.mark.parametrize("name", ["ladder-law", "logistic-forecast"])
def test_law_without_an_oracle_finds_a_larger_run(name: str) -> None:
    *references, target = ladder([1e6, 3e6, 1e7, 3e7, 3e8])
    forecaster = make_forecaster(name)
    assert forecaster.sees == "reference"
    forecaster.fit(references)
    (answer,) = forecaster.predict([ask(target, 10)])
    error = np.abs(answer[:, 0] - target.values[10:]).mean()
    assert error < 0.3 * np.abs(target.values[9] - target.values[10:]).mean()


def test_offset_is_fitted_on_the_own_past() -> None:
    references = ladder([1e6, 1e7, 1e8])
    (target,) = ladder([3e7])
    target = replace(target, values=target.values + 0.05)
    plain, shifted = make_forecaster("logistic-law"), make_forecaster("logistic-offset")
    query = replace(ask(target, 8), future_losses={"v": target.losses["v"][8:]})
    answers = []
    for forecaster in (plain, shifted):
        forecaster.fit(references)
        answers.append(forecaster.predict([query])[0][:, 0])
    np.testing.assert_allclose(answers[0], target.values[8:] - 0.05, atol=5e-3)
    np.testing.assert_allclose(answers[1], target.values[8:], atol=5e-3)


def test_law_without_past_losses_is_unanswered() -> None:
    forecaster = make_forecaster("ladder-law")
    forecaster.fit(ladder([1e6, 1e7]))
    (target,) = ladder([1e8])
    (answer,) = forecaster.predict([ask(replace(target, losses={}), 8)])
    assert np.isnan(answer).all()


def test_analogue_adds_the_change_of_the_closest_run() -> None:
    n = 30
    near = replace(trajectory(np.linspace(0.2, 0.5, n), run="near"), params=2e6)
    far = replace(trajectory(np.linspace(0.2, 0.9, n), run="far"), params=1e9)
    target = trajectory(np.full(n, 0.4), run="target")
    forecaster = make_forecaster("nearest-analogue")
    forecaster.fit([far, near])
    (answer,) = forecaster.predict([ask(target, 10)])
    expected = 0.4 + near.values[10:] - near.values[9]
    np.testing.assert_allclose(answer[:, 0], expected, atol=0.01)
    forecaster.fit([replace(near, task="other")])
    assert np.isnan(forecaster.predict([ask(target, 10)])[0]).all()


def test_boosted_trees_learn_from_other_runs() -> None:
    pytest.importorskip("sklearn")
    runs = ladder([1e6, 3e6, 1e7, 3e7, 1e8])
    forecaster = BoostedQuantiles(questions=1500, iterations=40)
    with pytest.raises(DataError, match="call `train` first"):
        forecaster.predict([ask(runs[0], 8)])
    forecaster.train(runs[:4])
    forecaster.fit(runs[:4])
    (answer,) = forecaster.predict([ask(runs[4], 8)])
    assert answer.shape == (16, 7)
    assert (np.diff(answer, axis=1) >= 0).all()
    error = np.abs(answer[:, 3] - runs[4].values[8:]).mean()
    persistence = np.abs(runs[4].values[7] - runs[4].values[8:]).mean()
    assert error < 0.5 * persistence
    alone = BoostedQuantiles(sees="own", questions=1500, iterations=40)
    alone.train(runs[:4])
    alone.fit(runs[:4])
    (answer,) = alone.predict([ask(runs[4], 8)])
    assert np.abs(answer[:, 3] - runs[4].values[8:]).mean() < persistence
