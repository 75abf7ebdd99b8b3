"""Rotary positions and quantile heads."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuneu.data.quantiles import FORECAST_LEVELS, PAPER_LEVELS
from neuneu.forecasters.window.layers import OrderedHead, PlainHead, rotary_angles, rotate


def test_rotate_dot_product_depends_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 16, generator=generator)
    angles = rotary_angles(12, 16, torch.device("cpu"))
    at_q = rotate(q.expand(1, 1, 12, 16), angles)[0, 0]
    at_k = rotate(k.expand(1, 1, 12, 16), angles)[0, 0]
    torch.testing.assert_close(at_q[2] @ at_k[5], at_q[7] @ at_k[10])
    assert not torch.isclose(at_q[2] @ at_k[5], at_q[2] @ at_k[6])
    torch.testing.assert_close(at_q[0], q)
    torch.testing.assert_close(at_q.norm(dim=-1), q.norm().expand(12))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100.0), st.sampled_from([PAPER_LEVELS, (0.5,)]))
def test_ordered_head_never_crosses(seed: int, scale: float, levels: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = OrderedHead(8, levels)
    with torch.no_grad():
        head.linear.weight.normal_(generator=generator)
        quantiles = head(scale * torch.randn(16, 8, generator=generator))
    assert quantiles.shape == (16, len(levels))
    assert (quantiles.diff(dim=1) >= 0).all()


def test_ordered_head_hand_worked() -> None:
    head = OrderedHead(1, (0.25, 0.5, 0.75, 0.9))
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.tensor([0.0, 0.3, 0.0, 0.0]))
        quantiles = head(torch.zeros(1, 1))
    step = torch.log(torch.tensor(2.0))  # softplus(0)
    expected = torch.stack((0.3 - step, torch.tensor(0.3), 0.3 + step, 0.3 + 2 * step))
    torch.testing.assert_close(quantiles[0], expected)


def test_heads_have_the_same_parameters() -> None:
    counts = [
        sum(p.numel() for p in head(512, FORECAST_LEVELS).parameters())
        for head in (PlainHead, OrderedHead)
    ]
    assert counts[0] == counts[1] == 513 * 7
