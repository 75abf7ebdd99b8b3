"""Between a training on Ray Train and the Tune trial that runs it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

TARGET_COVERAGE: Final = 0.8


@contextmanager
def reporting(*, states: bool) -> Iterator[Any]:
    """In a trial: yields a Ray Train callback that passes every epoch, once, to Tune.

    Ray's own passes metrics only; a population takes over states too, and so needs them in Tune.

    Args:
        states: report the training's state with each epoch, so that another trial can take over.
    """
    from ray import tune
    from ray.train import UserCallback
    from ray.util.queue import Queue

    class Reporter(UserCallback):
        def __init__(self, queue: Any) -> None:
            self._queue, self._seen = queue, 0.0

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            del run_context
            row = metrics[0]
            if row.get("epoch", 0.0) <= self._seen:
                return  # a state in the middle of an epoch
            self._seen = row["epoch"]
            self._queue.put((row, checkpoint if states else None))

    # Of one place: the training waits before the state after next replaces one not yet copied.
    queue = Queue(1, actor_options={"num_cpus": 0})

    def pass_on() -> None:
        while (item := queue.get()) is not None:
            row, state = item
            if state is not None:
                state = tune.Checkpoint(state.path, state.filesystem)
            tune.report(with_calibration(row), checkpoint=state)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield Reporter(queue)
    finally:
        queue.put(None)
        thread.join()


def with_calibration(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch and how far its 80 % band's coverage is from 80 %."""
    coverage = row.get("validation_coverage_80")
    if coverage is None:
        return dict(row)
    return {**row, "calibration_error": abs(coverage - TARGET_COVERAGE)}
