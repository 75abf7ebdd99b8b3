"""Track trainings with TensorBoard, Weights & Biases or MLflow.

The tracker gets the resolved config and every epoch's metrics. `tracking.json` in the output holds
the id of the tracker's run and the number of epochs logged: a resumed training continues in the
same run, and no epoch is logged twice. A failing tracker never holds a training up; missed epochs
are logged with the next one.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from neuneu.core.errors import NeuneuError
from neuneu.core.redaction import without_secrets
from neuneu.core.storage import Folder
from neuneu.training import trackers
from neuneu.training.trackers import Tracker, TrackingConfig

RECORD: Final = "tracking.json"
_log = logging.getLogger(__name__)


class TrackerError(NeuneuError):
    """A tracker failed."""


class TrackedTraining:
    """One training in its tracker, used by the first worker only."""

    def __init__(
        self, config: TrackingConfig, output: Folder, settings: Mapping[str, Any], name: str
    ) -> None:
        """Start the tracker's run, or resume it.

        Args:
            config: the tracker.
            output: the training's folder.
            settings: its resolved config.
            name: name of the run, unless the config has one.

        Raises:
            TrackerError: a new run could not be started.
        """
        self._config, self._output, self._settings = config, output, settings
        self._name = config.name or name
        self._run, self._epochs = self._recorded()
        self._tracker: Tracker | None = None
        with self._failing("tried again with the next epoch", fatal=self._run is None):
            self._opened()

    def follow(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the rows of a training's history, one per epoch, that the tracker does not have."""
        with self._failing("tried again with the next epoch"):
            tracker = self._opened()
            for row in history[self._epochs :]:
                tracker.log(int(row["step"]), row)
                self._epochs += 1
                self._write()

    def close(self, *, finished: bool) -> None:
        """End the run; it can be resumed later."""
        if self._tracker is not None:
            with self._failing("its run stays open there"):
                self._tracker.close(finished=finished)

    @contextmanager
    def _failing(self, consequence: str, *, fatal: bool = False) -> Iterator[None]:
        """Warn of errors in the block, or raise them if `fatal`."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises
            text = without_secrets(f"{type(error).__name__}: {error}")
            message = f"tracking: {self._config.kind} failed ({text})"
            if fatal:
                raise TrackerError(message) from None
            _log.warning("%s; %s", message, consequence)

    def _opened(self) -> Tracker:
        if self._tracker is None:
            self._tracker = trackers.open_tracker(
                self._config, self._output, self._settings, name=self._name, run=self._run
            )
            self._run = self._tracker.run
            self._write()
        return self._tracker

    def _key(self) -> dict[str, Any]:
        """Identify the tracker: another one has no such run."""
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
