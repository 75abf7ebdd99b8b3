"""Synthetic learning curves: uniformly weighted mixtures of three families, with noise.

The prior of LC-PFN (Adriaensen et al. 2023, arXiv 2310.20447) mixes pow3, ILOG2 and Janoschek
curves. Ours does, too, and differs in this: curves run from a chance level to a ceiling above
or a little below it (so some fall), shapes are drawn from the log-normals below and not from the
published parameter priors, checkpoints lie at random or evenly or evenly in the logarithm, and
there are 10 to 60 of them instead of 100 epochs.
"""

from typing import Final

import numpy as np

from neuneu.data.trajectories import FloatArray, Trajectory

SYNTHETIC: Final = "synthetic"
"""The family of made-up runs."""

LENGTH: Final = 100.0
"""x of the last checkpoint; the first lies at 1 or later."""


def sample_curve(generator: np.random.Generator, x: FloatArray) -> FloatArray:
    """Accuracies without noise at x >= 1, in [0, 1]."""
    start = generator.uniform(0.0, 0.6)
    ceiling = generator.uniform(max(start - 0.1, 0.0), 1.0)
    alpha = np.exp(generator.normal(-0.7, 0.8))
    pow3 = 1.0 - x**-alpha
    ilog2 = 1.0 - np.log(2.0) / np.log(x + 1.0)
    kappa, delta = np.exp(generator.normal(-2.5, 1.2)), np.exp(generator.normal(0.0, 0.5))
    janoschek = 1.0 - np.exp(-kappa * (x - 1.0) ** delta)
    weights = generator.dirichlet(np.ones(3))
    shape = weights @ np.stack([pow3, ilog2, janoschek])
    return np.clip(start + (ceiling - start) * shape, 0.0, 1.0)


def sample_trajectories(
    count: int, *, seed: int = 0, noise: tuple[float, float] = (-4.3, 0.8)
) -> list[Trajectory]:
    """Synthetic runs, each of its own; tokens are proportional to x.

    Args:
        count: how many.
        seed: of every draw.
        noise: mean and deviation of ln of the noise's standard deviation.
    """
    generator = np.random.default_rng(seed)
    return [_trajectory(generator, index, noise) for index in range(count)]


def _trajectory(
    generator: np.random.Generator, index: int, noise: tuple[float, float]
) -> Trajectory:
    n = int(generator.integers(10, 61))
    spacing = generator.integers(3)
    if spacing == 0:
        x = np.linspace(LENGTH / n, LENGTH, n)
    elif spacing == 1:
        x = np.geomspace(1.0, LENGTH, n)
    else:
        x = np.sort(generator.uniform(1.0, LENGTH, n))
    x = np.maximum(x, 1.0)
    values = sample_curve(generator, x)
    values = np.clip(values + generator.normal(0, np.exp(generator.normal(*noise)), n), 0.0, 1.0)
    steps = np.unique(np.round(x * 1000).astype(np.int64), return_index=True)
    x, values = x[steps[1]], values[steps[1]]
    tokens = x * 1e9
    params = float(np.exp(generator.uniform(16.0, 24.0)))
    return Trajectory(
        family=SYNTHETIC, suite=SYNTHETIC, run=f"curve-{index}", params=params,
        num_fewshot=0, task=f"curve-{index}", metric="acc", steps=steps[0], tokens=tokens,
        flops=6.0 * params * tokens, values=values, stderrs=np.full(len(values), np.nan),
        base_task=f"curve-{index}",
    )  # fmt: skip


def sample_varied(count: int, *, seed: int = 0) -> list[Trajectory]:
    """Synthetic runs of every shape that accuracies take, over ln 3 to ln 10^5 of tokens."""
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
    share = generator.uniform(0.0, 0.7)  # of the noise, that stays from checkpoint to checkpoint
    for place in range(1, len(noise)):
        noise[place] = share * noise[place - 1] + np.sqrt(1 - share**2) * noise[place]
    tokens = u * np.exp(generator.uniform(14.0, 22.0))
    params = float(np.exp(generator.uniform(16.0, 24.0)))
    name = f"varied-{index}"
    return Trajectory(
        family=SYNTHETIC, suite=SYNTHETIC, run=name, params=params, num_fewshot=0, task=name,
        metric="acc", steps=np.arange(1, len(u) + 1), tokens=tokens, flops=6.0 * params * tokens,
        values=np.clip(values + noise, 0.0, 1.0), stderrs=np.full(len(u), np.nan), base_task=name,
    )  # fmt: skip


def _checkpoints(generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Tokens over those of the first checkpoint, and their logarithm scaled to [0, 1]."""
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
