"""Several trainings side by side, a process and a thread each.

A network this small gains little from a second thread; two trainings use two cores fully.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import torch

from neuneu.core.progress import stage
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.network import CrossRunConfig, CrossRunNetwork
from neuneu.training.cross_run.fitting import FitConfig, fit

_POLL_S: Final = 1.0
_worker: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: `learn` are places in the trajectories that all trainings share."""

    learn: tuple[int, ...]
    config: FitConfig


def fit_all(
    trajectories: Sequence[Trajectory],
    trainings: Sequence[Training],
    *,
    title: str = "train",
    workers: int | None = None,
) -> list[CrossRunNetwork]:
    """The networks of all trainings, in their order, the same whatever the workers.

    Args:
        trajectories: of all of them.
        trainings: at least one.
        title: what progress is called.
        workers: processes; None takes as many as there are CPUs.

    Raises:
        DataError: a training has nothing to learn from.
    """
    workers = min(workers or _cpus(), len(trainings))
    context = multiprocessing.get_context("spawn")
    steps = context.Value("q", 0)
    total = sum(training.config.optim.max_steps or 0 for training in trainings)
    with (
        stage(title, total) as bar,
        ProcessPoolExecutor(workers, context, _start, (list(trajectories), steps)) as pool,
    ):
        running = [pool.submit(_train, training) for training in trainings]
        try:
            while (state := wait(running, timeout=_POLL_S)).not_done:
                bar.set(steps.value)
                for done in state.done:
                    done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        bar.set(total)
        return [_rebuild(*future.result()) for future in running]


def _start(trajectories: list[Trajectory], steps: Any) -> None:
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(trajectories=trajectories, steps=steps)


def _end_with_driver() -> None:
    """A killed driver cannot stop its workers; they would train on, and wait for ever then."""
    driver = multiprocessing.parent_process()
    assert driver is not None, "a worker has a parent"
    driver.join()
    os._exit(1)


def _train(training: Training) -> tuple[CrossRunConfig, dict[str, int], dict[str, Any]]:
    learn = [_worker["trajectories"][place] for place in training.learn]
    network = fit(learn, training.config, tick=_tick)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return network.config, network.sizes, weights


def _tick(*_: object) -> None:
    with _worker["steps"].get_lock():
        _worker["steps"].value += 1


def _rebuild(
    config: CrossRunConfig, sizes: dict[str, int], weights: dict[str, Any]
) -> CrossRunNetwork:
    network = CrossRunNetwork(config, sizes)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.eval()


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
