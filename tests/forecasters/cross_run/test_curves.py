"""Curves on the grid of ln tokens: values, alignment, and what a sparse or noisy run becomes."""

import numpy as np
import pytest
from curves import trajectory

from neuneu.core.errors import DataError
from neuneu.forecasters.cross_run.curves import (
    GRID_SIZE,
    GRID_START,
    GRID_STEP,
    Codes,
    at,
    build_curves,
    first_below,
)


def test_sparse_points_stay_as_they_are() -> None:
    values = [0.2, 0.5, 0.4, 0.6]
    curves = build_curves([trajectory(values, steps=[100, 1000, 10_000, 1_000_000])], Codes())
    found = at(curves.grid, np.zeros(4, int), curves.x[:-1])
    # A grid cell is a tenth wide: a point lies up to half a cell from the next node.
    np.testing.assert_allclose(found, values, atol=0.01)


def test_dense_noise_is_averaged_and_its_scatter_known() -> None:
    steps = np.arange(1000, 3000, 2)
    noise = np.random.default_rng(0).normal(0, 0.02, len(steps))
    curves = build_curves([trajectory(0.5 + noise, steps=steps.tolist())], Codes())
    inside = at(curves.grid, np.zeros(5, int), np.log(np.array([12, 15, 18, 22, 26]) * 1e5))
    assert np.abs(inside - 0.5).max() < 0.01
    assert curves.noise[0] == pytest.approx(0.02, rel=0.1)


def test_beyond_the_ends_values_are_held() -> None:
    curves = build_curves([trajectory([0.2, 0.4, 0.6], steps=[100, 200, 300])], Codes())
    found = at(curves.grid, np.zeros(2, int), np.array([GRID_START, GRID_START + 20.0]))
    np.testing.assert_allclose(found, [0.2, 0.6], atol=1e-6)


def test_first_below_finds_where_a_loss_was_reached() -> None:
    axis = GRID_START + GRID_STEP * np.arange(GRID_SIZE)
    grid = (10.0 - 0.25 * (axis - axis[0]))[None].astype(np.float32)
    level = np.array([8.0, 9.99, -5.0], dtype=np.float32)
    found = first_below(grid, np.zeros(3, int), level)
    np.testing.assert_allclose(found[:2], axis[0] + np.array([8.0, 0.04]), atol=1e-3)
    assert np.isnan(found[2])


def test_a_validation_set_that_was_not_measured_is_not_the_one_that_is_read() -> None:
    """As where it is logged only after the cut: `lambada_openai` comes first, were it known."""
    unknown = np.full(3, np.nan)
    known = {"lambada_openai": unknown, "v": np.array([3.0, 2.5, 2.0])}
    curves = build_curves([trajectory([0.1, 0.2, 0.3], losses=known)], Codes())
    np.testing.assert_array_equal(curves.losses[:-1], [3.0, 2.5, 2.0])
    without = trajectory([0.1, 0.2, 0.3], losses={"v": unknown})
    assert np.isnan(build_curves([without], Codes()).losses).all()


def test_step_zero_and_codes() -> None:
    codes = Codes()
    first = build_curves([trajectory([0.1, 0.2, 0.3], steps=[0, 1, 2])], codes)
    assert first.lengths.tolist() == [2]
    second = build_curves([trajectory([0.1, 0.2]), trajectory([0.1, 0.2], run="other")], codes)
    assert second.runs[0] == first.runs[0] != second.runs[1]
    assert (second.cells == first.cells[0]).all()


def test_tokens_must_be_positive() -> None:
    from dataclasses import replace

    broken = replace(trajectory([0.1, 0.2]), tokens=np.array([-1.0, 2.0]))
    with pytest.raises(DataError, match="positive token counts"):
        build_curves([broken], Codes())
