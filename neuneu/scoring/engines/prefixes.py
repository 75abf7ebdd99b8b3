"""In which order to score prompts so that the beginnings they share are computed once.

A five-shot task repeats its examples before every choice of every question. An engine with a
prefix cache computes them once if prompts that begin alike follow each other.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from neuneu.scoring.engines.engine import TokenIds


def sharing_order(prompts: Sequence[TokenIds], wanted: Sequence[int], *, block: int) -> list[int]:
    """Indices of the prompts that can read a cached beginning, those that begin alike together.

    A cache holds whole blocks, and the last token before the wanted ones must be computed: its
    output is the first wanted log-probability.

    Args:
        prompts: of n_i tokens each.
        wanted: how many of the last tokens are wanted of each; the rest is context.
        block: tokens of a cache block.

    Returns:
        In lexicographic order of tokens. Prompts whose context is shorter than a block are left
        out, and those that share no whole block with another one.
    """
    keys = {
        index: np.asarray(prompt, dtype=">i4").tobytes()
        for index, (prompt, count) in enumerate(zip(prompts, wanted, strict=True))
        if len(prompt) - count - 1 >= block
    }
    order = sorted(keys, key=keys.__getitem__)
    first_block = [keys[index][: 4 * block] for index in order]
    return [
        index
        for i, index in enumerate(order)
        if (i > 0 and first_block[i - 1] == first_block[i])
        or (i + 1 < len(order) and first_block[i + 1] == first_block[i])
    ]


def in_calls(
    order: Sequence[int], prompts: Sequence[TokenIds], *, tokens: int
) -> Iterator[list[int]]:
    """Cuts an order of prompts into calls of at most `tokens` tokens, or of one longer prompt."""
    call: list[int] = []
    size = 0
    for index in order:
        if call and size + len(prompts[index]) > tokens:
            yield call
            call, size = [], 0
        call.append(index)
        size += len(prompts[index])
    if call:
        yield call


def computed_tokens(prompts: Sequence[TokenIds], wanted: Sequence[int], *, block: int) -> int:
    """Tokens that a model runs on when shared beginnings come from a cache that keeps them all.

    A prompt reads the whole blocks that it has in common with the one before it in the order of
    `sharing_order`. Where these reach into the wanted tokens it is computed a second time.

    Args:
        prompts: of n_i tokens each.
        wanted: how many of the last tokens are wanted of each.
        block: tokens of a cache block.
    """
    total = sum(len(prompt) for prompt in prompts)
    before = np.empty(0, np.int32)
    for index in sharing_order(prompts, wanted, block=block):
        prompt = np.asarray(prompts[index], np.int32)
        # An engine always computes the last token of a prompt.
        n = min(len(before), len(prompt) - 1)
        differing = np.flatnonzero(before[:n] != prompt[:n])
        cached = (int(differing[0]) if len(differing) else n) // block * block
        if cached <= len(prompt) - wanted[index] - 1:
            total -= cached
        else:
            total += len(prompt) - cached
        before = prompt
    return total
