"""The correction of the width: planted errors are mended, few runs change little."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planted import LEVELS, NOISE

from neuneu.data.arrays import FloatArray
from neuneu.forecasters.self_calibration.correction import (
    LARGEST_SCALE,
    NARROWING,
    Correction,
    Outcomes,
    fit_correction,
)

Z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def outcomes(
    n_runs: int,
    *,
    below: float = 1.0,
    above: float = 1.0,
    late: float = 1.0,
    second_task: float = 1.0,
    seed: int = 0,
) -> Outcomes:
    """Normal outcomes on two tasks, with quantiles too wide by factors below and above the median.

    Noise is `late` times as large in the last tenth, and `second_task` times on the second task.
    """
    generator = np.random.default_rng(seed)
    run, task, place = (
        grid.ravel() for grid in np.mgrid[0:n_runs, 0:2, 0:40]
    )  # fmt: skip
    progress = (place + 1) / 40
    noise = NOISE * np.where(progress >= 0.9, late, 1.0) * np.where(task == 1, second_task, 1.0)
    return Outcomes(
        levels=LEVELS,
        keys=(("t0", "acc", 0), ("t1", "acc", 0)),
        quantiles=np.tile(0.5 + NOISE * Z * np.where(Z < 0, below, above), (len(run), 1)),
        outcomes=0.5 + noise * generator.standard_normal(len(run)),
        progress=progress,
        runs=run,
        trajectories=2 * run + task,
        tasks=task,
    )


def coverage(quantiles: FloatArray, y: FloatArray) -> FloatArray:
    """(7,) shares of outcomes below each quantile."""
    return np.asarray((y[:, None] <= quantiles).mean(axis=0))


@pytest.mark.parametrize(("below", "above"), [(3.0, 3.0), (0.4, 0.4), (2.5, 0.5), (1.0, 1.0)])
def test_planted_errors_of_the_width_are_mended(below: float, above: float) -> None:
    known, new = (outcomes(40, below=below, above=above, seed=seed) for seed in (0, 1))
    found = coverage(fit_correction(known).apply_to(new), new.outcomes)
    np.testing.assert_allclose(found, LEVELS, atol=0.05)
    if below != 1.0:
        before = coverage(new.quantiles, new.outcomes)
        assert np.abs(before - LEVELS).max() > 0.1


@pytest.mark.parametrize(
    ("n_runs", "least", "most"), [(2, 0.0, 0.1), (3, 0.1, 0.3), (8, 0.85, 1.0), (20, 0.95, 1.05)]
)
def test_few_runs_change_little_and_eight_almost_all(
    n_runs: int, least: float, most: float
) -> None:
    found = fit_correction(outcomes(n_runs, below=3.0, above=3.0))
    for log_scale in (found.below, found.above):
        assert least < log_scale / -np.log(3.0) < most


def test_width_follows_the_way_and_the_task() -> None:
    known = outcomes(40, late=3.0)
    found = fit_correction(known)
    late = known.progress >= 0.9
    plain = replace(found, slope_below=0.0, slope_above=0.0)
    for correction, least, most in ((found, 0.7, 0.85), (plain, 0.2, 0.62)):
        corrected = correction.apply_to(known)[late]
        y = known.outcomes[late]
        assert least < np.mean((y >= corrected[:, 1]) & (y <= corrected[:, 5])) < most
    by_task = fit_correction(outcomes(40, second_task=0.3)).tasks
    assert by_task["t1", "acc", 0] < -0.5 < 0.3 < by_task["t0", "acc", 0]


def test_the_order_of_targets_and_the_codes_of_runs_change_nothing() -> None:
    known = outcomes(6, below=2.0, above=0.7)
    order = np.random.default_rng(3).permutation(len(known))
    shuffled = known.take(order)
    renamed = replace(shuffled, runs=10 - shuffled.runs, trajectories=99 - shuffled.trajectories)
    first, second = fit_correction(known), fit_correction(renamed)
    assert first.tasks == pytest.approx(second.tasks)
    for name in ("below", "above", "slope_below", "slope_above", "middle", "n_runs"):
        assert getattr(first, name) == pytest.approx(getattr(second, name))


def test_larger_runs_get_less_of_the_narrowing_and_all_of_the_widening() -> None:
    for factor, share in ((3.0, NARROWING), (0.4, 1.0)):
        known = outcomes(20, below=factor, above=factor)
        for_equal, for_larger = (fit_correction(known, larger=larger) for larger in (False, True))
        widths = [
            np.log(np.ptp(c.apply_to(known)[:, [1, 5]], axis=1)) for c in (for_equal, for_larger)
        ]
        before = np.log(np.ptp(known.quantiles[:, [1, 5]], axis=1))
        assert np.mean(widths[1] - before) == pytest.approx(
            share * np.mean(widths[0] - before), rel=0.02
        )


factors = st.floats(-5.0, 5.0)


@given(
    arrays(np.float64, (4, 7), elements=st.floats(0.0, 1.0)),
    st.builds(
        Correction, below=factors, above=factors, slope_below=factors, slope_above=factors,
        middle=st.floats(0.0, 1.0),
    ),
    arrays(np.float64, 4, elements=st.floats(0.0, 1.0)),
    factors,
)  # fmt: skip
def test_corrected_quantiles_are_quantiles_with_the_same_median(
    quantiles: FloatArray, correction: Correction, progress: FloatArray, task: float
) -> None:
    given_ = np.sort(quantiles, axis=1)
    found = correction.apply(given_, LEVELS, progress, task)
    assert (np.diff(found, axis=1) >= 0.0).all()
    assert ((found >= 0.0) & (found <= 1.0)).all()
    np.testing.assert_array_equal(found[:, 3], given_[:, 3])
    width = LARGEST_SCALE * (given_ - given_[:, [3]])
    assert (np.abs(found - given_[:, [3]]) <= np.abs(width) + 1e-12).all()
