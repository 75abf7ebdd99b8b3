"""Synthetic learning curves: uniformly weighted mixtures of three families, with noise.

The prior of LC-PFN (Adriaensen et al. 2023, arXiv 2310.20447) mixes pow3, ILOG2 and Janoschek
curves. Ours does, too, and differs in this: curves run from a chance level to a ceiling above
or a little below it (so some fall), shapes are drawn from the log-normals below and not from the
published parameter priors, checkpoints lie at random or evenly or evenly in the logarithm, and
there are 10 to 60 of them instead of 100 epochs.
"""

from typing import Final

import numpy as np

from neuneu.trajectories import FloatArray, Trajectory

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
        family="synthetic", suite="synthetic", run=f"curve-{index}", params=params,
        num_fewshot=0, task=f"curve-{index}", metric="acc", steps=steps[0], tokens=tokens,
        flops=6.0 * params * tokens, values=values, stderrs=np.full(len(values), np.nan),
        base_task=f"curve-{index}",
    )  # fmt: skip
