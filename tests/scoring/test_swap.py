"""The proof of a swap over the ranks of an engine, on matrices divided by hand."""

from pathlib import Path

import pytest

from neuneu.core.errors import EngineError
from neuneu.scoring.engines import swap
from neuneu.scoring.engines.swap import Products, Shard, combined, comparable, differing

torch = pytest.importorskip("torch")
RELATIVE = 1e-6
# Layer 0: `up` (6, 4) divided by rows, `down` (4, 6) by columns, `norm` (4,) on every rank.
UP, DOWN, NORM = (0, 4), (0, 6), (0, -1)


def weights(seed: int) -> dict[str, "torch.Tensor"]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"up": (6, 4), "down": (4, 6), "norm": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def files(of: dict[str, "torch.Tensor"]) -> swap.Held:
    places = {"up": UP, "down": DOWN, "norm": NORM}
    return {places[name]: swap.matrix_products(tensor) for name, tensor in of.items()}


def rank(of: dict[str, "torch.Tensor"], number: int, of_ranks: int) -> Shard:
    up = of["up"].chunk(of_ranks, dim=0)[number]
    down = of["down"].chunk(of_ranks, dim=1)[number]
    vector = swap.fixed_vector(6).chunk(of_ranks)[number]
    return Shard(
        rows={UP: swap.matrix_products(up)},
        whole={NORM: swap.matrix_products(of["norm"])},
        partial={"down": (DOWN, swap.row_products(down, vector).double())},
        head={},
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_combined_ranks_hold_what_the_files_say(ranks: int) -> None:
    of = weights(1)
    held, head = combined([rank(of, number, ranks) for number in range(ranks)])
    assert comparable(held, files(of))
    assert differing(held, files(of), relative=RELATIVE) == []
    assert head == {}


@pytest.mark.parametrize(("name", "place"), [("up", UP), ("down", DOWN)])
def test_combined_one_rank_that_kept_an_old_matrix_is_found(
    name: str, place: tuple[int, int]
) -> None:
    new, old = weights(1), weights(2)
    stale = rank(new | {name: old[name]}, 1, 2)
    held, _ = combined([rank(new, 0, 2), stale])
    assert differing(held, files(new), relative=RELATIVE) == [place]


def test_combined_ranks_that_disagree_are_an_engine_error() -> None:
    new, old = weights(1), weights(2)
    with pytest.raises(EngineError, match=r"rank 1 .* 1 places, the first layer 0, its vectors"):
        combined([rank(new, 0, 2), rank(new | {"norm": old["norm"]}, 1, 2)])


def test_comparable_depends_on_the_layout_and_not_on_the_values() -> None:
    # A faulty first load has the places of the files and other values: still comparable.
    assert comparable(files(weights(2)), files(weights(1)))
    transposed = files(weights(1)) | {(0, 99): Products(1, 1.0, 1.0)}
    assert not comparable(transposed, files(weights(1)))


def test_file_products_of_a_checkpoint_equal_those_of_its_tensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    save_file({"model.layers.7.up.weight": matrix}, tmp_path / "model.safetensors")
    found = swap.file_products(tmp_path, dtype=torch.float32, tied=False)
    products = (matrix.double() * swap.fixed_vector(4).double()).sum(dim=1)
    (place,) = found
    assert place == (7, 4)
    assert found[place].rows == 3
    assert found[place].total == pytest.approx(float(products.sum()), rel=1e-6)
    assert found[place].squares == pytest.approx(float((products**2).sum()), rel=1e-6)
