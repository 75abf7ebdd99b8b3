import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuneu.ladder.config import checkpoint_steps
from neuneu.ladder.trainer import learning_rate


@given(st.integers(1, 20_000), st.integers(1, 60), st.integers(0, 59))
def test_checkpoint_steps_increase_from_zero_to_the_end(
    total_steps: int, checkpoints: int, early: int
) -> None:
    assume(early < checkpoints <= total_steps)
    steps = checkpoint_steps(total_steps, checkpoints, early)
    assert len(steps) == checkpoints + 1
    assert steps[0] == 0
    assert steps[-1] == total_steps
    assert all(earlier < later for earlier, later in itertools.pairwise(steps))


def test_checkpoint_steps_are_geometric_then_even() -> None:
    # 10 even ones, 24 steps apart; the early ones are 24^(1/5), 24^(2/5), ...
    assert checkpoint_steps(240, 14, 4) == (
        *(0, 2, 4, 7, 13),
        *(24, 48, 72, 96, 120, 144, 168, 192, 216, 240),
    )


@pytest.mark.parametrize(("total", "checkpoints", "early"), [(5, 6, 1), (10, 3, 3), (10, 3, -1)])
def test_checkpoint_steps_that_do_not_fit_are_refused(
    total: int, checkpoints: int, early: int
) -> None:
    with pytest.raises(ValueError, match=r"cannot hold|early_checkpoints"):
        checkpoint_steps(total, checkpoints, early)


def test_learning_rate_at_its_corners() -> None:
    rates = [
        learning_rate(step, 110, peak=1.0, warmup_steps=10, final_fraction=0.1)
        for step in range(1, 111)
    ]
    assert rates[4] == 0.5
    assert rates[9] == 1.0
    assert rates[59] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)


@given(st.integers(1, 500), st.floats(0, 0.99), st.floats(0, 1))
def test_learning_rate_rises_then_falls(
    total_steps: int, warmup_fraction: float, final: float
) -> None:
    warmup = int(warmup_fraction * total_steps)
    rates = [
        learning_rate(step, total_steps, peak=2.0, warmup_steps=warmup, final_fraction=final)
        for step in range(1, total_steps + 1)
    ]
    assert all(0 <= rate <= 2.0 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
