"""Edge between a training on Ray Train and the Tune trial that runs it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

TARGET_COVERAGE: Final = 0.8


@dataclass
class Passing:
    """A Ray Train callback that passes epochs to Tune, and the last epoch passed."""

    callback: Any
    epoch: float = 0.0


@contextmanager
def reporting(*, states: bool) -> Iterator[Passing]:
    """In a trial: passes every epoch of a training, once, to Tune.

    Ray's own callback passes metrics only; a population takes over states too, and so needs them
    in Tune. What Tune refuses is raised at the end of the block, at the latest.

    Args:
        states: report the training's state with each epoch, so that another trial can take over.
            The training's next report then waits until Tune has its copy: the training keeps two
            states, and would delete this one.
    """
    from ray import tune
    from ray.train import UserCallback
    from ray.util.queue import Queue

    class Reporter(UserCallback):
        def __init__(self, epochs: Any, copied: Any) -> None:
            self._epochs, self._copied, self._seen = epochs, copied, 0.0

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            del run_context
            row = metrics[0]
            if row.get("epoch", 0.0) <= self._seen:
                return  # a state in the middle of an epoch
            self._seen = row["epoch"]
            self._epochs.put((row, checkpoint if states else None))
            if states:
                self._copied.get()

    epochs, copied = (Queue(1, actor_options={"num_cpus": 0}) for _ in range(2))
    passing = Passing(Reporter(epochs, copied))
    failures: list[Exception] = []

    def pass_on() -> None:
        # After a failure the rest is taken and dropped: whoever puts or waits must not hang.
        while (item := epochs.get()) is not None:
            row, state = item
            try:
                if not failures:
                    if state is not None:
                        state = tune.Checkpoint(state.path, state.filesystem)
                    tune.report(with_calibration(row), checkpoint=state)
                    passing.epoch = row["epoch"]
            except Exception as error:  # noqa: BLE001 - of storage, as it comes
                failures.append(error)
            finally:
                if states:
                    copied.put(None)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield passing
    finally:
        epochs.put(None)
        thread.join()
    if failures:
        raise failures[0]


def not_passed(
    history: Sequence[Mapping[str, float]], reported: float, passed: float
) -> list[dict[str, Any]]:
    """The epochs at a training's end that Tune does not know.

    Args:
        history: all its epochs.
        reported: the last one that Tune had before this process.
        passed: the last one that this process passed on; 0 for none.
    """
    return [with_calibration(row) for row in history if row["epoch"] > max(reported, passed)]


def with_calibration(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch and the distance of its 80 % interval coverage from 80 %."""
    coverage = row.get("validation_coverage_80")
    if coverage is None:
        return dict(row)
    return {**row, "calibration_error": abs(coverage - TARGET_COVERAGE)}
