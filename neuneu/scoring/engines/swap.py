"""Proof that an engine holds the weights of a checkpoint and not those of the one before.

A weight-swapping engine can keep old tensors without an error. Its tensors are stacked
(q, k and v in one), padded, and on CPU packed into a form that cannot be read back, so they are
compared by what they do: each weight matrix is multiplied with a fixed vector, and the sum and
the sum of squares of the products, added up over the matrices of a layer, do not depend on how
rows are stacked or padded. The same numbers are taken of the checkpoint's files.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch

from neuneu.core.errors import CheckpointError, EngineError
from neuneu.scoring.checkpoints.weights import iter_tensors

_HEADS: Final = ("lm_head.weight", "embed_out.weight")
_ROWS: Final = 8192
_VECTORS: Final = -1
HEAD_LAYER: Final = -2

NOT_COMPARABLE: Final = "vLLM keeps the weights of this architecture in another layout"

Place = tuple[int, int]
"""(layer, columns): layer -1 is outside the layers, -2 the output head; columns -1 a vector."""


@dataclass(frozen=True, slots=True, order=True)
class Products:
    """Sum and sum of squares of the products of `rows` rows with the fixed vector."""

    rows: int
    total: float
    squares: float

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.rows + other.rows, self.total + other.total, self.squares + other.squares
        )

    def matches(self, other: "Products", *, relative: float) -> bool:
        """Whether both are of the same weights, but for rounding of the products."""
        squares = max(self.squares, other.squares, 1e-30)
        rows = max(self.rows, other.rows)
        return abs(self.squares - other.squares) <= relative * squares and abs(
            self.total - other.total
        ) <= relative * math.sqrt(rows * squares)


@lru_cache(maxsize=16)
def fixed_vector(columns: int) -> torch.Tensor:
    """(columns,) float32 on CPU, the same in every process; no entry is 0."""
    phase = torch.arange(1, columns + 1, dtype=torch.float64) * 0.6180339887498949
    return ((phase - phase.floor()) + 0.5).to(torch.float32)


def matrix_products(weight: torch.Tensor) -> Products:
    """Products of an (N, K) matrix, or of an (N,) vector with 1, in blocks of rows."""
    if weight.ndim != 2:
        return of_products(weight.reshape(-1))
    vector = fixed_vector(weight.shape[1])
    result = Products(0, 0.0, 0.0)
    for block in weight.split(_ROWS):
        result += of_products(row_products(block, vector))
    return result


def row_products(weight: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """(N,) products of an (N, K) matrix with a (K,) vector, on the matrix' device, in float32.

    As a sum of products, so that no setting of a GPU makes TF32 of it.
    """
    return (weight.to(torch.float32) * vector.to(weight.device)).sum(dim=1)


def of_products(products: torch.Tensor) -> Products:
    """Adds up products in double precision."""
    values = products.detach().to(torch.float64)
    return Products(values.numel(), float(values.sum()), float(values.square().sum()))


Held = dict[Place, Products]


@dataclass(kw_only=True)
class Shard:
    """What one rank of an engine holds; without tensor parallelism there is one, of all weights.

    `rows` are products of matrices whose rows the ranks divide: they add up. `whole` are those of
    what every rank holds alike. `partial` are, by parameter, its place and the (N,) products of
    the columns that this rank has: they add up to the products of the whole matrix. `head` is
    the readable weight of an output head.
    """

    rows: Held
    whole: Held
    partial: dict[str, tuple[Place, torch.Tensor]]
    head: Held


def combined(shards: Sequence[Shard]) -> tuple[Held, Held]:
    """(products of all weights, of the readable head) from those of every rank.

    Raises:
        EngineError: ranks that should hold the same do not.
    """
    held: Held = {}
    head: Held = {}

    def add(to: Held, place: Place, products: Products) -> None:
        to[place] = to[place] + products if place in to else products

    for rank, shard in enumerate(shards):
        if shard.whole != shards[0].whole:
            places = sorted(shard.whole.keys() | shards[0].whole.keys())
            other = [p for p in places if shard.whole.get(p) != shards[0].whole.get(p)]
            raise EngineError(
                f"rank {rank} holds other weights than rank 0 in {len(other)} places, the first "
                f"{describe(other[0])}; expected the same on all."
            )
        for place, products in shard.rows.items():
            add(held, place, products)
        for place, products in shard.head.items():
            add(head, place, products)
    for place, products in shards[0].whole.items():
        add(held, place, products)
    for name, (place, first) in shards[0].partial.items():
        total = first + sum(shard.partial[name][1] for shard in shards[1:])
        add(held, place, of_products(total))
    return held, head


def comparable(held: Held, expected: Held) -> bool:
    """Whether products can prove a swap: an engine has the places that the files have.

    Architectures that store a matrix the other way round have others. That the values differ
    is no reason: then the load was faulty.
    """
    return held.keys() == expected.keys()


def file_products(folder: Path, *, dtype: torch.dtype, tied: bool) -> Held:
    """Products of a checkpoint's files as an engine of `dtype` would hold them.

    Args:
        folder: a checkpoint that preflight has passed.
        dtype: what the engine casts weights to.
        tied: the output head is the embedding, and a stored head is a copy that counts once.

    Raises:
        CheckpointError: a tensor is not finite in `dtype`.
    """
    result: Held = {}
    for name, tensor in iter_tensors(folder):
        head = name.endswith(_HEADS)
        if head and tied:
            continue
        products = matrix_products(tensor.to(dtype))
        if not math.isfinite(products.squares):
            raise CheckpointError(
                f"tensor {name!r} holds NaN or infinite values in {str(dtype)[6:]}; expected "
                "finite weights. Training diverged here, or the file is damaged."
            )
        place = (HEAD_LAYER, tensor.shape[1]) if head else place_of(name, tensor)
        result[place] = result[place] + products if place in result else products
    return result


def place_of(name: str, tensor: torch.Tensor) -> Place:
    """Where a tensor's products are added up."""
    return layer_of(name), tensor.shape[1] if tensor.ndim == 2 else _VECTORS


def layer_of(name: str) -> int:
    """The layer a tensor or module belongs to by its name; -1 when it is outside the layers."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found.group(1)) if found else -1


def differing(held: Held, expected: Held, *, relative: float) -> list[Place]:
    """The places where an engine does not hold what the files say; empty when all agree."""
    places: Iterable[Place] = held.keys() | expected.keys()
    return sorted(
        place
        for place in places
        if place not in held
        or place not in expected
        or not held[place].matches(expected[place], relative=relative)
    )


def describe(place: Place) -> str:
    """A place in words."""
    layer, columns = place
    where = {HEAD_LAYER: "the output head", -1: "outside the layers"}.get(layer, f"layer {layer}")
    what = "its vectors" if columns == _VECTORS else f"its matrices of {columns} columns"
    return f"{where}, {what}"
