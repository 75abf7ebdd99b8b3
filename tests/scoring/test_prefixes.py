import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.scoring.engines.prefixes import computed_tokens, in_calls, sharing_order


def test_order_puts_prompts_of_one_beginning_together() -> None:
    a, b = list(range(8)), list(range(100, 108))
    prompts = [[*a, 1, 1], [*b, 2, 2], [*a, 0, 3], [*b, 1, 4], [*a, 1, 0]]
    assert sharing_order(prompts, [1] * 5, block=4) == [2, 4, 0, 3, 1]


def test_order_leaves_out_what_cannot_share() -> None:
    common = list(range(6))
    prompts = [
        [*common, 9],  # context of 6: with the last of it computed, one whole block of 4
        [*common, 8],
        [*common, 7, 7, 7],  # only 4 tokens of context are before the wanted ones
        [50, *common],  # alone
    ]
    assert sharing_order(prompts, [1, 1, 5, 1], block=4) == [1, 0]
    assert sharing_order(prompts, [1, 1, 5, 1], block=6) == []


def test_order_is_numeric_also_beyond_a_byte() -> None:
    prompts = [[7, 7, 300, 1], [7, 7, 2, 1], [7, 7, 70000, 1], [7, 7, 255, 1]]
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    assert sharing_order(arrays, [1] * 4, block=2) == [1, 3, 0, 2]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_calls_keep_order_and_bound(lengths: list[int], tokens: int) -> None:
    prompts = [[0] * length for length in lengths]
    order = list(range(len(prompts)))[::-1]
    calls = list(in_calls(order, prompts, tokens=tokens))
    assert [index for call in calls for index in call] == order
    for call in calls:
        assert len(call) == 1 or sum(lengths[index] for index in call) <= tokens


@pytest.mark.parametrize("n", [0, 1])
def test_order_of_nothing_to_share(n: int) -> None:
    assert sharing_order([[1, 2, 3, 4]] * n, [1] * n, block=2) == []


def test_computed_tokens_hand_worked() -> None:
    common = list(range(1, 10))
    prompts = [[*common, 20, 30], [*common, 21, 31], [*common, 21, 32, 33], [99]]
    # Blocks of 4. In order 0, 1, 2: 11 are computed, then 3 of 11 (8 are cached), then 4 of 12.
    assert computed_tokens(prompts, [1, 1, 2, 1], block=4) == 11 + 3 + 4 + 1
    # Of the third prompt 5 tokens are wanted: its first 8 are cached, but the eighth is wanted.
    # 4 are computed, and then all 12 again.
    assert computed_tokens(prompts, [1, 1, 5, 1], block=4) == 11 + 3 + (12 - 8) + 12 + 1
