"""Presets and their validation."""

from pathlib import Path

import pytest

from neuneu.core.config import build_config, load_config
from neuneu.core.errors import UserError
from neuneu.data.quantiles import PAPER_LEVELS
from neuneu.forecasters.window.config import ModelConfig, preset
from neuneu.training.config import TrainConfig


def test_preset_paper_is_the_published_network() -> None:
    config = preset("paper")
    assert (config.width, config.layers, config.heads, config.feed_forward) == (512, 6, 8, 2048)
    assert config.levels == PAPER_LEVELS
    assert (config.gap_unit, config.target, config.head) == ("checkpoints", "absolute", "plain")
    assert (config.encoder.kind, config.encoder.units) == ("cnn", 256_000)


def test_preset_with_changes_keeps_the_rest() -> None:
    config = preset("paper", layers=2, encoder={"units": None})
    assert (config.layers, config.width) == (2, 512)
    assert (config.encoder.kind, config.encoder.units) == ("cnn", None)


def test_train_config_resolves_a_preset_named_on_the_command_line() -> None:
    overrides = ["output=x", "model.preset=paper", "model.layers=3"]
    config = load_config(TrainConfig, None, overrides)
    assert config.model == preset("paper", layers=3)
    assert build_config(TrainConfig, {"output": "x", "model": "small"}).model == ModelConfig()


@pytest.mark.parametrize("name", ["train.yaml", "train-paper.yaml"])
def test_job_configs_are_valid(name: str) -> None:
    load_config(TrainConfig, Path(__file__).parents[3] / "jobs" / "configs" / name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"widht": 8}, "did you mean 'model.width'"),
        ({"preset": "tiny"}, "there are \\['paper', 'small'\\]"),
        ({"width": 60, "heads": 8}, "multiple of 2 x heads"),
        ({"levels": [0.1, 0.9]}, "hold 0.5"),
        ({"levels": [0.5, 0.1]}, "must increase"),
    ],
)
def test_invalid_model_is_explained(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(TrainConfig, {"output": "x", "model": model})
