"""Extraction on a cluster of several nodes, one of which dies in the middle."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import extract_config, save_checkpoint, write_inputs

from neuneu.core.ray_session import ray_session
from neuneu.data.store.store import Store
from neuneu.scoring.pipeline import extract

pytest.importorskip("transformers")
pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak]

N_CHECKPOINTS = 24


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs for work and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def test_extract_survives_the_death_of_a_node(cluster: Any, tmp_path: Path) -> None:
    for step in range(1, N_CHECKPOINTS + 1):
        save_checkpoint(tmp_path / "checkpoints", run="a", step=step, tied=True)
    write_inputs(tmp_path)
    config = extract_config(tmp_path, actors=2)
    units = tmp_path / "store" / "units"
    victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
    killed_after: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            done = len(list(units.glob("*/*/*.parquet")))
            if done >= 4:
                killed_after.append(done)
                cluster.remove_node(victim, allow_graceful=False)
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    with ray_session(cluster.address):
        summary = extract(config, address=cluster.address)
    killer.join()

    assert killed_after, "nothing was committed in time to kill a node"
    assert killed_after[0] < N_CHECKPOINTS, "the node died after the end"
    assert (summary.done, summary.quarantined, summary.left) == (N_CHECKPOINTS, 0, 0)
    store = Store(tmp_path / "store")
    rows = store.checkpoints().to_pylist()
    assert sorted(row["step"] for row in rows) == list(range(1, N_CHECKPOINTS + 1))
    assert {row["status"] for row in rows} == {"done"}
    # 2 tasks of at least 2 metrics, each once a checkpoint.
    keys = store.accuracies().select(["run", "step", "task", "metric"]).to_pylist()
    assert len({tuple(key.values()) for key in keys}) == len(keys) >= 4 * N_CHECKPOINTS
    assert store.token_losses().num_rows == N_CHECKPOINTS
