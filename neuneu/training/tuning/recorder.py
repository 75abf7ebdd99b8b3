"""A Ray Tune callback that records the trials of a search in `trials.jsonl`."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ray.tune import Callback
from ray.tune.result import AUTO_RESULT_KEYS

from neuneu.core.errors import StorageError
from neuneu.core.storage import Folder
from neuneu.training.tuning.experiment import (
    TRIALS,
    Report,
    Status,
    Trial,
    read_trials,
    trial_lines,
)

_logger: Final = logging.getLogger(__name__)

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION: Final = re.compile(
    r"^(\w+\.)*\w*(Error|Exception|Interrupt|Exit|Timeout)(\(\w+\))?(:|$)"
)


class TrialRecorder(Callback):
    """Writes the whole file after every event: an interrupted search loses nothing.

    Ray restores callbacks by unpickling, so the state is read back in `setup`.
    """

    def __init__(self, output: Folder, epochs: int) -> None:
        """Records to `output`; a trial that reports `epochs` has finished."""
        self._output, self._epochs = output, epochs
        self._trials: dict[str, Trial] = {}

    def setup(self, *_: Any, **__: Any) -> None:
        """Continues with the trials recorded before an interruption."""
        self._trials = {trial.id: trial for trial in read_trials(self._output)}

    def on_trial_start(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """Records a trial that starts, or starts again after it failed."""
        self._record(replace(self._known(trials, trial), status="unfinished", error=""))

    def on_trial_result(
        self, *, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Records an epoch, and whether the scheduler stops the trial after it."""
        row = {key: value for key, value in result.items() if key not in AUTO_RESULT_KEYS}
        stopped = row.pop("done", False)
        known = self._known(trials, trial).reporting(Report.of_row(row), result["time_this_iter_s"])
        status: Status = "stopped" if stopped else "unfinished"
        if known.epochs >= self._epochs:
            status = "finished"
        self._record(replace(known, status=status))

    def on_trial_complete(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """Records the end of a trial that ended by itself, before its last epoch."""
        known = self._known(trials, trial)
        if known.status == "unfinished":
            self._record(replace(known, status="finished" if known.reports else "failed"))

    def on_trial_error(self, *, trials: list[Any], trial: Any, **_: Any) -> None:
        """Records a failure that is not retried."""
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        self._record(replace(self._known(trials, trial), status="failed", error=last_error(text)))

    def on_experiment_end(self, **_: Any) -> None:
        """Writes what an unavailable store may have missed."""
        self._output.write(TRIALS, trial_lines(self._trials.values()))

    def _known(self, trials: list[Any], trial: Any) -> Trial:
        """A trial as recorded so far; new ones get their numbers in the order of their creation."""
        for each in trials:
            self._trials.setdefault(
                each.trial_id,
                Trial(
                    id=each.trial_id,
                    number=len(self._trials) + 1,
                    status="not started",
                    parameters=dict(each.config),
                ),
            )
        return replace(self._trials[trial.trial_id], parameters=dict(trial.config))

    def _record(self, trial: Trial) -> None:
        self._trials[trial.id] = trial
        try:
            self.on_experiment_end()
        except StorageError as error:  # the next event writes it
            _logger.warning("%s/%s: not written (%s)", self._output, TRIALS, error)


def last_error(text: str) -> str:
    """The line of a traceback that names the exception; else its last line."""
    lines = [line for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    named = [line for line in lines if _EXCEPTION.match(line)]
    return (named or lines or [""])[-1].strip()
