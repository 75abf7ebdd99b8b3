"""Several trainings side by side: on Ray Train where Ray is installed, else in this process.

Each training has one thread, since a network this small gains little from a second.
"""

import importlib.util
import io
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import torch

from neuneu.core import logs
from neuneu.core.config import config_hash, config_to_dict
from neuneu.core.errors import NeuneuError
from neuneu.core.storage import Folder
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.fitting import CrossRunLearner
from neuneu.training.loop import DivergedError, train_from
from neuneu.training.run import STATES, fit_on_ray, progress
from neuneu.training.worker import STATE, TrainingObserver

ERROR: Final = "error.txt"
Trainings = Sequence[tuple[CrossRunLearner, Folder]]


def fit_all(
    learners: Sequence[CrossRunLearner],
    *,
    title: str = "train",
    workers: int | None = None,
    folder: Folder | None = None,
    address: str | None = None,
) -> list[CrossRunNetwork]:
    """Train the networks of all learners; the same whatever the number of workers.

    Args:
        learners: at least one.
        title: title of the progress bar.
        workers: trainings at a time on Ray; None: as many as there are CPUs.
        folder: states, for resuming; shared by all machines of a cluster. None: a temporary one.
        address: a Ray cluster; None: the current one, else a small one on this machine.

    Raises:
        NeuneuError: a training failed; those not yet started are cancelled.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="neuneu-") as path:
            return fit_all(
                learners, title=title, workers=workers, folder=Folder(path), address=address
            )
    folder = folder.absolute()
    identities = [{"fit": config_to_dict(one.config), "data": one.digest} for one in learners]
    outputs = [folder / f"{index}-{config_hash(one)}" for index, one in enumerate(identities)]
    for output in outputs:
        output.delete(ERROR)
    trainings = list(zip(learners, outputs, strict=True))
    if has_ray():
        _train_on_ray(trainings, workers, folder, title, address)
    else:
        with progress(title, outputs):
            train_share(trainings, 0, 1)
    for output in outputs:
        with suppress(FileNotFoundError):
            raise NeuneuError(output.read(ERROR).decode())
    states = [_read_state(output) for output in outputs]
    return [
        learner.load(state["average"] or state["model"])
        for learner, state in zip(learners, states, strict=True)
        if state
    ]


def has_ray() -> bool:
    """Return whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def train_share(trainings: Trainings, rank: int, world: int) -> None:
    """Train every `world`-th learner, from its last state in its folder to its end.

    A training that diverges leaves `ERROR` there, and no further one is started.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # rounding depends on it
    try:
        for learner, output in trainings[rank::world]:
            if any(other.exists(ERROR) for _, other in trainings):
                return
            _train(learner, output)
    finally:
        torch.set_num_threads(threads)


def _train(learner: CrossRunLearner, output: Folder) -> None:
    config = TrainConfig(output=str(output), cross_run=learner.config, seed=learner.config.seed)
    saved = _read_state(output)
    observer = TrainingObserver(config, output, saved=saved)

    def save(state: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        output.write(STATE, content.getvalue())
        observer.saved(state)

    try:
        train_from(saved, learner, config.loop, save=save, tick=observer.tick)
    except DivergedError as error:
        output.write(ERROR, str(error).encode())


def _read_state(output: Folder) -> dict[str, Any] | None:
    try:
        content = output.read(STATE)
    except FileNotFoundError:
        return None
    return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def _train_on_ray(
    trainings: Trainings, workers: int | None, folder: Folder, title: str, address: str | None
) -> None:
    import ray

    from neuneu.core.ray_session import ray_session

    with ray_session(address), progress(title, [output for _, output in trainings]):
        free = int(ray.available_resources().get("CPU", 0))
        if not free:  # a job whose own process holds all CPUs would wait for ever
            train_share(trainings, 0, 1)
            return
        count = min(workers or free, free, len(trainings))
        arguments = {"trainings": ray.put(trainings), "logs": logs.environment()}
        config = TrainConfig(output=str(folder), workers=count)
        fit_on_ray(_worker, arguments, config, folder / STATES, name=uuid.uuid4().hex)


def _worker(arguments: dict[str, Any]) -> None:
    import ray
    import ray.train

    logs.follow(arguments["logs"])
    context = ray.train.get_context()
    train_share(ray.get(arguments["trainings"]), context.get_world_rank(), context.get_world_size())
