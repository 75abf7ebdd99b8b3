"""The edge between the training loop and Ray Train: one process of a data-parallel training."""

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neuneu.core import logs
from neuneu.training.learner import Learner, Ranks
from neuneu.training.loop import DivergedError, FitState, bare_network, fit
from neuneu.training.observer import TrainingObserver
from neuneu.training.optimisation import load_optimizer, make_optimizer, total_steps

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig

STATE = "state.pt"


def worker(loop: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs.

    Args:
        loop: `config` (TrainConfig), `learner` (a Ray reference to one), `output` (Folder), and
            optionally `start`, the `ray.train.Checkpoint` to go on from where there is no own,
            and `logs`, the driver's `logs.environment`.

    Returns:
        None, or why training cannot go on: a retry would diverge again, so it is no exception.
    """
    import ray
    import ray.train
    import ray.train.torch

    logs.follow(loop.get("logs", {}))
    config: TrainConfig = loop["config"]
    learner: Learner = ray.get(loop["learner"])
    context = ray.train.get_context()
    ranks = Ranks(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    if not config.use_gpu:
        torch.set_num_threads(config.cpus_per_worker)
    torch.manual_seed(config.seed)
    bare = learner.build()
    own = ray.train.get_checkpoint()
    checkpoint = own or loop.get("start")
    payload = load_state(checkpoint) if checkpoint is not None else None
    if payload is not None:
        bare.load_state_dict(payload["model"])
    network = ray.train.torch.prepare_model(bare)
    settings = config.loop
    optimizer = make_optimizer(settings.optim, network)
    state = FitState()
    if payload is not None:
        load_optimizer(optimizer, payload["optimizer"])
        state = FitState(**{field.name: payload[field.name] for field in fields(FitState)})
    total = total_steps(settings.optim, learner.steps_per_epoch(settings.optim.batch_size))

    def save(state: FitState) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reported = None
            if ranks.rank == 0:
                contents = vars(state) | {
                    "total": total,
                    "model": bare_network(network).state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                torch.save(contents, Path(folder) / STATE)
                reported = ray.train.Checkpoint.from_directory(folder)
            row = state.history[-1] if state.history else {}
            ray.train.report(row | {"step": state.step}, checkpoint=reported)
        observer.saved(state)

    observer = TrainingObserver(config, loop["output"], rank=ranks.rank, state=state)
    finished = False
    try:
        fit(
            network, optimizer, learner, settings, state,
            save=save, tick=observer.tick, ranks=ranks,
        )  # fmt: skip
        if own is None and payload is not None and state.step == payload["step"]:
            save(state)  # taken over at its end, as from a trial that had finished
        finished = True
    except DivergedError as error:
        return str(error)
    finally:
        observer.close(finished=finished)
    return None


def load_state(checkpoint: Any) -> dict[str, Any]:
    """The contents of a `ray.train.Checkpoint` that a worker saved (no code is unpickled)."""
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True))
