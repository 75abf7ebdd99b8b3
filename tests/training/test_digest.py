"""What a training is told apart by."""

from dataclasses import replace

import numpy as np
import pytest
from curves import ladder

from neuneu.core.config import build_config
from neuneu.data.trajectories import Trajectory
from neuneu.training.config import TrainConfig
from neuneu.training.run import load_learner

RUNS = [
    replace(t, losses={"pile": np.linspace(4.0, 3.0, len(t)), "c4": np.linspace(4.5, 3.5, len(t))})
    for t in ladder(3, n=8)
]


def digest(runs: list[Trajectory]) -> str:
    return load_learner(
        build_config(TrainConfig, {"output": "x", "cross_run": {}}), (runs, None)
    ).digest


@pytest.mark.parametrize(
    "changed",
    [
        replace(RUNS[0], stderrs=np.full(len(RUNS[0]), 0.02)),
        replace(RUNS[0], family="another"),
        replace(RUNS[0], losses={"pile": RUNS[0].losses["pile"], "other": RUNS[0].losses["c4"]}),
        replace(RUNS[0], planned_tokens=1e12),
    ],
    ids=["stderrs", "family", "name of a loss", "plan"],
)
def test_digest_of_a_cross_run_training_changes_with_all_it_reads(changed: Trajectory) -> None:
    assert digest(RUNS) == digest(list(RUNS))
    assert digest([changed, *RUNS[1:]]) != digest(RUNS)
