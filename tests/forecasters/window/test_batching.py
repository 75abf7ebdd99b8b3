"""Batches against hand-worked values, a naive reference, and changes of the future."""

import numpy as np
import pytest
import torch
from curves import family, trajectory

from neuneu.forecasters.window.batching import drop_inner, grouped_order, make_batch
from neuneu.forecasters.window.windows import (
    NO_LOSS,
    Samples,
    Series,
    build_series,
    enumerate_samples,
    no_loss_rows,
)


def make_series(gap_unit: str = "log_tokens") -> Series:
    parts = family(["a", "b"], tasks=2, n=9)
    generator = np.random.default_rng(3)
    losses = generator.uniform(0, 5, (5, 7)).astype(np.float16)
    rows = [generator.integers(0, 5, 9) for _ in parts]
    return build_series(parts, gap_unit=gap_unit, losses=losses, loss_rows=rows)


def test_batch_hand_worked() -> None:
    part = trajectory([0.1, 0.2, 0.3, 0.4, 0.5], steps=[1, 2, 4, 8, 16])
    losses, rows = no_loss_rows([part])
    series = build_series([part], gap_unit="checkpoints", losses=losses, loss_rows=rows)
    samples = Samples(trajectory=np.array([0, 0]), end=np.array([2, 0]), target=np.array([4, 3]))
    batch = make_batch(series, samples)
    torch.testing.assert_close(
        batch["accuracy_BK"], torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.0, 0.0]])
    )
    torch.testing.assert_close(batch["gap_BK"], torch.tensor([[1.0, 1.0, 2.0], [3.0, 0.0, 0.0]]))
    assert batch["mask_BK"].tolist() == [[True, True, True], [True, False, False]]
    torch.testing.assert_close(batch["target_B"], torch.tensor([0.5, 0.4]))


@pytest.mark.parametrize("drop", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("unit", ["checkpoints", "log_tokens"])
def test_batch_equals_a_naive_gathering(unit: str, drop: float) -> None:
    series = make_series(unit)
    samples = enumerate_samples(series, None)
    kept = drop_inner(samples, drop, np.random.default_rng(5))
    batch = make_batch(series, samples, kept_BK=kept)
    draws = np.random.default_rng(5).random((len(samples), int(samples.end.max()) + 1))
    for b, (t, end, target) in enumerate(
        zip(samples.trajectory, samples.end, samples.target, strict=True)
    ):
        places = [p for p in range(end + 1) if p in (0, end) or draws[b, p] >= drop]
        at = series.starts[t] + np.array([*places, target])
        k = len(places)
        np.testing.assert_array_equal(batch["accuracy_BK"][b, :k], series.values[at[:-1]])
        np.testing.assert_allclose(batch["gap_BK"][b, :k], np.diff(series.positions[at]), rtol=1e-6)
        assert batch["mask_BK"][b].sum() == k
        assert not batch["accuracy_BK"][b, k:].any()
        assert not batch["gap_BK"][b, k:].any()
        np.testing.assert_array_equal(
            batch["losses_CW"][batch["loss_index_B"][b]], series.losses[series.loss_rows[at[-2]]]
        )
        assert batch["target_B"][b] == series.values[at[-1]]


def test_gaps_sum_to_the_distance_whatever_is_dropped() -> None:
    series = make_series()
    samples = enumerate_samples(series, 4)
    kept = drop_inner(samples, 0.7, np.random.default_rng(0))
    batch = make_batch(series, samples, kept_BK=kept)
    first = series.starts[samples.trajectory]
    distance = series.positions[first + samples.target] - series.positions[first]
    np.testing.assert_allclose(batch["gap_BK"].sum(dim=1), distance, rtol=1e-5)


def test_distinct_loss_vectors_appear_once() -> None:
    series = make_series()
    batch = make_batch(series, enumerate_samples(series, None))
    assert len(batch["losses_CW"]) == 5


def test_nothing_after_the_context_changes_the_input() -> None:
    series = make_series()
    samples = enumerate_samples(series, None)
    chosen = samples.take(np.flatnonzero(samples.end == 4))
    place = np.arange(len(series.values)) - np.repeat(series.starts[:-1], series.lengths)
    future = place > 4
    changed = Series(
        starts=series.starts,
        values=np.where(future, np.float32(np.nan), series.values),
        positions=series.positions,
        loss_rows=np.where(future, NO_LOSS, series.loss_rows),
        losses=series.losses,
        noise=series.noise,
    )
    before, after = make_batch(series, chosen), make_batch(changed, chosen)
    for name in ("accuracy_BK", "gap_BK", "mask_BK", "losses_CW", "loss_index_B"):
        assert torch.equal(before[name], after[name])  # type: ignore[literal-required]
    assert after["target_B"].isnan().all()


def test_grouped_order_is_a_permutation_in_groups_of_one_key() -> None:
    keys = np.random.default_rng(1).integers(0, 7, 200)
    order = grouped_order(keys, 5, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(200))
    changes = np.count_nonzero(np.diff(keys[order]))
    groups = sum(-(-count // 5) for count in np.bincount(keys))
    assert changes < groups
    again = grouped_order(keys, 5, np.random.default_rng(0))
    assert np.array_equal(order, again)
    other = grouped_order(keys, 5, np.random.default_rng(1))
    assert not np.array_equal(order, other)
    batches = [len(set(keys[order[start : start + 20]])) for start in range(0, 200, 20)]
    assert max(batches) <= 6


def test_vectors_of_a_bank_are_those_of_the_series() -> None:
    series = make_series()
    samples = enumerate_samples(series, 3)
    bank = torch.from_numpy(series.losses)
    one, other = make_batch(series, samples), make_batch(series, samples, bank=bank)
    assert torch.equal(one["losses_CW"], other["losses_CW"])
