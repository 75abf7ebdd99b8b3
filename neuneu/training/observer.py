"""What a training tells whoever watches it: progress, metrics of Ray, log lines, a tracker."""

import json
import logging
import time
from typing import TYPE_CHECKING

from neuneu.core import ray_metrics
from neuneu.core.config import config_to_dict
from neuneu.core.storage import Folder
from neuneu.training.loop import FitState
from neuneu.training.tracking import FollowedTraining

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig

PROGRESS = "progress.json"
_log = logging.getLogger(__name__)


class TrainingObserver:
    """One worker's; all but the count of its samples is told by the first worker alone."""

    def __init__(
        self, config: "TrainConfig", output: Folder, *, rank: int, state: FitState
    ) -> None:
        """Opens the tracker, if there is one.

        Args:
            config: the training's.
            output: its folder.
            rank: of this worker.
            state: where it starts or goes on.

        Raises:
            TrackerError: the tracker of a new training could not be opened.
        """
        self._output, self._first = output, rank == 0
        self._name = ray_metrics.training_name(str(output))
        self._progress_at = 0.0
        self._progress_every_s = 0.5 if output.is_local else 10.0  # each is a request to S3
        self._followed: FollowedTraining | None = None
        if config.tracking is not None and self._first:
            settings = config_to_dict(config)
            self._followed = FollowedTraining(config.tracking, output, settings, self._name)
            self._followed.follow(state.history)
        if self._first and state.step:
            _log.info("goes on", extra={"from_step": state.step})

    def tick(self, step: int, total: int, loss: float, samples: int) -> None:
        """A step was done (`training_loop.Tick`)."""
        ray_metrics.TRAINING_SAMPLES.record(samples, training=self._name)
        if not self._first:
            return
        ray_metrics.TRAINING_LOSS.record(loss, training=self._name)
        if step == total or time.monotonic() - self._progress_at >= self._progress_every_s:
            self._progress_at = time.monotonic()
            now = {"step": step, "total": total, "loss": loss}
            self._output.write(PROGRESS, json.dumps(now).encode())

    def saved(self, state: FitState) -> None:
        """A state was saved, at the end of an epoch or within one."""
        if self._first and state.history and state.history[-1]["step"] == state.step:
            _log.info("epoch", extra=state.history[-1])
        if self._followed is not None:
            self._followed.follow(state.history)

    def close(self, *, finished: bool) -> None:
        """The training ended, for now or for good."""
        if self._followed is not None:
            self._followed.close(finished=finished)
