"""Prompts packed into forwards without padding, with shared beginnings once: plans of arrays.

Sorted prompts form a tree. It is cut into units, contiguous tokens that a forward holds next to
each other:

* a branched unit is a short subtree, such as a question and its choices: each token attends to its
  ancestors;
* a trunk is the beginning that many prompts share and of which nothing is scored, such as the
  examples of a few-shot task. The units below it attend to all of it;
* any other prompt is a unit of its own.

A plan depends on prompts only, and serves every checkpoint with the same tokenizer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from neuneu.data.arrays import FloatArray32, IntArray

Int32Array = npt.NDArray[np.int32]

BRANCHED: Final = 256
"""Tokens of a branched unit, whose attention is computed for all pairs; or twice its longest."""
_TRUNK: Final = 32
_WORTH: Final = 1.15
_TRUNKS_A_FORWARD: Final = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """P prompts in one array: prompt i is `tokens[starts[i] : starts[i + 1]]`, `starts` (P + 1,).

    Its last `last[i]` tokens are scored; those before are context, at least one.
    """

    tokens: Int32Array
    starts: IntArray
    last: IntArray

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int] | Int32Array], last: Sequence[int] | None = None
    ) -> "Prompts":
        """Join prompts; `last` None scores all tokens but the first."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        arrays = [np.asarray(prompt, np.int32) for prompt in prompts]
        return cls(
            tokens=np.concatenate([*arrays, np.empty(0, np.int32)]),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            last=lengths - 1 if last is None else np.array(last, np.int64),
        )

    @classmethod
    def join(cls, several: Sequence["Prompts"]) -> "Prompts":
        """The prompts of several, in their order."""
        lengths = [prompts.lengths for prompts in several]
        return cls(
            tokens=np.concatenate([np.empty(0, np.int32), *(p.tokens for p in several)]),
            starts=np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])),
            last=np.concatenate([np.empty(0, np.int64), *(p.last for p in several)]),
        )

    def __len__(self) -> int:
        """The number of prompts P."""
        return len(self.last)

    def __getitem__(self, index: int) -> Int32Array:
        """(n,) tokens of a prompt, a view."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> IntArray:
        """(P,) tokens of each prompt."""
        return np.diff(self.starts)

    @property
    def results(self) -> IntArray:
        """(P + 1,) starts of each prompt's log-probabilities in a scorer's result."""
        return np.concatenate([[0], np.cumsum(self.last)]).astype(np.int64)

    def each(self, logprobs: FloatArray32) -> list[FloatArray32]:
        """Split a scorer's result by prompt: (last,) of each, views."""
        return np.split(logprobs, self.results[1:-1]) if len(self) else []

    def take(self, rows: IntArray) -> "Prompts":
        """Keep some prompts."""
        return Prompts.of([self[row] for row in rows.tolist()], self.last[rows].tolist())

    def distinct(self) -> tuple["Prompts", IntArray]:
        """Return each prompt once, scoring the most that is asked of it, and the (P,) row of each.

        Rows are in order of first appearance.
        """
        seen: dict[bytes, int] = {}
        each = (self[i].tobytes() for i in range(len(self)))
        rows = np.array([seen.setdefault(key, len(seen)) for key in each], np.int64)
        last = np.zeros(len(seen), np.int64)
        np.maximum.at(last, rows, self.last)
        first = np.unique(rows, return_index=True)[1]
        return replace(self.take(first), last=last), rows

    def places(self, rows: IntArray, counts: IntArray) -> IntArray:
        """Indices into a scorer's result of the last `counts` tokens of prompts, one after another.

        Args:
            rows: (R,) prompts.
            counts: (R,) tokens, at most `last` of each.
        """
        ends = self.results[rows + 1]
        return np.repeat(ends - np.cumsum(counts), counts) + np.arange(int(counts.sum()))


@dataclass(frozen=True, slots=True, eq=False)
class _Unit:
    """Prompts `first` to `end` of the sorted ones, from position `depth`; or a trunk of `first`.

    `path` are the trunks above it, as indices of units, from the root.
    """

    first: int
    end: int
    depth: int
    n_tokens: int
    path: tuple[int, ...]

    @property
    def trunk(self) -> bool:
        """Whether other units continue it."""
        return self.first == self.end

    @property
    def branched(self) -> bool:
        """Whether it holds several prompts."""
        return self.end - self.first > 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """N packed tokens in U units, and what to read from them.

    `tokens` and `positions` are (N,); `ends` (N,) is the end of the subtree of each token, so that
    token j is an ancestor of token i of its unit if j <= i < ends[j]. Unit u has the tokens
    `starts[u]` to `starts[u + 1]` and is `branched[u]`. Trunks come first. `below` has, for each
    run of units that share trunks, (its first token, its end, first and end of each trunk).

    Log-probability `results[k]` of the scorer's result is that of token `targets[k]` after the
    packed token `rows[sources[k]]`; k is in the order of rows.
    """

    tokens: Int32Array
    positions: Int32Array
    ends: Int32Array
    starts: IntArray
    branched: npt.NDArray[np.bool_]
    below: list[tuple[int, int, list[tuple[int, int]]]]
    rows: Int32Array
    sources: Int32Array
    targets: Int32Array
    results: IntArray


def plan(prompts: Prompts, *, batch_tokens: int) -> list[Forward]:
    """Pack prompts into forwards of about `batch_tokens` tokens, or of one longer unit."""
    tree = PromptTree(prompts)
    units = _units(tree)
    return [_forward(tree, units, members) for members in _batches(units, batch_tokens)]


def packed_tokens(prompts: Prompts, *, batch_tokens: int) -> int:
    """Count the tokens that the forwards of a plan compute."""
    units = _units(PromptTree(prompts))
    return sum(units[i].n_tokens for batch in _batches(units, batch_tokens) for i in batch)


class PromptTree:
    """Prompts in lexicographic order, `order` (P,), and what neighbours share.

    `shared[i]` is the length of the common beginning of prompts i - 1 and i in that order; 0 for
    the first. `lengths` and `contexts` are the tokens of each, and those before the scored ones
    without the last of them, whose output is the first log-probability.
    """

    def __init__(self, prompts: Prompts) -> None:
        keys = [prompts[i].astype(">i4").tobytes() for i in range(len(prompts))]
        self.order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        self.prompts = prompts
        self.lengths = prompts.lengths[self.order]
        self.contexts = self.lengths - prompts.last[self.order] - 1
        self.shared = np.zeros(len(keys), np.int64)
        for i in range(1, len(keys)):
            a, b = self[i - 1], self[i]
            n = min(len(a), len(b))
            if a[0] == b[0]:
                differing = a[:n] != b[:n]
                first = int(differing.argmax())
                self.shared[i] = first if differing[first] else n

    def __getitem__(self, index: int) -> Int32Array:
        return self.prompts[int(self.order[index])]

    def size(self, first: int, end: int, depth: int) -> int:
        """Distinct tokens of a run from a depth that all its prompts share."""
        own = np.maximum(self.shared[first + 1 : end], depth)
        return int((self.lengths[first:end].sum() - own.sum()) - depth)


def _units(tree: PromptTree) -> list[_Unit]:
    """Cut the tree into units; trunks precede the units below them."""
    units: list[_Unit] = []
    todo: list[tuple[int, int, int, tuple[int, ...]]] = []
    if len(tree.lengths):
        todo.append((0, len(tree.lengths), 0, ()))
    while todo:
        first, end, depth, path = todo.pop()
        size = tree.size(first, end, depth)
        if end - first == 1:
            units.append(_Unit(first, end, depth, size, path))
            continue
        common = int(tree.shared[first + 1 : end].min())
        longest = int(tree.lengths[first:end].max()) - depth
        cuts = first + 1 + np.flatnonzero(tree.shared[first + 1 : end] == common)
        if size <= max(BRANCHED, 2 * longest):
            if size + len(cuts) * (common - depth) >= _WORTH * size:
                units.append(_Unit(first, end, depth, size, path))
                continue
        else:
            trunk = min(common, int(tree.contexts[first:end].min()))
            if trunk - depth >= _TRUNK:
                units.append(_Unit(first, first, depth, trunk - depth, path))
                depth, path = trunk, (*path, len(units) - 1)
        edges = [first, *cuts.tolist(), end]
        todo += [(a, b, depth, path) for a, b in pairwise(edges)]
    return units


def _batches(units: list[_Unit], batch_tokens: int) -> Iterator[list[int]]:
    """Yield units of forwards: the trunks that it needs, then units by trunk and length."""
    order = sorted(
        (i for i in range(len(units)) if not units[i].trunk),
        key=lambda i: (units[i].path, units[i].branched, -units[i].n_tokens),
    )
    batch: list[int] = []
    above: dict[int, None] = {}
    size = 0
    for i in order:
        unit = units[i]
        added = [t for t in unit.path if t not in above]
        more = unit.n_tokens + sum(units[t].n_tokens for t in added)
        trunks = sum(units[t].n_tokens for t in unit.path)
        if batch and size + more > max(batch_tokens, _TRUNKS_A_FORWARD * trunks):
            yield [*sorted(above), *batch]
            batch, above, size = [], {}, 0
            added = list(unit.path)
            more = unit.n_tokens + trunks
        batch.append(i)
        above |= dict.fromkeys(added)
        size += more
    if batch:
        yield [*sorted(above), *batch]


def _forward(tree: PromptTree, units: list[_Unit], members: list[int]) -> Forward:
    """Lay out units as one forward."""
    starts = np.cumsum([0] + [units[i].n_tokens for i in members])
    n_tokens = int(starts[-1])
    tokens, positions, ends = (np.empty(n_tokens, np.int32) for _ in range(3))
    place = dict(zip(members, starts.tolist(), strict=False))
    offsets = tree.prompts.results
    sources, targets, results = [], [], []
    below: list[tuple[int, int, list[tuple[int, int]]]] = []
    before: tuple[int, ...] = ()
    for i, start in zip(members, starts.tolist(), strict=False):
        unit = units[i]
        stop = start + unit.n_tokens
        if unit.path and unit.path == before:
            below[-1] = (below[-1][0], stop, below[-1][2])
        elif unit.path:
            trunks = [(place[t], place[t] + units[t].n_tokens) for t in unit.path]
            below.append((start, stop, trunks))
        before = unit.path
        if unit.trunk:
            tokens[start:stop] = tree[unit.first][unit.depth : unit.depth + unit.n_tokens]
            positions[start:stop] = np.arange(unit.depth, unit.depth + unit.n_tokens)
            ends[start:stop] = stop
            continue
        # `at` is the packed index of each position of the current prompt, from `depth` on.
        at, to = np.empty(0, np.int32), start
        for k in range(unit.first, unit.end):
            prompt, depth = tree[k], unit.depth
            keep = max(int(tree.shared[k]), depth) if k > unit.first else depth
            new = len(prompt) - keep
            tokens[to : to + new] = prompt[keep:]
            positions[to : to + new] = np.arange(keep, len(prompt))
            ends[at[keep - depth :]] = to
            at = np.concatenate([at[: keep - depth], np.arange(to, to + new, dtype=np.int32)])
            to += new
            row = int(tree.order[k])
            n = int(tree.prompts.last[row])
            sources.append(at[len(at) - n - 1 : -1])
            targets.append(prompt[len(prompt) - n :])
            results.append(np.arange(offsets[row], offsets[row] + n))
        ends[at] = to
    rows, of_rows = np.unique(np.concatenate(sources), return_inverse=True)
    by_row = np.argsort(of_rows, kind="stable")
    return Forward(
        tokens=tokens,
        positions=positions,
        ends=ends,
        starts=starts.astype(np.int64),
        branched=np.array([units[i].branched for i in members]),
        below=below,
        rows=rows.astype(np.int32),
        sources=of_rows[by_row].astype(np.int32),
        targets=np.concatenate(targets)[by_row],
        results=np.concatenate(results)[by_row],
    )
