"""Synthetic learning curves, mixed into the training of networks for unseen families.

Each curve mixes four shapes (saturating power law, sigmoid, line in ln tokens, dip) and adds
noise that is correlated between checkpoints, so that a network sees more shapes than the public
runs have.
"""

from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory

SYNTHETIC: Final = "synthetic"
"""The family of synthetic runs."""


def sample_varied(count: int, *, seed: int = 0) -> list[Trajectory]:
    """Samples runs whose tokens grow by a factor of 3 to 10^5."""
    generator = np.random.default_rng((seed, 1))
    return [_varied(generator, index) for index in range(count)]


def _varied(generator: np.random.Generator, index: int) -> Trajectory:
    u, x = _checkpoints(generator)
    shape = generator.dirichlet([2.0, 0.3, 0.7, 0.1]) @ np.stack(
        [_saturating(generator, u), _emergent(generator, x), _line(x), _dip(generator, x)]
    )
    start = generator.uniform(0.0, 0.6)
    amplitude = generator.choice([0.0, 1.0], p=[0.15, 0.85]) * generator.laplace(0.06, 0.15)
    values = start + amplitude * shape
    deviation = np.exp(generator.normal(-4.6, 0.7))
    noise = generator.normal(0, deviation, len(x))
    share = generator.uniform(0.0, 0.7)  # correlation of the noise at neighbouring checkpoints
    for step in range(1, len(noise)):
        noise[step] = share * noise[step - 1] + np.sqrt(1 - share**2) * noise[step]
    tokens = u * np.exp(generator.uniform(14.0, 22.0))
    params = float(np.exp(generator.uniform(16.0, 24.0)))
    name = f"varied-{index}"
    return Trajectory(
        family=SYNTHETIC, suite=SYNTHETIC, run=name, params=params, num_fewshot=0, task=name,
        metric="acc", steps=np.arange(1, len(u) + 1), tokens=tokens, flops=6.0 * params * tokens,
        values=np.clip(values + noise, 0.0, 1.0), stderrs=np.full(len(u), np.nan), base_task=name,
    )  # fmt: skip


def _checkpoints(generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Tokens relative to the first checkpoint, and their logarithm scaled to [0, 1]."""
    n = int(np.exp(generator.uniform(np.log(8), np.log(300))))
    span = np.exp(generator.uniform(np.log(np.log(3.0)), np.log(np.log(1e5))))
    u = np.linspace(1.0, np.exp(span), n)
    if generator.random() < 0.5:  # the first half evenly in the logarithm
        log = np.linspace(0.0, span, n)
        half = n // 2
        u = (
            np.exp(log)
            if generator.random() < 0.5
            else np.r_[np.exp(log[:half]), np.linspace(np.exp(log[half]), np.exp(span), n - half)]
        )
    u = np.unique(u)
    return u, np.log(u) / span


def _saturating(generator: np.random.Generator, u: FloatArray) -> FloatArray:
    shape = 1.0 - u ** -np.exp(generator.normal(-0.9, 0.8))
    return np.asarray(shape / max(shape[-1], 1e-6))


def _emergent(generator: np.random.Generator, x: FloatArray) -> FloatArray:
    width = np.exp(generator.normal(-2.0, 0.7))
    return np.asarray(1.0 / (1.0 + np.exp(-(x - generator.uniform(-0.2, 1.3)) / width)))


def _line(x: FloatArray) -> FloatArray:
    return x


def _dip(generator: np.random.Generator, x: FloatArray) -> FloatArray:
    middle, width = generator.uniform(0.0, 1.0), np.exp(generator.normal(-1.8, 0.5))
    return np.asarray(-np.exp(-0.5 * ((x - middle) / width) ** 2))
