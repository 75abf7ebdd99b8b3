"""The shape of a network, and the presets `small` (ours) and `paper` (arXiv 2601.19831)."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import PositiveInt, model_validator

from neuneu.core.config import config_dataclass
from neuneu.data.quantiles import FORECAST_LEVELS, MEDIAN, PAPER_LEVELS

EncoderKind = Literal["cnn", "histogram", "quantiles", "sets", "mean", "none"]
"""What the loss prompt is made of: word losses in order, their distribution in bins or as
quantiles, their means over several validation sets, one mean, or nothing."""


@config_dataclass
class CnnConfig:
    """The published 1-D convolutions over p = exp(-loss), in word order."""

    channels: tuple[int, ...] = (8, 16, 32, 64)
    kernel: int = 64
    stride: int = 16
    padding: int = 32
    max_groups: int = 8


@config_dataclass
class HistogramConfig:
    """Equal-width bins: of p = exp(-loss) over [0, 1], or of the loss over [0, 20] nats."""

    of: Literal["probability", "loss"] = "probability"
    bins: int = 64


@config_dataclass
class EncoderConfig:
    """Which encoder of the loss prompt, and its settings.

    `quantiles` is how many evenly spaced quantiles of the word losses are read; `sets` the number
    of words of each validation set, one after the other; of words beyond them nothing is read.
    `units` (the number of words W that the CNN is tied to) and `loss_mean`, `loss_std` (nats,
    that `mean` standardises with) are properties of the training data: None lets training fill
    them in.
    """

    kind: EncoderKind = "none"
    cnn: CnnConfig = CnnConfig()
    histogram: HistogramConfig = HistogramConfig()
    quantiles: PositiveInt = 16
    sets: tuple[PositiveInt, ...] = ()
    units: int | None = None
    loss_mean: float | None = None
    loss_std: float | None = None


@config_dataclass
class ModelConfig:
    """A forecasting network. The defaults are the preset `small`, sized for a few runs on a CPU.

    `gap_unit`: distances in checkpoints (published) or in ln tokens. `target`: the head gives
    the accuracy itself (published) or its change since the last observation. `point_features`:
    the accuracy alone (published), or also its difference to the last observation. `head`:
    one linear layer (published; quantiles can cross), or the same layer read as median and
    increments.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    feed_forward: int = 256
    dropout: float = 0.0
    levels: tuple[float, ...] = FORECAST_LEVELS
    gap_unit: Literal["checkpoints", "log_tokens"] = "log_tokens"
    target: Literal["absolute", "delta"] = "delta"
    point_features: Literal["accuracy", "accuracy_and_change"] = "accuracy_and_change"
    head: Literal["ordered", "plain"] = "ordered"
    encoder: EncoderConfig = EncoderConfig()

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        if self.width % (2 * self.heads) or self.width <= 0:
            raise ValueError(
                f"width {self.width} must be a positive multiple of 2 x heads ({2 * self.heads})"
            )
        ordered = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not ordered or MEDIAN not in self.levels or not 0 < self.levels[0] < self.levels[-1] < 1:
            raise ValueError(f"levels {self.levels} must increase within (0, 1) and hold 0.5")
        return self


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "small": {},
    "paper": {
        "width": 512,
        "layers": 6,
        "heads": 8,
        "feed_forward": 2048,
        "levels": PAPER_LEVELS,
        "gap_unit": "checkpoints",
        "target": "absolute",
        "point_features": "accuracy",
        "head": "plain",
        "encoder": {"kind": "cnn", "units": 256_000},
    },
}
"""Preset name -> the fields in which it differs from the defaults of `ModelConfig`."""


def preset(name: str, **changes: Any) -> ModelConfig:
    """A preset with some fields changed; nested mappings change only the keys they give.

    Raises:
        ValueError: a name that is not in `PRESETS`, or invalid values.
    """
    from neuneu.core.config import build_config

    return build_config(ModelConfig, resolve_preset({"preset": name, **changes}))


def resolve_preset(value: Any) -> Any:
    """Turns `small` or `{preset: small, width: 96}` into the fields of a `ModelConfig`.

    Anything else is returned as it is, for the config's own validation to judge.

    Raises:
        ValueError: a preset name that is not in `PRESETS`.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping) or "preset" not in value:
        return value
    changes = {key: inner for key, inner in value.items() if key != "preset"}
    name = value["preset"]
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; there are {sorted(PRESETS)}")
    return merge_settings(PRESETS[name], changes)


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes; nested mappings change only the keys they give."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_settings(merged[key], value) if nested else value
    return merged
