"""Conformal calibration: coverage is right, the run is the unit, and warnings are raised."""

import numpy as np
import pytest

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.errors import DataError, UserError
from neuneu.forecasters.calibration import (
    POOLED,
    Calibration,
    CalibrationSet,
    GroupAdjustment,
    calibrate,
    conformal_quantile,
    run_weights,
)

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def world(
    n_runs: int, *, seed: int, run_sd: float = 0.03, width: float = 0.02, group: str = "g"
) -> CalibrationSet:
    """Runs with a shared error each; the forecaster's bands are too narrow by far."""
    generator = np.random.default_rng(seed)
    outcomes, quantiles, runs, trajectories = [], [], [], []
    offsets = np.linspace(-width, width, len(LEVELS))
    for run in range(n_runs):
        shared = generator.normal(0, run_sd)
        for task in range(int(generator.integers(1, 12))):
            for _ in range(int(generator.integers(1, 6))):
                outcomes.append(0.5 + shared + generator.normal(0, 0.01))
                quantiles.append(0.5 + offsets)
                runs.append(run)
                trajectories.append(100 * run + task)
    return CalibrationSet(
        quantiles=np.array(quantiles),
        outcomes=np.array(outcomes),
        runs=np.array(runs),
        trajectories=np.array(trajectories),
        groups=np.full(len(runs), group),
    )


def covered(calibration: Calibration, fresh: CalibrationSet) -> float:
    """Coverage of the 80 % band as the summary counts it: runs weigh alike."""
    moved = calibration.apply(fresh.quantiles, fresh.groups.tolist())
    inside = (fresh.outcomes >= moved[:, 1]) & (fresh.outcomes <= moved[:, 5])
    weights, n = run_weights(fresh.runs, fresh.trajectories)
    return float((weights * inside).sum() * (n + 1) / n)


def fitted(known: CalibrationSet, *, surcharge: bool = True) -> Calibration:
    return calibrate(known, LEVELS, families=["f"], largest_params=1e9, surcharge=surcharge)


def test_too_narrow_bands_cover_after_calibration() -> None:
    fresh = world(400, seed=1)
    before = np.mean((fresh.outcomes >= 0.4867) & (fresh.outcomes <= 0.5133))
    assert before < 0.45
    rates = [covered(fitted(world(40, seed=seed)), fresh) for seed in range(10, 30)]
    assert 0.79 <= np.mean(rates) <= 0.88


def test_the_run_is_the_unit_not_the_target() -> None:
    """One run with a thousand targets must not drown nine others."""
    known = world(9, seed=2, run_sd=0.05)
    heavy = world(1, seed=3, run_sd=0.0)
    repeat = 1000 // len(heavy.outcomes) + 1
    joined = CalibrationSet(
        quantiles=np.concatenate([known.quantiles, np.tile(heavy.quantiles, (repeat, 1))]),
        outcomes=np.concatenate([known.outcomes, np.tile(heavy.outcomes, repeat)]),
        runs=np.concatenate([known.runs, np.full(repeat * len(heavy.outcomes), 99)]),
        trajectories=np.concatenate(
            [known.trajectories, 9900 + np.tile(heavy.trajectories, repeat)]
        ),
        groups=np.full(len(known.outcomes) + repeat * len(heavy.outcomes), "g"),
    )
    alone, together = fitted(known), fitted(joined)
    upper = LEVELS.index(0.9)
    assert together.groups[POOLED].shifts[upper] > 0.5 * alone.groups[POOLED].shifts[upper]


def test_without_the_surcharge_coverage_is_that_of_the_known_runs() -> None:
    known = world(40, seed=3)
    plain, careful = fitted(known, surcharge=False), fitted(known)
    assert covered(plain, known) == pytest.approx(0.8, abs=0.02)
    assert covered(careful, known) > covered(plain, known) + 0.02
    fresh = world(400, seed=1)
    rates = [covered(fitted(world(40, seed=s), surcharge=False), fresh) for s in range(10, 30)]
    assert 0.75 <= np.mean(rates) <= 0.82


def test_weights_of_runs_trajectories_and_targets() -> None:
    weights, n = run_weights(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 2]))
    assert n == 2
    np.testing.assert_allclose(weights, np.array([0.25, 0.25, 0.5, 1.0]) / 3)


def test_conformal_quantile_by_hand() -> None:
    scores, weights = np.array([3.0, 1.0, 2.0]), np.full(3, 0.25)
    assert conformal_quantile(scores, weights, 0.5) == (2.0, True)
    assert conformal_quantile(scores, weights, 0.75) == (3.0, True)
    assert conformal_quantile(scores, weights, 0.8) == (3.0, False)


@pytest.mark.parametrize("n", [40, 99, 137])
def test_one_target_a_run_is_what_crepes_says(n: int) -> None:
    """Then it is ordinary split conformal; a public library has to agree to the last digit."""
    crepes = pytest.importorskip("crepes")
    outcomes = np.random.default_rng(n).normal(0.5, 0.05, n)
    known = CalibrationSet(
        quantiles=np.tile(0.5 + np.linspace(-0.01, 0.01, 7), (n, 1)),
        outcomes=outcomes,
        runs=np.arange(n),
        trajectories=np.arange(n),
        groups=np.full(n, "g"),
    )
    moved = fitted(known).apply(known.quantiles[:1], ["g"])[0]
    system = crepes.ConformalPredictiveSystem().fit(residuals=outcomes - 0.5, seed=0)
    expected = system.predict_percentiles(
        np.array([0.5]), lower_percentiles=[5, 10, 25], higher_percentiles=[75, 90, 95]
    )[0]
    np.testing.assert_allclose(np.delete(moved, 3), expected, atol=1e-12)


def test_small_groups_use_all_and_say_so() -> None:
    big, small = world(30, seed=4, group="big"), world(4, seed=5, group="small")
    joined = CalibrationSet(
        quantiles=np.concatenate([big.quantiles, small.quantiles]),
        outcomes=np.concatenate([big.outcomes, small.outcomes]),
        runs=np.concatenate([big.runs, 100 + small.runs]),
        trajectories=np.concatenate([big.trajectories, 100_000 + small.trajectories]),
        groups=np.concatenate([big.groups, small.groups]),
    )
    calibration = fitted(joined)
    assert calibration.group("big") == "big"
    assert calibration.group("small") == calibration.group("unheard of") == POOLED
    assert calibration.warnings(family="f", params=1e9, group="small") == []


def test_warnings_are_raised() -> None:
    calibration = fitted(world(5, seed=6))
    warnings = calibration.warnings(family="new", params=7e9, group="g")
    assert [w.code for w in warnings] == ["unseen-family", "larger-model", "few-calibration-runs"]
    assert "family 'new'" in warnings[0].text
    assert "7e+09 parameters" in warnings[1].text
    assert "calibrated on 5 runs" in warnings[2].text
    assert not calibration.groups[POOLED].reached[LEVELS.index(0.95)]


def test_adjusted_quantiles_keep_their_promises() -> None:
    calibration = fitted(world(40, seed=7))
    generator = np.random.default_rng(0)
    quantiles = np.sort(generator.uniform(0, 1, (500, 7)), axis=1)
    moved = calibration.apply(quantiles, ["g"] * 500)
    assert (np.diff(moved, axis=1) >= 0).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    np.testing.assert_array_equal(moved[:, 3], quantiles[:, 3])


def test_round_trip_and_bad_input() -> None:
    import json

    calibration = fitted(world(12, seed=8))
    assert (
        build_config(Calibration, json.loads(json.dumps(config_to_dict(calibration))))
        == calibration
    )
    with pytest.raises(UserError, match="Calibration: groups: Field required"):
        build_config(Calibration, {"levels": []})
    empty = world(1, seed=9)
    empty.outcomes[0] = np.nan
    with pytest.raises(DataError, match="found NaN"):
        fitted(empty)


def test_no_forecasts_stay_none() -> None:
    adjusted = GroupAdjustment(shifts=(0.1, 0.0, 0.1), reached=(True,) * 3, n_runs=20)
    calibration = Calibration(
        levels=(0.1, 0.5, 0.9), groups={"all": adjusted}, families=("f",), largest_params=1e9
    )
    assert calibration.apply(np.zeros((0, 3)), []).shape == (0, 3)
