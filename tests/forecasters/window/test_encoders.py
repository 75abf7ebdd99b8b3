"""Encoders of the loss prompt: shapes, hand-worked histogram, clipping."""

import math

import pytest
import torch

from neuneu.forecasters.window.config import EncoderConfig, HistogramConfig
from neuneu.forecasters.window.encoders import (
    LossHistogram,
    LossQuantiles,
    MeanLoss,
    SetMeans,
    TokenLossCnn,
    build_encoder,
    probability,
)


@pytest.mark.parametrize(
    ("config", "words", "tokens"),
    [
        (EncoderConfig(kind="cnn", units=500), 500, 1),
        (EncoderConfig(kind="histogram"), 77, 1),
        (EncoderConfig(kind="quantiles", quantiles=5), 77, 1),
        (EncoderConfig(kind="sets", sets=(20, 30, 27)), 77, 1),
        (EncoderConfig(kind="mean", loss_mean=3.0, loss_std=0.5), 1, 1),
        (EncoderConfig(kind="none"), 0, 0),
    ],
)
def test_encoder_gives_prompt_tokens(config: EncoderConfig, words: int, tokens: int) -> None:
    losses = torch.rand(3, words, dtype=torch.float32).to(torch.float16)
    assert build_encoder(config, 16)(losses).shape == (3, tokens, 16)


def test_probability_is_clipped_to_zero_and_below_one() -> None:
    p = probability(torch.tensor([0.0, math.log(4.0), 1000.0, torch.inf]))
    assert p[0] < 1
    torch.testing.assert_close(p[1], torch.tensor(0.25))
    torch.testing.assert_close(p[2:], torch.full((2,), math.exp(-20.0)))


def test_histogram_of_probability_hand_worked() -> None:
    # p = 1 (clipped into the last bin), 0.6, 0.3, 0.26 in four bins: counts 0 2 1 1 of 4 words.
    losses = -torch.log(torch.tensor([[1.0, 0.6, 0.3, 0.26]]))
    encoder = LossHistogram(
        EncoderConfig(kind="histogram", histogram=HistogramConfig(bins=4)), width=8
    )
    torch.testing.assert_close(encoder.statistics(losses), torch.tensor([[0.0, 2.0, 1.0, 1.0]]))


def test_histogram_of_loss_hand_worked() -> None:
    config = EncoderConfig(kind="histogram", histogram=HistogramConfig(of="loss", bins=4))
    encoder = LossHistogram(config, width=8)
    # Bins are 5 nats wide; 20 nats and beyond fall into the last.
    counts = encoder.statistics(torch.tensor([[0.0, 4.9, 5.0, 99.0]]))
    torch.testing.assert_close(counts, torch.tensor([[2.0, 1.0, 0.0, 1.0]]))


def test_histogram_ignores_the_order_of_words_and_the_cnn_does_not() -> None:
    losses = torch.rand(1, 300) * 5
    shuffled = losses[:, torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    histogram = build_encoder(EncoderConfig(kind="histogram"), 8)
    cnn = build_encoder(EncoderConfig(kind="cnn", units=300), 8)
    torch.testing.assert_close(histogram(losses), histogram(shuffled))
    assert not torch.allclose(cnn(losses), cnn(shuffled))


def test_quantiles_hand_worked_and_the_same_for_a_longer_text_of_its_kind() -> None:
    encoder = LossQuantiles(EncoderConfig(kind="quantiles", quantiles=2), width=8)
    # Shares 0.25 and 0.75 of five sorted words: the second and the fourth; 20 nats bound them.
    found = encoder.quantiles(torch.tensor([[9.0, 1.0, 3.0, 99.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 9.0]]))
    text = torch.tensor([[9.0, 1.0, 3.0, 99.0, 2.0]]).half()
    torch.testing.assert_close(encoder.quantiles(text.repeat(1, 9)), found)


def test_means_of_validation_sets_hand_worked() -> None:
    encoder = SetMeans(EncoderConfig(kind="sets", sets=(1, 3)), width=8)
    found = encoder.means(torch.tensor([[5.0, 1.0, 2.0, 30.0, 7.0]]))
    torch.testing.assert_close(found, torch.tensor([[5.0, (1.0 + 2.0 + 20.0) / 3.0]]))
    with pytest.raises(ValueError, match="4 words, found 3"):
        encoder(torch.zeros(1, 3))


def test_mean_loss_is_standardised() -> None:
    encoder = MeanLoss(EncoderConfig(kind="mean", loss_mean=3.0, loss_std=0.5), width=4)
    with torch.no_grad():
        encoder.linear.weight.fill_(1.0)
        encoder.linear.bias.zero_()
    torch.testing.assert_close(encoder(torch.tensor([[4.0]])), torch.full((1, 1, 4), 2.0))


def test_data_properties_left_open_are_refused() -> None:
    with pytest.raises(ValueError, match="number of words of each set"):
        build_encoder(EncoderConfig(kind="sets"), 8)
    with pytest.raises(ValueError, match="number of words"):
        TokenLossCnn(EncoderConfig(kind="cnn"), 8)
    with pytest.raises(ValueError, match="standardises"):
        MeanLoss(EncoderConfig(kind="mean"), 8)
