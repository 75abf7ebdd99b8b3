import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.scoring.engines.packing import Prompts
from neuneu.scoring.engines.prefixes import computed_tokens, in_calls, sharing_order


def order(prompts: list[list[int]], last: list[int], *, block: int) -> list[int]:
    rows, _ = sharing_order(Prompts.of(prompts, last), block=block)
    return [int(row) for row in rows]


def test_order_puts_prompts_of_one_beginning_together() -> None:
    a, b = list(range(8)), list(range(100, 108))
    prompts = [[*a, 1, 1], [*b, 2, 2], [*a, 0, 3], [*b, 1, 4], [*a, 1, 0]]
    assert order(prompts, [1] * 5, block=4) == [2, 4, 0, 3, 1]


def test_order_leaves_out_what_cannot_share() -> None:
    common = list(range(6))
    prompts = [
        [*common, 9],  # context of 6: with the last of it computed, one whole block of 4
        [*common, 8],
        [*common, 7, 7, 7],  # only 4 tokens of context are before the wanted ones
        [50, *common],  # alone
    ]
    assert order(prompts, [1, 1, 5, 1], block=4) == [1, 0]
    assert order(prompts, [1, 1, 5, 1], block=6) == []


def test_order_is_numeric_also_beyond_a_byte() -> None:
    prompts = [[7, 7, 300, 1], [7, 7, 2, 1], [7, 7, 70000, 1], [7, 7, 255, 1]]
    assert order(prompts, [1] * 4, block=2) == [1, 3, 0, 2]


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_calls_keep_order_and_bound(lengths: list[int], tokens: int) -> None:
    rows = np.arange(len(lengths))[::-1]
    calls = list(in_calls(rows, np.array(lengths, np.int64)[rows], tokens=tokens))
    assert [row for call in calls for row in call.tolist()] == rows.tolist()
    for call in calls:
        assert len(call) == 1 or sum(lengths[row] for row in call.tolist()) <= tokens


@pytest.mark.parametrize("n", [0, 1])
def test_order_of_nothing_to_share(n: int) -> None:
    assert order([[1, 2, 3, 4]] * n, [1] * n, block=2) == []


def test_computed_tokens_hand_worked() -> None:
    common = list(range(1, 10))
    prompts = [[*common, 20, 30], [*common, 21, 31], [*common, 21, 32, 33], [99, 98]]
    # Blocks of 4. In order 0, 1, 2: 11 are computed, then 3 of 11 (8 are cached), then 4 of 12.
    joined = Prompts.of(prompts, [1, 1, 2, 1])
    assert computed_tokens(joined, block=4) == 11 + 3 + 4 + 2
    # Of the third prompt 5 tokens are wanted: its first 8 are cached, but the eighth is wanted.
    # 4 are computed, and then all 12 again.
    joined = Prompts.of(prompts, [1, 1, 5, 1])
    assert computed_tokens(joined, block=4) == 11 + 3 + (12 - 8) + 12 + 2
