"""Which tasks and families a network was trained on, as arrays. Shapes: T trajectories."""

import numpy as np
import numpy.typing as npt
import torch

from neuneu.forecasters.cross_run.curves import Curves
from neuneu.forecasters.cross_run.network import CrossRunConfig


def task_places(curves: Curves, config: CrossRunConfig) -> torch.Tensor:
    """(T,) what the network calls each trajectory's task: 1 + its place in `tasks`, 0 unknown."""
    place = {task: index + 1 for index, task in enumerate(config.tasks)}
    return torch.tensor([place.get(t.base_task, 0) for t in curves.trajectories])


def unfamiliar(curves: Curves, config: CrossRunConfig) -> npt.NDArray[np.bool_]:
    """(T,) whether each trajectory is of a family that the network did not learn from."""
    return np.array([t.family not in config.families for t in curves.trajectories], dtype=bool)
