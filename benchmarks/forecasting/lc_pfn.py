"""LC-PFN: a network trained on synthetic curves only, which extrapolates in context.

After Adriaensen et al. 2023 (arXiv 2310.20447). Their package requires an old torch and downloads
its weights, so this one is trained here, on our variant of their prior
(`neuneu.forecasters.curve_prior`). Further differences: our transformer with a quantile head and
pinball loss replaces theirs with a binned likelihood, distances are in ln tokens, and the present
level is subtracted.
"""

from collections.abc import Callable

from neuneu.forecasters.curve_prior import sample_trajectories
from neuneu.forecasters.window.config import ModelConfig
from neuneu.forecasters.window.export import Provenance
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.forecasters.window.network import Network
from neuneu.training.config import TrainConfig
from neuneu.training.data import prepare
from neuneu.training.loop import train_here
from neuneu.training.optimisation import OptimConfig
from neuneu.training.window_learner import WindowLearner


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
