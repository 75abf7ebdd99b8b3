"""Checkpoints over a cluster: one Ray Dataset per placement, whose actors hold the engines."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from neuneu.core import logs, ray_metrics
from neuneu.core.errors import UserError
from neuneu.scoring.checkpoints.grouping import Pending
from neuneu.scoring.config import ExtractConfig
from neuneu.scoring.wanted import Wanted
from neuneu.scoring.workers.worker import PHASES, Outcome, Worker


def fan_out(
    pending: Sequence[Pending],
    config: ExtractConfig,
    *,
    actors: int,
    gpus: float,
    wanted: Wanted,
) -> Iterator[Outcome]:
    """Yield outcomes as checkpoints are committed, on the cluster that Ray is connected to.

    Blocks of one checkpoint are handed out in order of architecture, so that a worker starts one
    engine per architecture, and none waits at the end of a group. Each worker holds two checkpoints
    at a time, the one being scored and the next one.

    Args:
        pending: Checkpoints sorted by architecture.
        config: Settings of each worker.
        actors: Number of workers.
        gpus: Number of GPUs per worker.
        wanted: Tasks and texts to score.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("execution.streaming_executor", "progress"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)
    shared = ray.put((config, wanted, list(pending), actors > 1))
    dataset = ray.data.from_items(
        [{"index": index} for index in range(len(pending))], override_num_blocks=len(pending)
    ).map_batches(
        _ScoringActor,
        fn_constructor_args=([shared],),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=config.cpus_per_actor,
        num_gpus=gpus or None,
        runtime_env={
            "env_vars": logs.environment() | {"OMP_NUM_THREADS": str(config.cpus_per_actor)}
        },
    )
    for row in dataset.iter_rows():
        seconds = {phase: row.pop(f"{phase}_s") for phase in PHASES}
        yield Outcome(**row, seconds=seconds)


class _ScoringActor:
    """A `Worker` for Ray Data: takes a batch of one row `index`, returns one row of an outcome."""

    def __init__(self, shared: list[Any]) -> None:
        import ray

        logs.set_up()
        config, wanted, self._pending, peers = ray.get(shared[0])
        self._worker = Worker(config, wanted, peers=peers)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Score one checkpoint."""
        outcome = self._worker.run(self._pending[int(batch["index"][0])])
        count(outcome)
        row = asdict(outcome)
        seconds = row.pop("seconds")
        row |= {f"{phase}_s": seconds[phase] for phase in PHASES}
        return {key: [value] for key, value in row.items()}


def count(outcome: Outcome) -> None:
    """Add an outcome to Ray's metrics, unless another job scored the checkpoint."""
    suite = outcome.suite
    if outcome.status == "quarantined":
        ray_metrics.CHECKPOINTS_QUARANTINED.record(1, suite=suite, run=outcome.run)
    elif outcome.status == "done" and outcome.engine:
        ray_metrics.CHECKPOINTS_DONE.record(1, suite=suite)
    ray_metrics.TOKENS_SCORED.record(outcome.tokens, suite=suite)
    for _ in range(outcome.swaps):
        ray_metrics.SWAP_SECONDS.record(outcome.seconds["swap"] / outcome.swaps, suite=suite)


def cluster_has_gpus() -> bool:
    """Whether the connected cluster has GPUs, or its autoscaler may add some.

    A cluster scaled down to its head shows no GPU, but the node groups in its autoscaler's config
    do. If that config cannot be read, only living nodes count.
    """
    import ray
    from ray._private.state import state

    if any(node["Alive"] and node["Resources"].get("GPU") for node in ray.nodes()):
        return True
    try:
        most = state.get_max_resources_from_cluster_config()
    except (AttributeError, RuntimeError, ray.exceptions.RayError):
        return False
    return bool(most and most.get("GPU"))


def slots(nodes: Sequence[Mapping[str, float]], *, cpus: int, gpus: float) -> int:
    """Count the workers that fit on nodes; a worker is on one node.

    Args:
        nodes: Resources of each node, `CPU` and `GPU`.
        cpus: Number of CPUs per worker.
        gpus: Number of GPUs per worker.

    Raises:
        UserError: No worker fits.
    """

    def on(node: Mapping[str, float]) -> int:
        count = int(node.get("CPU", 0) // cpus)
        return min(count, int(node.get("GPU", 0) / gpus)) if gpus else count

    count = sum(map(on, nodes))
    if count < 1:
        have = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes]
        raise UserError(
            f"the cluster's nodes have {'; '.join(have) or 'nothing'}; expected {cpus} CPUs and "
            f"{gpus:g} GPUs on one of them for a worker; lower cpus_per_actor or gpus_per_actor, "
            "use larger nodes, or set actors if the cluster grows with its work."
        )
    return count
