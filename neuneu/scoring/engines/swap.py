"""Proof that an engine holds the weights of a checkpoint and not those of the previous one.

A weight-swapping engine can keep old tensors without an error. Its tensors are stacked (q, k and v
in one), padded, and on CPU packed into a form that cannot be read back, so they are compared by
what they compute: each weight matrix is multiplied with a fixed vector, and the sum and the sum of
squares of the products, added up over the matrices of a layer, do not depend on how rows are
stacked or padded. They are compared with those of the checkpoint's files.
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

Location = tuple[int, int]
"""(layer, columns): layer -1 is outside the layers, -2 the output head; columns -1 is a vector."""


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
        """Whether both come from the same weights, up to rounding."""
        squares = max(self.squares, other.squares, 1e-30)
        rows = max(self.rows, other.rows)
        return abs(self.squares - other.squares) <= relative * squares and abs(
            self.total - other.total
        ) <= relative * math.sqrt(rows * squares)


@lru_cache(maxsize=16)
def fixed_vector(columns: int) -> torch.Tensor:
    """(columns,) float32 on CPU, the same in every process, without zeros."""
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

    Computed as a sum of products, so that no GPU setting turns it into TF32.
    """
    return (weight.to(torch.float32) * vector.to(weight.device)).sum(dim=1)


def of_products(products: torch.Tensor) -> Products:
    """Sum products in double precision."""
    values = products.detach().to(torch.float64)
    return Products(values.numel(), float(values.sum()), float(values.square().sum()))


Held = dict[Location, Products]


@dataclass(kw_only=True)
class Shard:
    """The weights on one rank of an engine; without tensor parallelism one rank holds them all.

    `rows` are products of matrices whose rows are split over ranks, to be added up. `whole` are
    those of parameters that every rank holds. `partial` has, by parameter, its location and the
    (N,) products of the columns on this rank, which add up to those of the whole matrix. `head` is
    the readable weight of the output head.
    """

    rows: Held
    whole: Held
    partial: dict[str, tuple[Location, torch.Tensor]]
    head: Held


def add(held: Held, location: Location, products: Products) -> None:
    """Add products to those already at a location."""
    held[location] = held[location] + products if location in held else products


def combined(shards: Sequence[Shard]) -> tuple[Held, Held]:
    """Combine ranks into (products of all weights, products of the readable head).

    Raises:
        EngineError: Ranks that should hold the same weights do not.
    """
    held: Held = {}
    head: Held = {}

    for rank, shard in enumerate(shards):
        if shard.whole != shards[0].whole:
            locations = sorted(shard.whole.keys() | shards[0].whole.keys())
            other = [p for p in locations if shard.whole.get(p) != shards[0].whole.get(p)]
            raise EngineError(
                f"rank {rank} holds other weights than rank 0 in {len(other)} places, the first "
                f"{describe(other[0])}; expected the same on all."
            )
        for location, products in shard.rows.items():
            add(held, location, products)
        for location, products in shard.head.items():
            add(head, location, products)
    for location, products in shards[0].whole.items():
        add(held, location, products)
    for name, (location, first) in shards[0].partial.items():
        total = first + sum(shard.partial[name][1] for shard in shards[1:])
        add(held, location, of_products(total))
    return held, head


def comparable(held: Held, expected: Held) -> bool:
    """Whether products can prove a swap: the engine has the same locations as the files.

    Architectures that store a matrix transposed have others. Different values at the same locations
    mean that the load failed.
    """
    return held.keys() == expected.keys()


def file_products(folder: Path, *, dtype: torch.dtype, tied: bool) -> Held:
    """Compute the products of a checkpoint's files as an engine of `dtype` would hold them.

    Args:
        folder: A checkpoint that passed preflight.
        dtype: Dtype to which the engine casts weights.
        tied: Whether the output head is the embedding; a stored head is then a copy and skipped.

    Raises:
        CheckpointError: A tensor is not finite in `dtype`.
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
        location = (HEAD_LAYER, tensor.shape[1]) if head else location_of(name, tensor)
        add(result, location, products)
    return result


def location_of(name: str, tensor: torch.Tensor) -> Location:
    """Location to which the products of a tensor are added."""
    return layer_of(name), tensor.shape[1] if tensor.ndim == 2 else _VECTORS


def layer_of(name: str) -> int:
    """Layer of a tensor or module by its name; -1 outside the layers."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return int(found.group(1)) if found else -1


def differing(held: Held, expected: Held, *, relative: float) -> list[Location]:
    """Return the locations at which the engine and the files differ."""
    locations: Iterable[Location] = held.keys() | expected.keys()
    return sorted(
        location
        for location in locations
        if location not in held
        or location not in expected
        or not held[location].matches(expected[location], relative=relative)
    )


def describe(location: Location) -> str:
    """Describe a location for messages."""
    layer, columns = location
    where = {HEAD_LAYER: "the output head", -1: "outside the layers"}.get(layer, f"layer {layer}")
    what = "its vectors" if columns == _VECTORS else f"its matrices of {columns} columns"
    return f"{where}, {what}"
