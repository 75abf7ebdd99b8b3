"""Sampled futures: margins as forecast, checkpoints that move together as fitted."""

import numpy as np
import pytest

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import DataError, UserError
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.forecasters.copula import Joint, Scored, fit_joint, sample_futures, scores

X = np.linspace(20.0, 24.0, 30)
NORMAL = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])


def bands(n: int = 30, sd: float = 0.02) -> np.ndarray:
    return 0.4 + np.linspace(0.0, 0.1, n)[:, None] + sd * NORMAL


def sample(quantiles: np.ndarray, joint: Joint, *, count: int, seed: int = 0) -> np.ndarray:
    (drawn,) = sample_futures(
        [quantiles], FORECAST_LEVELS, [X], joint, trajectories=["a"], runs=["r"], tasks=["t"],
        count=count, seed=seed,
    )  # fmt: skip
    return drawn


def apart(z: np.ndarray, n: int) -> Scored:
    """Scores of n trajectories that share neither run nor task."""
    owner = np.repeat(np.arange(n), len(z) // n)
    return Scored(scores=z, x=np.tile(X, n), trajectories=owner, runs=owner, tasks=owner)


def test_margins_are_the_forecast_quantiles() -> None:
    joint = Joint(reach=1.0, noise=0.2)
    drawn = sample(bands(), joint, count=20_000)
    assert drawn.shape == (20_000, 30)
    found = np.quantile(drawn, FORECAST_LEVELS, axis=0).T
    np.testing.assert_allclose(found, bands(), atol=0.002)


def test_fit_recovers_what_moved_together() -> None:
    truth = Joint(reach=1.5, noise=0.3)
    y = sample(bands(), truth, count=600, seed=1).ravel()
    z = scores(np.tile(bands(), (600, 1)), FORECAST_LEVELS, y)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1.0, abs=0.06)
    found = fit_joint(apart(z, 600))
    assert found.noise == pytest.approx(0.3, abs=0.08)
    assert found.reach == pytest.approx(1.5, rel=0.3)
    assert build_config(Joint, config_to_dict(found)) == found


def test_independent_scores_have_nothing_in_common() -> None:
    z = np.random.default_rng(2).standard_normal(30 * 400)
    found = fit_joint(apart(z, 400))
    near = (1.0 - found.noise) * np.exp(-0.14 / found.reach)
    assert near < 0.05


def test_scores_of_outcomes_beyond_the_distribution_are_bounded() -> None:
    z = scores(bands(3), FORECAST_LEVELS, np.array([0.0, 0.45, 1.0]))
    assert z[0] == -2.6
    assert z[2] == 2.6
    assert np.isfinite(scores(np.full((1, 7), 0.5), FORECAST_LEVELS, np.array([0.5]))).all()


def test_samples_stay_accuracies_and_bad_records_are_refused() -> None:
    joint = Joint(reach=1.0, noise=0.0)
    wide = np.clip(0.05 + 0.5 * NORMAL[None, :].repeat(30, axis=0), 0.0, 1.0)
    drawn = sample(wide, joint, count=100)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    with pytest.raises(UserError, match="Joint: noise: Field required"):
        build_config(Joint, {"reach": 1.0})
    three = np.arange(3)
    with pytest.raises(DataError, match="two targets"):
        fit_joint(
            Scored(scores=np.zeros(3), x=np.zeros(3), trajectories=three, runs=three, tasks=three)
        )


def test_runs_and_tasks_share_what_was_fitted() -> None:
    """20 runs on 20 tasks, many times over: the fit finds the shares that were put in."""
    truth = Joint(reach=1.5, noise=0.3, run_share=0.2, task_share=0.25)
    side = 20
    runs, tasks = (codes.ravel() for codes in np.indices((side, side)))
    found: list[list[np.ndarray]] = [
        sample_futures(
            [bands()] * side**2, FORECAST_LEVELS, [X] * side**2, truth,
            trajectories=range(side**2), runs=runs.tolist(), tasks=tasks.tolist(), count=1,
            seed=seed,
        )
        for seed in range(10)
    ]  # fmt: skip
    y = np.concatenate([drawn[0] for world in found for drawn in world])
    worlds = np.repeat(np.arange(10), side**2)
    fitted = fit_joint(
        Scored(
            scores=scores(np.tile(bands(), (len(worlds), 1)), FORECAST_LEVELS, y),
            x=np.tile(X, len(worlds)),
            trajectories=np.repeat(np.arange(len(worlds)), len(X)),
            runs=np.repeat(worlds * side + np.tile(runs, 10), len(X)),
            tasks=np.repeat(worlds * side + np.tile(tasks, 10), len(X)),
        )
    )
    assert fitted.run_share == pytest.approx(0.2, abs=0.07)
    assert fitted.task_share == pytest.approx(0.25, abs=0.07)
    assert fitted.noise == pytest.approx(0.3, abs=0.08)
    assert build_config(Joint, config_to_dict(fitted)) == fitted


def test_shared_parts_correlate_futures_and_only_where_shared() -> None:
    joint = Joint(reach=2.0, noise=0.2, run_share=0.3, task_share=0.4)
    drawn = sample_futures(
        [bands()] * 4, FORECAST_LEVELS, [X, X, X + 0.01, X], joint, trajectories=range(4),
        runs=[0, 0, 1, 2], tasks=[0, 1, 0, 2], count=8000, seed=0,
    )  # fmt: skip
    ends = np.corrcoef([d[:, -1] for d in drawn])
    assert ends[0, 1] == pytest.approx(0.3, abs=0.05)
    assert ends[0, 2] == pytest.approx(0.4, abs=0.05)
    assert abs(ends[1, 2]) < 0.05
    assert abs(ends[0, 3]) < 0.05


def test_samples_of_a_query_do_not_depend_on_what_is_drawn_with_it() -> None:
    joint = Joint(reach=2.0, noise=0.2, run_share=0.3, task_share=0.4)

    def drawn(names: str, shift: float) -> dict[str, np.ndarray]:
        places = [X if name == "a" else X + shift for name in names]
        found = sample_futures(
            [bands()] * len(names), FORECAST_LEVELS, places, joint, trajectories=names,
            runs=names, tasks=["t"] * len(names), count=50, seed=4,
        )  # fmt: skip
        return dict(zip(names, found, strict=True))

    alone = drawn("a", 0.0)["a"]
    for names, shift in (("ab", 0.03), ("ba", -4.0), ("cab", 9.0)):
        np.testing.assert_allclose(drawn(names, shift)["a"], alone, rtol=1e-9)
    assert not np.allclose(drawn("ab", 0.0)["b"], alone)


def test_paths_that_runs_share_have_the_correlation_of_the_fit() -> None:
    """A task's share alone, so that correlations are exp(-d / reach) between two runs, too."""
    joint = Joint(reach=1.5, noise=0.0, task_share=1.0)
    drawn = sample_futures(
        [bands()] * 2, FORECAST_LEVELS, [X, X + 0.31], joint, trajectories="ab", runs="ab",
        tasks="tt", count=20_000, seed=0,
    )  # fmt: skip
    places = np.concatenate([X, X + 0.31])
    expected = np.exp(-np.abs(places[:, None] - places) / 1.5)
    found = np.corrcoef(np.concatenate(drawn, axis=1).T)
    np.testing.assert_allclose(found, expected, atol=0.04)


def test_records_without_shares_are_read() -> None:
    assert build_config(Joint, {"reach": 1.0, "noise": 0.2}).task_share == 0.0
