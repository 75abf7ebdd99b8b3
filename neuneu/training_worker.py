"""The edge between the training loop and Ray Train: one process of a data-parallel training."""

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neuneu.files import write_text_atomic
from neuneu.model.network import Network
from neuneu.training_data import TrainingData
from neuneu.training_loop import (
    DivergedError,
    FitState,
    Ranks,
    bare_network,
    fit,
    make_optimizer,
    total_steps,
)

if TYPE_CHECKING:
    from neuneu.training import TrainConfig

STATE = "state.pt"
TICK_SECONDS = 0.5


def worker(loop: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs.

    Args:
        loop: `config` (TrainConfig), `data` (a Ray reference to TrainingData), `output` (path).

    Returns:
        None, or why training cannot go on: a retry would diverge again, so it is no exception.
    """
    import ray
    import ray.train
    import ray.train.torch

    config: TrainConfig = loop["config"]
    data: TrainingData = ray.get(loop["data"])
    context = ray.train.get_context()
    ranks = Ranks(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )
    if not config.use_gpu:
        torch.set_num_threads(config.cpus_per_worker)
    torch.manual_seed(config.seed)
    bare = Network(data.model)
    checkpoint = ray.train.get_checkpoint()
    payload = load_state(checkpoint) if checkpoint is not None else None
    if payload is not None:
        bare.load_state_dict(payload["model"])
    network = ray.train.torch.prepare_model(bare)
    optimizer = make_optimizer(config, network)
    state = FitState()
    if payload is not None:
        optimizer.load_state_dict(payload["optimizer"])
        state = FitState(**{key: payload[key] for key in ("step", "history", "epoch_loss", "best")})

    def save(state: FitState) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reported = None
            if ranks.rank == 0:
                contents = vars(state) | {
                    "total": total_steps(config, data),
                    "model": bare_network(network).state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                torch.save(contents, Path(folder) / STATE)
                reported = ray.train.Checkpoint.from_directory(folder)
            row = state.history[-1] if state.history else {}
            ray.train.report(row | {"step": state.step}, checkpoint=reported)

    ticker = _Ticker(Path(loop["output"]) / "progress.json", enabled=ranks.rank == 0)
    try:
        fit(network, optimizer, data, config, state, save=save, tick=ticker.tick, ranks=ranks)
    except DivergedError as error:
        return str(error)
    return None


def load_state(checkpoint: Any) -> dict[str, Any]:
    """The contents of a `ray.train.Checkpoint` that a worker saved (no code is unpickled)."""
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True))


class _Ticker:
    """Writes a small JSON about twice a second, for whoever shows the progress."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path, self._enabled, self._last = path, enabled, 0.0

    def tick(self, step: int, total: int, loss: float) -> None:
        due = step == total or time.monotonic() - self._last >= TICK_SECONDS
        if self._enabled and due:
            self._last = time.monotonic()
            write_text_atomic(self._path, json.dumps({"step": step, "total": total, "loss": loss}))
