"""What a running neuneu tells Prometheus, through Ray's own metrics; docs/observability.md.

Ray exports a metric as `ray_<name>`, a counter as `ray_<name>_total`, and adds labels for node,
worker and session. Tags have few values, since each combination is a time series of its own, and
none is called `job`, which Prometheus sets itself. What metrics say is for watching; exact counts
are in the results.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric by its name; Ray's own object is made when a value first comes."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    says: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()

    def record(self, value: float, **tags: str) -> None:
        """Adds to a counter, sets a gauge, or puts a value into a histogram.

        Nothing happens in a process that is not connected to Ray.

        Args:
            value: not negative, but for a gauge.
            tags: a value for each of `tags`.
        """
        assert tags.keys() == set(self.tags), (self.name, tags)
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        made = _made(self)
        if self.kind == "gauge":
            made.set(value, tags=tags)
        elif self.kind == "histogram":
            made.observe(value, tags=tags)
        elif value > 0:  # Ray refuses to add nothing
            made.inc(value, tags=tags)

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        name = f"ray_{self.name}"
        if self.kind == "histogram":
            return f"{name}_bucket", f"{name}_sum", f"{name}_count"
        return (f"{name}_total",) if self.kind == "counter" else (name,)


@functools.cache
def _made(metric: Metric) -> Any:
    from ray.util import metrics

    made = {"counter": metrics.Counter, "gauge": metrics.Gauge}
    if metric.kind == "histogram":
        return metrics.Histogram(
            metric.name, metric.says, boundaries=list(metric.boundaries), tag_keys=metric.tags
        )
    return made[metric.kind](metric.name, metric.says, tag_keys=metric.tags)


CHECKPOINTS_DONE: Final = Metric(
    kind="counter",
    name="neuneu_checkpoints_done",
    says="Checkpoints that were scored and committed",
    tags=("suite",),
)
CHECKPOINTS_QUARANTINED: Final = Metric(
    kind="counter",
    name="neuneu_checkpoints_quarantined",
    says="Checkpoints that failed for good",
    tags=("suite", "run"),
)
TOKENS_SCORED: Final = Metric(
    kind="counter",
    name="neuneu_tokens_scored",
    says="Tokens of the prompts of scored checkpoints",
    tags=("suite",),
)
SWAP_SECONDS: Final = Metric(
    kind="histogram",
    name="neuneu_swap_seconds",
    says="Seconds to put a checkpoint's weights into a running engine, with the proof",
    tags=("suite",),
    boundaries=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
)
TRAINING_SAMPLES: Final = Metric(
    kind="counter",
    name="neuneu_training_samples",
    says="Samples that trainings of forecasters have gone through",
    tags=("training",),
)
TRAINING_LOSS: Final = Metric(
    kind="gauge",
    name="neuneu_training_loss",
    says="Pinball loss of a training's last step, on its first worker's samples",
    tags=("training",),
)
METRICS: Final = (
    CHECKPOINTS_DONE,
    CHECKPOINTS_QUARANTINED,
    TOKENS_SCORED,
    SWAP_SECONDS,
    TRAINING_SAMPLES,
    TRAINING_LOSS,
)


def training_name(output: str) -> str:
    """The tag `training` of what is written to a folder: the last two parts of its address."""
    return "/".join(output.rstrip("/").split("/")[-2:])
