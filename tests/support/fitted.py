"""A network of the cross-run forecaster, trained in this process."""

from collections.abc import Sequence

from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.training.cross_run.fitting import CrossRunLearner, FitConfig
from neuneu.training.loop import Loop, train_here


def fit(trajectories: Sequence[Trajectory], config: FitConfig) -> CrossRunNetwork:
    learner = CrossRunLearner(learn=trajectories, config=config)
    network = train_here(learner, Loop(optim=config.optim, seed=config.seed))
    assert isinstance(network, CrossRunNetwork)
    return network
