"""Warnings: why an answer may be off."""

from dataclasses import dataclass
from typing import Literal

WarningCode = Literal[
    "unseen-family",
    "larger-model",
    "few-calibration-runs",
    "uncalibrated",
    "few-checkpoints",
    "near-chance",
    "take-off",
]


@dataclass(frozen=True)
class Warning:
    """Why intervals may be off: a stable `code` for programs, a `text` for people."""

    code: WarningCode
    text: str
