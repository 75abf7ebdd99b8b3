"""Edge between the training loop and Ray Train: one process of a data-parallel training."""

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from neuneu.core import logs, ray_metrics
from neuneu.core.config import config_to_dict
from neuneu.core.storage import Folder
from neuneu.training.learner import Learner, Ranks
from neuneu.training.loop import DivergedError, train_from
from neuneu.training.tracking import TrackedTraining

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig

STATE: Final = "state.pt"
PROGRESS: Final = "progress.json"
SNAPSHOT: Final = "checkpoint_manager_snapshot.json"
"""Ray's list of states."""
DAMAGED: Final = "checkpoint_manager_snapshot.damaged"
_log = logging.getLogger(__name__)


def worker(loop: dict[str, Any]) -> str | None:
    """Run the training loop in a Ray Train worker.

    Args:
        loop: `config` (TrainConfig), `learner` (a Ray reference to one), `output` (Folder), and
            optionally `start`, a `ray.train.Checkpoint` to resume from where the training has none
            of its own, and `logs`, the driver's `logs.environment`.

    Returns:
        None, or why training diverged. This is no exception, since a retry would diverge again.
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
    own = ray.train.get_checkpoint()
    checkpoint = own or loop.get("start")
    saved = load_state(checkpoint) if checkpoint is not None else None

    def save(state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reported = None
            if ranks.rank == 0:
                torch.save(state, Path(folder) / STATE)
                reported = ray.train.Checkpoint.from_directory(folder)
            row = state["history"][-1] if state["history"] else {}
            ray.train.report(row | {"step": state["step"]}, checkpoint=reported)
        observer.saved(state)

    observer = TrainingObserver(config, loop["output"], rank=ranks.rank, saved=saved)
    finished = False
    try:
        state = train_from(
            saved, learner, config.loop,
            save=save, tick=observer.tick, ranks=ranks, wrap=ray.train.torch.prepare_model,
        )  # fmt: skip
        if own is None and saved is not None and state["step"] == saved["step"]:
            save(state)  # resumed at its end, as from a trial that had finished
        finished = True
    except DivergedError as error:
        return str(error)
    finally:
        observer.close(finished=finished)
    return None


class TrainingObserver:
    """Reports progress, Ray metrics, log lines and a tracker's metrics for one worker.

    Workers other than the first report their number of samples only.
    """

    def __init__(
        self,
        config: "TrainConfig",
        output: Folder,
        *,
        rank: int = 0,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the tracker, if there is one.

        Args:
            config: the training.
            output: its folder.
            rank: rank of this worker.
            saved: the state that the training resumes from, if any.

        Raises:
            TrackerError: the tracker of a new training could not be opened.
        """
        self._output, self._first = output, rank == 0
        self._name = ray_metrics.training_name(str(output))
        self._progress_at = 0.0
        self._progress_every_s = 0.5 if output.is_local else 10.0  # each is a request to S3
        self._tracked: TrackedTraining | None = None
        if config.tracking is not None and self._first:
            settings = config_to_dict(config)
            self._tracked = TrackedTraining(config.tracking, output, settings, self._name)
            self._tracked.follow(saved["history"] if saved else [])
        if self._first and saved:
            _log.info("resumes", extra={"from_step": saved["step"]})

    def tick(self, step: int, total: int, loss: float, samples: int) -> None:
        """Report a step (see `loop.Tick`)."""
        ray_metrics.TRAINING_SAMPLES.record(samples, training=self._name)
        if not self._first:
            return
        ray_metrics.TRAINING_LOSS.record(loss, training=self._name)
        if step == total or time.monotonic() - self._progress_at >= self._progress_every_s:
            self._progress_at = time.monotonic()
            now = {"step": step, "total": total, "loss": loss}
            self._output.write(PROGRESS, json.dumps(now).encode())

    def saved(self, state: Mapping[str, Any]) -> None:
        """Report a saved state, at the end of an epoch or within one."""
        history = state["history"]
        if self._first and history and history[-1]["step"] == state["step"]:
            _log.info("epoch", extra=history[-1])
        if self._tracked is not None:
            self._tracked.follow(history)

    def close(self, *, finished: bool) -> None:
        """End the tracker's run, for now or for good."""
        if self._tracked is not None:
            self._tracked.close(finished=finished)


def load_state(checkpoint: Any) -> dict[str, Any]:
    """Read the `ray.train.Checkpoint` that a worker saved; no code is unpickled."""
    with checkpoint.as_directory() as folder:
        return dict(torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True))


def unlisted_state(folder: Folder) -> Any:
    """Return the newest complete state (`ray.train.Checkpoint`) if Ray's list of them is damaged.

    Ray writes that list in place: a kill or a full disk can truncate it, and Ray then refuses to
    train in that folder. A damaged list is set aside. None if the list is fine, or without states.
    """
    from ray.train import Checkpoint

    if folder.exists(SNAPSHOT):
        content = folder.read(SNAPSHOT)
        try:
            json.loads(content)
        except ValueError:
            folder.write(DAMAGED, content)
            folder.delete(SNAPSHOT)
            _log.warning("the list of states is damaged, set aside", extra={"folder": str(folder)})
        else:
            return None
    for name in sorted(folder.files(f"/{STATE}"), reverse=True):  # named by their time
        checkpoint = Checkpoint(str(folder / name.rpartition("/")[0]))
        try:
            load_state(checkpoint)
        except Exception as error:  # noqa: BLE001 - reading a truncated file raises anything
            _log.warning("incomplete state: %s", error, extra={"state": name})
            continue
        return checkpoint
    return None
