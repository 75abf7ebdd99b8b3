"""Which prompts vLLM's prefix cache serves, and how many tokens it saves.

A five-shot task repeats its examples before every choice of every question; they are computed once
if prompts with the same beginning follow each other.
"""

from collections.abc import Iterator

import numpy as np

from neuneu.data.arrays import IntArray
from neuneu.scoring.engines.packing import Prompts, PromptTree


def sharing_order(prompts: Prompts, *, block: int) -> tuple[IntArray, IntArray]:
    """Return the rows of prompts that can share a cached beginning, similar ones together.

    A cache holds whole blocks, and the last token before the scored ones must be computed, because
    its output is the first log-probability.

    Args:
        prompts: Prompts to score.
        block: Tokens per cache block.

    Returns:
        Rows in lexicographic order of tokens, without prompts whose context is shorter than a
        block or that share no whole block with another prompt; and the tokens that each shares
        with the one before.
    """
    long = np.flatnonzero(prompts.lengths - prompts.last - 1 >= block)
    tree = PromptTree(prompts.take(long))
    shared = np.append(tree.shared, 0)
    keep = (shared[:-1] >= block) | (shared[1:] >= block)
    return long[tree.order[keep]], tree.shared[keep]


def in_calls(rows: IntArray, lengths: IntArray, *, tokens: int) -> Iterator[IntArray]:
    """Split rows into calls of at most `tokens` tokens, or of one longer prompt.

    Args:
        rows: (R,) prompts in order.
        lengths: (R,) tokens of each that are computed, a lower bound.
        tokens: Tokens of a call.
    """
    first, size = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if i > first and size + length > tokens:
            yield rows[first:i]
            first, size = i, 0
        size += length
    if first < len(rows):
        yield rows[first:]


def computed_tokens(prompts: Prompts, *, block: int) -> int:
    """Count the tokens that a model computes if a cache keeps all shared beginnings.

    A prompt reads the whole blocks that it shares with the previous one in `sharing_order`. If they
    reach into the tokens to score, it is computed a second time.
    """
    rows, shared = sharing_order(prompts, block=block)
    lengths, last = prompts.lengths[rows], prompts.last[rows]
    # An engine always computes the last token of a prompt.
    cached = np.minimum(shared, lengths - 1) // block * block
    again = cached > lengths - last - 1
    return len(prompts.tokens) + int(np.where(again, lengths - cached, -cached).sum())
