"""The anchored split, by hand."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.splits import MIN_CHECKPOINTS, Anchored, ByCompute
from neuneu.data.trajectories import Trajectory


def trajectory(steps: list[int]) -> Trajectory:
    n = len(steps)
    tokens = np.array(steps, dtype=float) * 100
    return Trajectory(
        family="f", suite="s", run="r", params=1e6, num_fewshot=0, task="t", metric="acc",
        steps=np.array(steps), tokens=tokens, flops=6e6 * tokens,
        values=np.linspace(0.2, 0.5, n), stderrs=np.full(n, np.nan),
        losses={"v": np.linspace(5, 3, n)},
    )  # fmt: skip


def test_anchored_eleven_checkpoints_with_step_zero_context_is_three() -> None:
    # Ten without step 0; int(0.2 x 10) = 2, so checkpoints 0, 1, 2 are the context.
    split = Anchored(fraction=0.2).split(trajectory(list(range(11))))
    assert split is not None
    context, targets = split
    assert context.steps.tolist() == [1, 2, 3]
    assert targets.steps.tolist() == list(range(4, 11))
    assert context.losses["v"].shape == (3,)


def test_anchored_short_trajectory_is_not_scored() -> None:
    assert Anchored().split(trajectory(list(range(1, MIN_CHECKPOINTS)))) is None
    assert Anchored().split(trajectory(list(range(1, MIN_CHECKPOINTS + 1)))) is not None


@given(n=st.integers(10, 200), fraction=st.floats(0.0, 0.99))
def test_anchored_context_and_targets_partition_the_trajectory(n: int, fraction: float) -> None:
    whole = trajectory(list(range(1, n + 1)))
    split = Anchored(fraction=fraction).split(whole)
    if split is None:
        assert int(fraction * n) + 1 >= n
        return
    context, targets = split
    assert len(context) == int(fraction * n) + 1
    np.testing.assert_array_equal(np.concatenate([context.values, targets.values]), whole.values)


def test_by_compute_context_is_what_lies_within_the_share_of_tokens() -> None:
    # Log-spaced checkpoints: 20 % of the tokens are most of the checkpoints.
    whole = trajectory([1, 2, 4, 8, 16, 32, 64, 128, 200, 300, 500, 1000])
    split = ByCompute(fraction=0.2).split(whole)
    assert split is not None
    context, targets = split
    assert context.steps.tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 200]
    assert targets.steps.tolist() == [300, 500, 1000]


def test_by_compute_goes_by_the_plan_where_there_is_one() -> None:
    whole = replace(trajectory(list(range(1, 13))), planned_tokens=2400.0)
    split = ByCompute(fraction=0.25).split(whole)
    assert split is not None
    assert split[0].steps.tolist() == [1, 2, 3, 4, 5, 6]


def test_by_compute_without_context_or_targets_is_not_scored() -> None:
    whole = trajectory(list(range(1, 13)))
    assert ByCompute(fraction=0.05).split(whole) is None
    assert ByCompute(fraction=0.5).split(replace(whole, planned_tokens=1e9)) is None
    assert ByCompute(fraction=0.5).split(whole.slice(0, MIN_CHECKPOINTS - 1)) is None
