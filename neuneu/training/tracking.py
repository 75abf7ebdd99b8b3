"""Following trainings with TensorBoard, Weights & Biases or MLflow.

The tracker gets the resolved config and every epoch's metrics. Which of its runs a training is,
and how many epochs it has, lies in `tracking.json` of the output: a training that goes on goes on
in the same run, and no epoch comes twice. A tracker that does not answer holds nothing up: what it
missed comes with the next epoch.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuneu.core.storage import Folder
from neuneu.training import trackers
from neuneu.training.tracker import Tracker, TrackerError, TrackingConfig

RECORD: Final = "tracking.json"
_log = logging.getLogger(__name__)


class FollowedTraining:
    """One training in its tracker, for the one process that tells it."""

    def __init__(
        self, config: TrackingConfig, output: Folder, settings: Mapping[str, Any], name: str
    ) -> None:
        """Opens the tracker's run, or goes on in it.

        Args:
            config: the tracker.
            output: the training's folder.
            settings: its resolved config.
            name: of the run, unless the config has one.

        Raises:
            TrackerError: a first run could not be opened.
        """
        self._config, self._output, self._settings = config, output, settings
        self._name = config.name or name
        self._run, self._epochs = self._recorded()
        self._tracker: Tracker | None = None
        try:
            self._opened()
        except TrackerError as error:
            if self._run is None:
                raise
            _log.warning("%s; tried again with the next epoch", error)

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Logs what the tracker does not have of a training's rows, one an epoch."""
        try:
            tracker = self._opened()
            for row in history[self._epochs :]:
                tracker.log(int(row["step"]), row)
                self._epochs += 1
                self._write()
        except TrackerError as error:
            _log.warning("%s; tried again with the next epoch", error)

    def close(self, *, finished: bool) -> None:
        """Ends the run; it can be gone on with later."""
        if self._tracker is None:
            return
        try:
            self._tracker.close(finished=finished)
        except TrackerError as error:
            _log.warning("%s; its run stays open there", error)

    def _opened(self) -> Tracker:
        if self._tracker is None:
            self._tracker = trackers.open_tracker(
                self._config, self._output, self._settings, name=self._name, run=self._run
            )
            self._run = self._tracker.run
            self._write()
        return self._tracker

    def _key(self) -> dict[str, Any]:
        """What runs are looked up by: in another place there is no such run."""
        config = self._config
        return {"kind": config.kind, "project": config.project, "address": config.address}

    def _recorded(self) -> tuple[str | None, int]:
        try:
            record = json.loads(self._output.read(RECORD))
        except FileNotFoundError:
            return None, 0
        if {name: record.get(name) for name in self._key()} != self._key():
            return None, 0
        return str(record["run"]), int(record["epochs"])

    def _write(self) -> None:
        record = self._key() | {"run": self._run, "epochs": self._epochs}
        self._output.write(RECORD, (json.dumps(record, indent=1) + "\n").encode())
