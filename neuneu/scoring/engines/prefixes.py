"""The order of prompts in which an engine with a prefix cache computes shared beginnings once.

A five-shot task repeats its examples before every choice of every question; they are computed once
if prompts with the same beginning follow each other.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from neuneu.scoring.engines.engine import TokenIds


def sharing_order(prompts: Sequence[TokenIds], wanted: Sequence[int], *, block: int) -> list[int]:
    """Return the indices of prompts that can share a cached beginning, similar ones together.

    A cache holds whole blocks, and the last token before the scored ones must be computed, because
    its output is the first log-probability.

    Args:
        prompts: Prompts of n_i tokens each.
        wanted: Number of last tokens to score in each prompt; the rest is context.
        block: Tokens per cache block.

    Returns:
        Indices in lexicographic order of tokens, without prompts whose context is shorter than a
        block or that share no whole block with another prompt.
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
    """Split ordered prompts into calls of at most `tokens` tokens, or of one longer prompt."""
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
    """Count the tokens that a model computes if a cache keeps all shared beginnings.

    A prompt reads the whole blocks that it shares with the previous one in `sharing_order`. If they
    reach into the tokens to score, it is computed a second time.

    Args:
        prompts: Prompts of n_i tokens each.
        wanted: Number of last tokens to score in each prompt.
        block: Tokens per cache block.
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
