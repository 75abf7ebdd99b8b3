"""LC-PFN: a network trained on synthetic curves only, which extrapolates in context.

After Adriaensen et al. 2023 (arXiv 2310.20447). Their package requires an old torch and downloads
its weights, so this one is trained here, on our variant of their prior. Theirs mixes pow3, ILOG2
and Janoschek curves. Ours does too, but curves run from a chance level to a ceiling above or a
little below it (so some fall), shapes are drawn from the log-normals below and not from the
published parameter priors, checkpoints are spaced at random, evenly or evenly in the logarithm, and
there are 10 to 60 of them instead of 100 epochs. Further differences: our transformer with a
quantile head and pinball loss replaces theirs with a binned likelihood, distances are in ln tokens,
and the present level is subtracted.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.window.config import ModelConfig
from neuneu.forecasters.window.export import Provenance
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.forecasters.window.network import Network
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.synthetic import SYNTHETIC
from neuneu.training.data import prepare
from neuneu.training.loop import train_here
from neuneu.training.optimisation import OptimConfig
from neuneu.training.window_learner import WindowLearner

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
    """Samples synthetic runs; tokens are proportional to x.

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


def train_lc_pfn(
    *,
    curves: int = 20_000,
    steps: int = 2000,
    seed: int = 0,
    tick: Callable[[], None] | None = None,
) -> NeuralForecaster:
    """Train a forecaster on synthetic curves only; takes minutes on two cores.

    Args:
        curves: number of training curves.
        steps: optimiser steps of 256 (context, target) pairs.
        seed: random seed for curves and training.
        tick: called after each step.
    """
    config = TrainConfig(
        output="unused",
        model=ModelConfig(width=64, layers=2, feed_forward=256),
        optim=OptimConfig(learning_rate=1e-3, epochs=1000, max_steps=steps),
        max_ahead=None,
        seed=seed,
    )
    data = prepare(config, sample_trajectories(curves, seed=seed), None)
    learner = WindowLearner(data=data, config=config)
    network = train_here(learner, config.loop, tick=lambda *_: None if tick is None else tick())
    assert isinstance(network, Network)
    provenance = Provenance(
        identity=f"lc-pfn-{seed}", training_runs={}, validation_runs=[], held_out_runs=[],
        metrics=[], corpus_hash=None, loss_names=[], selection="last", evaluation={}, training={},
    )  # fmt: skip
    return NeuralForecaster(network=network, provenance=provenance, name="lc-pfn")
