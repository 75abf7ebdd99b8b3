"""Trainings of the published network inside a study, in process."""

from collections.abc import Sequence

from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.window.export import Provenance
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.forecasters.window.network import Network
from neuneu.training.config import TrainConfig
from neuneu.training.data import prepare
from neuneu.training.loop import train_here
from neuneu.training.window_learner import WindowLearner


def train_window(
    config: TrainConfig, trajectories: Sequence[Trajectory], words: TokenLossTable | None
) -> NeuralForecaster:
    """Train a network on the runs that the config does not hold out.

    Args:
        config: settings; `output` is not written to.
        trajectories: of all runs.
        words: word losses, for encoders that read them.
    """
    data = prepare(config, trajectories, words)
    network = train_here(WindowLearner(data=data, config=config), config.loop)
    assert isinstance(network, Network)
    provenance = Provenance(
        identity="", training_runs={}, validation_runs=[], held_out_runs=[], metrics=[],
        corpus_hash=data.corpus_hash, loss_names=[], selection="last", evaluation={}, training={},
    )  # fmt: skip
    return NeuralForecaster(network=network, provenance=provenance)
