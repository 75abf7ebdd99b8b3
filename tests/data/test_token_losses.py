"""The error that storing token losses as float16 makes is bounded, also for extreme losses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import checkpoint_rows

from neuneu.core.errors import DataError
from neuneu.data.store.store import Store
from neuneu.data.token_losses import MAX_STORED_LOSS, check_stored, stored_losses
from neuneu.data.trajectories import TokenLossTable

# Everyday losses, those near 0 where float16 has fewer digits, and all others.
LOSSES = st.one_of(
    st.floats(0, 40),
    st.floats(0, 2.0**-13),
    st.floats(60_000, 70_000),
    st.floats(0, allow_infinity=False),
)


def bound(loss: float) -> float:
    return max(loss / 2048, 2.0**-25)


@given(st.lists(LOSSES, min_size=1, max_size=50))
def test_stored_losses_are_within_the_bound(losses: list[float]) -> None:
    stored = stored_losses(losses)
    assert stored.dtype == np.float16
    check_stored(stored, name="stored")
    for loss, found in zip(losses, stored.astype(float).tolist(), strict=True):
        assert abs(found - min(loss, MAX_STORED_LOSS)) <= bound(min(loss, MAX_STORED_LOSS))
    order = np.argsort(losses, kind="stable")
    assert (np.diff(stored[order].astype(float)) >= 0).all()
    np.testing.assert_array_equal(stored_losses(stored), stored)  # rounded once is rounded


def test_the_bound_is_reached() -> None:
    # Halfway between two neighbours: 11 significant bits from 1 on, steps of 2^-24 near 0.
    assert float(stored_losses([1 + 2.0**-11])[0]) == 1.0
    assert 2.0**-11 / (1 + 2.0**-11) > 0.999 / 2048
    assert float(stored_losses([2.0**-25])[0]) == 0.0
    # 65,504 is exact; from 65,520 on plain rounding would make it infinite.
    assert stored_losses([65_504, 65_519, 65_520, 3.4e38]).tolist() == [65_504.0] * 4
    assert stored_losses([-1e-7, -0.0, 0.0]).tolist() == [0.0] * 3
    assert stored_losses(np.array([[0.5], [8.003]], np.float32)).tolist() == [[0.5], [8.0]]


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_losses_that_are_no_numbers_are_refused(loss: float) -> None:
    with pytest.raises(DataError, match=f"expected finite numbers, found {loss};"):
        stored_losses([1.0, loss])


@pytest.mark.parametrize("loss", [65_520.0, -1.0, np.inf, np.nan])
def test_a_store_refuses_losses_that_float16_does_not_hold(tmp_path: Path, loss: float) -> None:
    store = Store(tmp_path)
    store.bind({})
    rows = checkpoint_rows()
    wrong = [row | {"losses": [1.0, loss, 2.0]} for row in rows.token_losses]
    with pytest.raises(DataError, match=r"token losses of .*from 0 to 65,504 nats, found"):
        store.commit(replace(rows, token_losses=wrong))
    assert store.checkpoints().num_rows == 0


def test_a_store_returns_the_stored_losses_bit_by_bit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.bind({})
    rows = checkpoint_rows()
    usual = np.random.default_rng(0).gamma(2, 3, 500)
    losses = stored_losses([*usual, 0, 1e-9, 1e9])
    row = rows.token_losses[0] | {"count": len(losses), "losses": losses}
    store.commit(replace(rows, token_losses=[row]))
    table = TokenLossTable.from_table(store.token_losses())
    assert table is not None
    np.testing.assert_array_equal(table.matrix[0].view(np.uint16), losses.view(np.uint16))
