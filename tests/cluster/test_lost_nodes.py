"""Training on a cluster of several nodes that loses one, like a spot instance."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from curves import ladder, write_table
from safetensors.torch import load_file

from neuneu.core.config import build_config
from neuneu.core.ray_session import ray_session
from neuneu.forecasters.window.export import WEIGHTS
from neuneu.training.config import TrainConfig
from neuneu.training.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

STEPS = 400


def start(nodes: int) -> Any:
    """A head without CPUs, and nodes with one CPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    cluster = start(request.param)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def config(folder: Path, output: str, workers: int | list[int]) -> TrainConfig:
    return build_config(
        TrainConfig,
        {
            "output": str(folder / output),
            "accuracies": str(folder / "accuracies.parquet"),
            "validation_runs": ["r3"],
            "workers": workers,
            "cross_run": {
                "network": {"width": 32, "heads": 2, "blocks": 1, "dropout": 0.0},
                "optim": {"max_steps": STEPS, "batch_size": 16},
                "report_steps": 20,
            },
        },
    )


def node_of_a_worker(cluster: Any) -> Any:
    """Return the node of a training worker."""
    for node in cluster.worker_nodes:
        (raylet,) = node.all_processes["raylet"]
        for process in psutil.Process(raylet.process.pid).children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                return node
    return None


@pytest.mark.parametrize(
    ("cluster", "workers"),
    [
        pytest.param(3, 2, id="another-node-takes-over"),
        pytest.param(2, [1, 2], id="goes-on-with-fewer"),
    ],
    indirect=["cluster"],
)
def test_training_survives_the_loss_of_a_node(
    cluster: Any, workers: int | list[int], tmp_path: Path
) -> None:
    write_table(tmp_path / "accuracies.parquet", ladder(4, n=10))
    snapshot = tmp_path / "lost" / "ray" / "state" / "checkpoint_manager_snapshot.json"
    lost: list[float] = []

    def lose() -> None:
        while not snapshot.exists():
            time.sleep(0.05)
        if (node := node_of_a_worker(cluster)) is not None:
            cluster.remove_node(node, allow_graceful=False)
            lost.append(time.monotonic())

    with ray_session():
        undisturbed = train(config(tmp_path, "undisturbed", workers))
        killer = threading.Thread(target=lose, daemon=True)
        killer.start()
        disturbed = train(config(tmp_path, "lost", workers))
        ended = time.monotonic()
        killer.join(60)
    assert lost, "no node with a worker was found to lose"
    assert lost[0] < ended, "the node went after the end"
    assert len(disturbed.history) == STEPS // 20
    assert disturbed.metrics == pytest.approx(undisturbed.metrics, abs=1e-4)
    left, right = (load_file(f"{result.folder}/{WEIGHTS}") for result in (undisturbed, disturbed))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=1e-4, rtol=0)
