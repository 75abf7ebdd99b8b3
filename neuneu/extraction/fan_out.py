"""Checkpoints over a cluster: one Ray Dataset a placement, whose actors hold the engines."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from neuneu.errors import UserError
from neuneu.extraction.corpus import Corpus
from neuneu.extraction.grouping import Pending
from neuneu.extraction.requests import Task
from neuneu.extraction.worker import PHASES, Outcome, Worker, WorkerConfig


def fan_out(
    pending: Sequence[Pending],
    worker: WorkerConfig,
    *,
    actors: int,
    gpus: float,
    tasks: Sequence[Task],
    corpus: Corpus,
) -> Iterator[Outcome]:
    """Yields outcomes as checkpoints are committed, on a cluster that Ray is connected to.

    Blocks of one checkpoint, ordered by architecture, are handed out in order: a worker meets
    each architecture once, so that it starts one engine for each, and none waits at the end
    of a group. Each has two checkpoints at a time, one that is scored and the next one.

    Args:
        pending: sorted by architecture.
        worker: settings of each worker.
        actors: how many workers.
        gpus: of one worker.
        tasks: what is scored.
        corpus: what is scored.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("execution.streaming_executor", "progress"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.ERROR)
    shared = ray.put((worker, list(tasks), corpus, list(pending)))
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
        num_cpus=worker.threads,
        num_gpus=gpus or None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(worker.threads)}},
    )
    for row in dataset.iter_rows():
        seconds = {phase: row.pop(f"{phase}_s") for phase in PHASES}
        yield Outcome(**row, seconds=seconds)


class _ScoringActor:
    """A `Worker` as Ray Data calls it: a batch of one row `index` in, an outcome's row out."""

    def __init__(self, shared: list[Any]) -> None:
        import ray

        worker, tasks, corpus, self._pending = ray.get(shared[0])
        self._worker = Worker(worker, tasks, corpus)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Scores one checkpoint."""
        row = asdict(self._worker.run(self._pending[int(batch["index"][0])]))
        seconds = row.pop("seconds")
        row |= {f"{phase}_s": seconds[phase] for phase in PHASES}
        return {key: [value] for key, value in row.items()}


def slots(resources: dict[str, float], *, cpus: int, gpus: float) -> int:
    """How many workers of `cpus` CPUs and `gpus` GPUs a cluster holds.

    Raises:
        UserError: not one.
    """
    count = int(resources.get("CPU", 0) // cpus)
    if gpus:
        count = min(count, int(resources.get("GPU", 0) / gpus))
    if count < 1:
        raise UserError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} "
            f"GPUs; expected {cpus} CPUs and {gpus:g} GPUs for one worker; lower cpus_per_actor "
            "or gpus_per_actor, or use a larger cluster."
        )
    return count
