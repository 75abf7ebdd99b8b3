"""Attention over packed prompts, registered with transformers, whose models call it by name.

On CPUs units of nearly equal length are computed together, padded for attention only; tokens below
a trunk attend to it without a mask, and both parts are weighted by their log-sum-exp (as in
Juravsky et al. 2024, Hydragen, section 3.1). On GPUs one call of flex attention computes all units.
"""

from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from neuneu.scoring.engines.packing import Forward

PACKED: Final = "neuneu_packed"
"""Name of the attention implementation in transformers."""

_PADDING: Final = 0.1
_BLOCK: Final = 128
_flash: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class UnsupportedAttentionError(Exception):
    """A model's attention has a feature that packed attention does not compute."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """G units of up to L tokens: packed tokens `start` to `stop`.

    Where lengths differ, `padded` (G, L) are indices into these tokens, and `real` (stop - start,)
    the places of tokens among the G * L. `ends` (G, L), of branched units, as `Forward.ends`.
    """

    start: int
    stop: int
    units: int
    padded: torch.Tensor | None
    real: torch.Tensor | None
    ends: torch.Tensor | None

    def mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """(G, 1, L, L) of 0 for ancestors and -inf; None if attention is causal."""
        if self.ends is None:
            return None
        length = self.ends.shape[1]
        place = torch.arange(length)
        at = self.start + (place.expand(self.units, length) if self.padded is None else self.padded)
        if self.padded is None:
            at = at + length * torch.arange(self.units)[:, None]
        ancestor = (at[:, :, None] < self.ends[:, None, :]) & (place[:, None] >= place)
        return torch.where(ancestor, 0.0, -torch.inf).to(dtype)[:, None]


class Layout:
    """What attention needs to know of a forward; `longest` is the maximum length of a prompt."""

    def __init__(self, forward: Forward, *, longest: int, device: torch.device) -> None:
        self.longest = longest
        self.below = forward.below
        self.blocks: BlockMask | None = None
        self.groups: list[tuple[_Group, torch.Tensor | None]] = []
        if device.type == "cpu":
            self.groups = [(group, None) for group in _groups(forward)]
        else:
            self.blocks = block_mask(forward, device)

    def with_masks(self, dtype: torch.dtype) -> "Layout":
        """Compute the masks of branched units, which take too much memory to keep."""
        made = copy(self)
        made.groups = [(group, group.mask(dtype)) for group, _ in self.groups]
        return made


CURRENT: Final[ContextVar[Layout]] = ContextVar("CURRENT")
"""The layout of the forward that is being computed."""


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of (1, H, N, D) queries to (1, K, N, D) keys and values, as transformers calls it.

    Returns:
        (1, N, H, D), and no weights.

    Raises:
        UnsupportedAttentionError: The model wants more than causal attention.
    """
    layout = CURRENT.get()
    _check_supported(attention_mask, kwargs, longest=layout.longest)
    if layout.blocks is not None:
        compute = _compiled() if query.is_cuda else flex_attention
        out = compute(
            query, key, value, block_mask=layout.blocks, scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip
        return out.transpose(1, 2), None
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    rows = _Rows(q, k, v, scaling)
    out = torch.empty_like(rows.query, memory_format=torch.contiguous_format)
    weights = query.new_empty(out.shape[:2], dtype=torch.float32)
    for group, mask in layout.groups:
        found, sums = _within(rows, group, mask)
        out[group.start : group.stop] = found
        weights[group.start : group.stop] = sums
    for start, stop, trunks in layout.below:
        found, sums = _above(rows, start, stop, trunks)
        share = torch.sigmoid(sums - weights[start:stop])[..., None]
        out[start:stop].lerp_(found, share.to(out.dtype))
    return out[None], None


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)


def _check_supported(mask: torch.Tensor | None, kwargs: dict[str, Any], *, longest: int) -> None:
    sliding = kwargs.get("sliding_window")
    if sliding is not None and sliding < longest:
        raise UnsupportedAttentionError(f"a sliding window of {sliding} tokens")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedAttentionError(name)
    if mask is not None:
        raise UnsupportedAttentionError("a mask of its own")


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


@dataclass(frozen=True, eq=False)
class _Rows:
    """(N, H, D) queries, keys and values of packed tokens."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float | None


def _within(
    rows: _Rows, group: _Group, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of n tokens of a group to their ancestors in the unit.

    Returns:
        (n, H, D), and the (n, H) log-sum-exp of what was attended to.
    """

    def units(tensor: torch.Tensor) -> torch.Tensor:
        own = tensor[group.start : group.stop]
        of_units = (
            own.unflatten(0, (group.units, -1)) if group.padded is None else own[group.padded]
        )
        return of_units.transpose(1, 2)

    found = _flash(
        units(rows.query), units(rows.key), units(rows.value), 0.0, mask is None,
        attn_mask=mask, scale=rows.scaling,
    )  # fmt: skip
    out, sums = (tensor.transpose(1, 2).flatten(0, 1) for tensor in found)
    return (out, sums) if group.real is None else (out[group.real], sums[group.real])


def _above(
    rows: _Rows, start: int, stop: int, trunks: list[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of tokens to all tokens of the trunks above them, as `_within`."""
    key, value = (
        torch.cat([tensor[a:b] for a, b in trunks]).transpose(0, 1)[None]
        for tensor in (rows.key, rows.value)
    )
    query = rows.query[start:stop].transpose(0, 1)[None]
    out, sums = _flash(query, key, value, 0.0, False, scale=rows.scaling)
    return out[0].transpose(0, 1), sums[0].transpose(0, 1)


def _groups(forward: Forward) -> list[_Group]:
    """Group neighbouring units of a kind and of nearly equal length, longest first."""
    groups = []
    lengths, first = np.diff(forward.starts), 0
    while first < len(lengths):
        kind, end, longest = forward.branched[first], first, int(lengths[first])
        total = 0
        while end < len(lengths) and forward.branched[end] == kind:
            n = int(lengths[end])
            places = longest * (end - first + 1)
            if n > longest or places - total - n > _PADDING * places:
                break
            total, end = total + n, end + 1
        groups.append(_group(forward, first, end))
        first = end
    return groups


def _group(forward: Forward, first: int, end: int) -> _Group:
    starts = forward.starts[first : end + 1] - forward.starts[first]
    lengths = np.diff(starts)
    longest, n = int(lengths[0]), end - first
    padded, real = None, None
    if (lengths != longest).any():
        last = starts[1:, None] - 1
        padded = np.minimum(starts[:-1, None] + np.arange(longest), last)
        real = np.flatnonzero(np.arange(longest) < lengths[:, None])
    start, stop = int(forward.starts[first]), int(forward.starts[end])
    ends = None
    if forward.branched[first]:
        ends = forward.ends[start:stop].astype(np.int64)
        ends = ends.reshape(n, longest) if padded is None else ends[padded]
    return _Group(
        start=start,
        stop=stop,
        units=n,
        padded=None if padded is None else torch.from_numpy(padded),
        real=None if real is None else torch.from_numpy(real),
        ends=None if ends is None else torch.from_numpy(ends),
    )


def block_mask(forward: Forward, device: torch.device) -> BlockMask:
    """The mask of flex attention: ancestors of the same unit, and the trunks above it."""
    n = len(forward.tokens)
    trunks = sorted({trunk for _, _, above in forward.below for trunk in above})
    run_of, trunk_of = np.zeros(n, np.int32), np.zeros(n, np.int32)
    visible = np.zeros((len(forward.below) + 1, len(trunks) + 1), np.bool_)
    n_blocks = -(-n // _BLOCK)
    some = np.zeros((n_blocks, n_blocks), np.bool_)
    for start, stop in zip(forward.starts[:-1], forward.starts[1:], strict=True):
        span = slice(start // _BLOCK, -(-stop // _BLOCK))
        some[span, span] = True
    for i, (start, stop) in enumerate(trunks, 1):
        trunk_of[start:stop] = i
    for i, (start, stop, above) in enumerate(forward.below, 1):
        run_of[start:stop] = i
        for a, b in above:
            visible[i, 1 + trunks.index((a, b))] = True
            some[start // _BLOCK : -(-stop // _BLOCK), a // _BLOCK : -(-b // _BLOCK)] = True
    some &= np.tri(n_blocks, dtype=np.bool_)
    ends, runs, of, seen = (
        torch.from_numpy(array).to(device) for array in (forward.ends, run_of, trunk_of, visible)
    )

    def attends(
        _batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return (query >= key) & ((query < ends[key]) | seen[runs[query], of[key]])

    order = np.argsort(~some, axis=1, kind="stable").astype(np.int32)
    return BlockMask.from_kv_blocks(
        torch.from_numpy(some.sum(1, dtype=np.int32))[None, None].to(device),
        torch.from_numpy(order)[None, None].to(device),
        BLOCK_SIZE=_BLOCK,
        mask_mod=attends,
        seq_lengths=(n, n),
    )
