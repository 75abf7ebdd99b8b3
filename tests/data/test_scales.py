"""Ranges of metrics, and the map of each onto the unit scale and back."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.core.errors import UserError
from neuneu.data.load import load_dataset
from neuneu.data.scales import EDGE, FRACTION, SCALES, Scale, scale_of

LEVELS = (0.1, 0.5, 0.9)


def test_bits_per_byte_are_the_mean_probability_of_a_byte() -> None:
    bpb = scale_of("bpb")
    assert bpb.to_unit(np.array([0.0, 1.0, 2.0])).tolist() == [1.0, 0.5, 0.25]
    assert bpb.from_unit(np.array([1.0, 0.5, 0.25])).tolist() == [0.0, 1.0, 2.0]
    assert np.isfinite(bpb.from_unit(np.array([0.0])))[0]
    soft_log = scale_of("soft_log")
    np.testing.assert_allclose(soft_log.to_unit(np.log([0.25, 0.5])), [0.25, 0.5])


def test_accuracies_and_unknown_metrics_are_fractions() -> None:
    assert scale_of("acc_norm") is FRACTION
    assert scale_of("exact_match:strict-match") is FRACTION
    values = np.array([0.0, 0.3, 1.0, np.nan])
    np.testing.assert_array_equal(FRACTION.to_unit(values), values)


def test_a_task_table_decides_the_direction() -> None:
    error = scale_of("error_rate", higher_is_better=False)
    assert error.to_unit(np.array([0.0, 0.25])).tolist() == [1.0, 0.75]
    assert scale_of("brier").to_unit(np.array([0.0, 0.5, 2.0])).tolist() == [1.0, 0.75, 0.0]


@given(st.sampled_from(sorted(SCALES)), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_maps_are_monotone_and_inverted(metric: str, first: float, second: float) -> None:
    scale = SCALES[metric]
    units = np.array([first, second])
    values = scale.from_unit(units)
    np.testing.assert_allclose(scale.to_unit(values), units, atol=1e-9)
    if abs(first - second) > 1e-6:
        better = scale.oriented(values)
        assert (better[0] > better[1]) == (first > second)
    assert all(value in scale for value in values)


def test_quantiles_of_a_falling_metric_change_sides() -> None:
    bpb = scale_of("bpb")
    units = np.array([[0.25, 0.5, 0.75]])
    values = bpb.quantiles_from_unit(units, LEVELS)
    assert (np.diff(values) > 0).all()
    assert values[0, 1] == 1.0
    assert values[0, 2] == 2.0
    np.testing.assert_allclose(bpb.quantiles_to_unit(values, LEVELS), units)
    with pytest.raises(ValueError, match=r"expected 0.9 among them"):
        bpb.quantiles_from_unit(units[:, :2], (0.1, 0.5))


def test_standard_errors_go_through_the_slope() -> None:
    bpb = scale_of("bpb")
    width = bpb.unit_width(np.array([1.0]), np.array([0.01]))
    np.testing.assert_allclose(width, [0.01 * np.log(2.0) / 2.0], rtol=1e-4)
    assert Scale(high=np.inf, higher_is_better=False).to_unit(np.array([1e9]))[0] == EDGE


def rows(metric: str, *values: float) -> dict:
    n = len(values)
    return {
        "run": ["r"] * n, "task": ["arc_easy"] * n, "metric": [metric] * n,
        "value": list(values), "tokens": [1e9 * (i + 1) for i in range(n)],
    }  # fmt: skip


def test_tables_hold_metrics_in_their_units_and_check_their_bounds() -> None:
    (t,) = load_dataset(rows("bpb", 3.5, 1.2)).trajectories
    assert t.values.tolist() == [3.5, 1.2]
    assert (t.chance, t.scale) == (None, SCALES["bpb"])
    mapped = t.on_unit_scale()
    assert mapped.values.tolist() == pytest.approx([2**-3.5, 2**-1.2])
    assert mapped.on_unit_scale() is mapped
    with pytest.raises(UserError, match=r"value is -0.5; expected bpb in \[0, inf\]"):
        load_dataset(rows("bpb", 1.0, -0.5))
    with pytest.raises(UserError, match=r"value is 3.5; expected a fraction in \[0, 1\]"):
        load_dataset(rows("acc", 0.5, 3.5))


LOSSES = {
    "family": ["unknown"] * 4, "suite": ["table"] * 4, "run": ["r"] * 4, "params": [1e8] * 4,
    "num_fewshot": [0] * 4, "step": [1000, 2000] * 2, "tokens": [1e9, 2e9] * 2,
    "flops": [None] * 4, "name": ["arc_easy_bpb"] * 2 + ["c4"] * 2,
    "metric": ["bpb"] * 2 + ["cross_entropy_loss"] * 2, "value": [1.5, 1.25, 3.0, 2.5],
}  # fmt: skip


def test_a_metric_of_the_loss_table_is_forecast_where_it_is_asked_for() -> None:
    losses = pa.table(
        {k: pa.array(v, pa.float64() if k == "flops" else None) for k, v in LOSSES.items()}
    )
    accuracies = rows("acc", 0.3, 0.4) | {"planned_tokens": [5e9, 5e9]}
    assert len(load_dataset(accuracies, losses=losses).trajectories) == 1
    data = load_dataset(accuracies, losses=losses, metric="bpb")
    (t,) = data.of_metric("bpb").trajectories
    assert (t.task, t.values.tolist(), t.planned_tokens) == ("arc_easy", [1.5, 1.25], 5e9)
    assert "bpb" not in t.signals
    with pytest.raises(UserError, match=r"expected rows of metric 'nll_gold', found .*bpb"):
        load_dataset(accuracies, losses=losses, metric="nll_gold")
