"""Plans of packed prompts, checked by following every token's ancestors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuneu.scoring.engines.packing import Forward, Prompts, packed_tokens, plan


def tokens(random: np.random.Generator, n: int) -> list[int]:
    return random.integers(0, 50, n).tolist()


def read(forward: Forward, row: int) -> list[int]:
    """The tokens that a packed token attends to, and itself."""
    unit = int(np.searchsorted(forward.starts, row, side="right")) - 1
    own = range(int(forward.starts[unit]), row + 1)
    seen = [j for j in own if row < forward.ends[j]]
    for start, stop, trunks in forward.below:
        if start <= row < stop:
            seen = [j for a, b in trunks for j in range(a, b)] + seen
    assert forward.positions[seen].tolist() == list(range(len(seen)))
    return [int(token) for token in forward.tokens[seen]]


def check(prompts: Prompts, forwards: list[Forward]) -> None:
    """Every scored token is the target of one row that has read exactly what precedes it."""
    offsets = prompts.results
    found = np.zeros(int(prompts.last.sum()), np.int64)
    for forward in forwards:
        assert (np.diff(forward.sources) >= 0).all()
        for source, target, result in zip(
            forward.sources, forward.targets, forward.results, strict=True
        ):
            found[result] += 1
            i = int(np.searchsorted(offsets, result, side="right")) - 1
            at = len(prompts[i]) - int(prompts.last[i]) + int(result - offsets[i])
            assert read(forward, int(forward.rows[source])) == prompts[i][:at].tolist()
            assert target == prompts[i][at]
    assert (found == 1).all()


PROMPT = st.tuples(st.lists(st.integers(0, 2), min_size=2, max_size=12), st.integers(1, 11))


@given(st.lists(PROMPT, max_size=12), st.integers(1, 40))
def test_plan_of_small_trees(asked: list[tuple[list[int], int]], batch_tokens: int) -> None:
    prompts = Prompts.of([p for p, _ in asked], [min(n, len(p) - 1) for p, n in asked])
    forwards = plan(prompts, batch_tokens=batch_tokens)
    check(prompts, forwards)
    computed = sum(len(forward.tokens) for forward in forwards)
    assert computed == packed_tokens(prompts, batch_tokens=batch_tokens) <= len(prompts.tokens)


@pytest.mark.parametrize("batch_tokens", [64, 2000, 10**6])
def test_plan_of_few_shot_tasks_with_nested_trunks(batch_tokens: int) -> None:
    random = np.random.default_rng(0)
    prompts, last = [], []
    outer = tokens(random, 40)
    for _ in range(2):
        trunk = outer + tokens(random, 60)
        for _ in range(15):
            question = trunk + tokens(random, int(random.integers(0, 30)))
            for n in (1, 1, 4, 9):
                prompts.append(question + tokens(random, n))
                last.append(n)
    prompts += [tokens(random, 70), tokens(random, 2)]
    last += [69, 1]
    joined = Prompts.of(prompts, last)
    forwards = plan(joined, batch_tokens=batch_tokens)
    check(joined, forwards)
    largest = max(len(forward.tokens) for forward in forwards)
    assert largest <= max(batch_tokens, 8 * 100 + 100)
    if batch_tokens == 10**6:
        (forward,) = forwards
        # Each beginning once, each question once.
        assert sorted(len(trunks) for *_, trunks in forward.below) == [1, 2, 2]
        assert len(forward.tokens) < 0.2 * len(joined.tokens)


def test_choices_of_one_token_share_a_row() -> None:
    joined = Prompts.of([[5, 6, 7, n] for n in range(4)], [1] * 4)
    (forward,) = plan(joined, batch_tokens=100)
    assert (len(forward.rows), forward.targets.tolist()) == (1, [0, 1, 2, 3])
    assert forward.tokens.tolist() == [5, 6, 7, 0, 1, 2, 3]


def test_what_is_scored_is_no_trunk() -> None:
    # All tokens are scored: windows of a text with the same beginning share nothing that pays.
    random = np.random.default_rng(0)
    same = tokens(random, 200)
    joined = Prompts.of([same + tokens(random, 200) for _ in range(9)])
    (forward,) = plan(joined, batch_tokens=10**6)
    assert not forward.below
    check(joined, [forward])


def test_distinct_prompts_score_the_most_that_is_asked() -> None:
    joined = Prompts.join([Prompts.of([[1, 2, 3], [4, 5]], [1, 1]), Prompts.of([[1, 2, 3]])])
    distinct, rows = joined.distinct()
    assert (rows.tolist(), distinct.last.tolist()) == ([0, 1, 0], [2, 1])
    assert [distinct[i].tolist() for i in range(2)] == [[1, 2, 3], [4, 5]]
    # Results: of [1, 2, 3] two, of [4, 5] one.
    assert distinct.places(rows, joined.last).tolist() == [1, 2, 0, 1]
    assert len(Prompts.of([]).distinct()[0]) == 0
