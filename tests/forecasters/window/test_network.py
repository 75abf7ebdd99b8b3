"""The network: published size, padding, order, sharing of loss vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from curves import trajectory

from neuneu.forecasters.window.batching import Batch, make_batch
from neuneu.forecasters.window.config import ModelConfig, preset
from neuneu.forecasters.window.network import Network, parameter_counts
from neuneu.forecasters.window.windows import Samples, build_series

WORDS = 40


def make_network(**changes: Any) -> Network:
    torch.manual_seed(0)
    small = {"width": 16, "layers": 2, "heads": 2, "feed_forward": 32}
    return Network(preset("small", **(small | changes)))


def some_batch(ends: list[int], target: int = 11, rows: int = 3) -> Batch:
    generator = np.random.default_rng(0)
    parts = [trajectory(generator.uniform(0.2, 0.8, 12), run=f"r{i}") for i in range(4)]
    series = build_series(
        parts,
        gap_unit="log_tokens",
        losses=generator.uniform(0, 8, (rows, WORDS)).astype(np.float16),
        loss_rows=[np.arange(12) % rows for _ in parts],
    )
    index = np.arange(len(ends))
    samples = Samples(trajectory=index % 4, end=np.array(ends), target=np.full(len(ends), target))
    return make_batch(series, samples)


def doubled(batch: Batch) -> Batch:
    accuracy, gap = batch["accuracy_BK"].double(), batch["gap_BK"].double()
    return Batch(**(batch | {"accuracy_BK": accuracy, "gap_BK": gap}))  # type: ignore[typeddict-item]


def test_paper_preset_has_the_published_number_of_parameters() -> None:
    assert parameter_counts(Network(preset("paper"))) == {
        "encoder": 304_488,
        "transformer": 18_916_864,
        "head": 2_565,
        "total": 19_223_917,
    }


@pytest.mark.parametrize("head", ["plain", "ordered"])
@pytest.mark.parametrize("kind", ["cnn", "histogram", "none"])
def test_network_gives_one_quantile_a_level(kind: str, head: str) -> None:
    network = make_network(head=head, encoder={"kind": kind, "units": WORDS})
    batch = some_batch([0, 3, 9])
    quantiles = network(batch)
    assert quantiles.shape == (3, 7)
    assert torch.isfinite(quantiles).all()


@pytest.mark.parametrize("features", ["accuracy", "accuracy_and_change"])
@pytest.mark.parametrize("target", ["absolute", "delta"])
def test_output_does_not_depend_on_the_rest_of_the_batch(features: str, target: str) -> None:
    network = make_network(
        target=target, point_features=features, encoder={"kind": "cnn", "units": WORDS}
    ).double()
    alone = network(doubled(some_batch([2])))
    together = network(doubled(some_batch([2, 10, 7, 0])))
    torch.testing.assert_close(alone[0], together[0], atol=1e-12, rtol=0)


def test_padding_content_is_ignored() -> None:
    network = make_network()
    batch = some_batch([2, 10])
    before = network(batch)
    outside = ~batch["mask_BK"]
    batch["accuracy_BK"] = batch["accuracy_BK"].masked_fill(outside, 0.9)
    batch["gap_BK"] = batch["gap_BK"].masked_fill(outside, 5.0)
    torch.testing.assert_close(network(batch), before)


def test_order_of_context_points_matters() -> None:
    network = make_network(target="absolute", point_features="accuracy")
    batch = some_batch([8])
    before = network(batch)
    for name in ("accuracy_BK", "gap_BK"):
        batch[name] = batch[name][:, [0, 3, 2, 1, *range(4, 9)]]  # type: ignore[literal-required]
    assert not torch.allclose(network(batch), before, atol=1e-5)


def test_delta_target_shifts_with_the_accuracies_when_only_changes_are_read() -> None:
    network = make_network(target="delta")
    with torch.no_grad():
        network.transformer.accuracy.weight[:, 0] = 0.0  # the accuracy itself
    batch = some_batch([5])
    before = network(batch)
    batch["accuracy_BK"] = batch["accuracy_BK"] + 0.1
    torch.testing.assert_close(network(batch), before + 0.1)


def test_shared_loss_vector_gives_the_gradient_of_separate_encoding() -> None:
    network = make_network(encoder={"kind": "cnn", "units": WORDS}).double()
    shared = some_batch([4, 4, 4, 7, 7, 1], rows=3)
    assert len(shared["losses_CW"]) < 6
    separate = Batch(**shared)
    separate["losses_CW"] = shared["losses_CW"][shared["loss_index_B"]]
    separate["loss_index_B"] = torch.arange(6)
    gradients = []
    for batch in (shared, separate):
        network.zero_grad()
        network(doubled(batch)).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.encoder.parameters()])
    assert any(g.abs().max() > 1e-3 for g in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_small_preset_is_the_default() -> None:
    assert preset("small") == ModelConfig()
    assert parameter_counts(Network(preset("small")))["total"] < 150_000
