"""Metrics of a running neuneu for Prometheus, exported by Ray; see docs/observability.md.

Ray exports a metric as `ray_<name>`, a counter as `ray_<name>_total`, with labels for node, worker
and session. Tags have few values, since each combination is a time series of its own, and none is
called `job`, which Prometheus sets itself. Metrics are for watching; exact counts are in the
results.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Metric:
    """A metric by its name; Ray's own object is made when the first value is recorded."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    tags: tuple[str, ...]
    boundaries: tuple[float, ...] = ()

    def record(self, value: float, **tags: str) -> None:
        """Add to a counter, set a gauge, or put a value into a histogram.

        Nothing happens in a process that is not connected to Ray.

        Args:
            value: not negative, except for a gauge.
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
        elif value > 0:  # Ray refuses to add zero
            made.inc(value, tags=tags)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its time series in Prometheus."""
        endings = {
            "gauge": ("",),
            "counter": ("_total",),
            "histogram": ("_bucket", "_sum", "_count"),
        }
        return tuple(f"ray_{self.name}{ending}" for ending in endings[self.kind])


@functools.cache
def _made(metric: Metric) -> Any:
    from ray.util import metrics

    kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
    options = {"boundaries": list(metric.boundaries)} if metric.boundaries else {}
    return kinds[metric.kind](metric.name, metric.description, tag_keys=metric.tags, **options)


CHECKPOINTS_DONE: Final = Metric(
    "counter", "neuneu_checkpoints_done", "Checkpoints scored and committed", ("suite",)
)
CHECKPOINTS_QUARANTINED: Final = Metric(
    "counter", "neuneu_checkpoints_quarantined", "Checkpoints that failed for good",
    ("suite", "run"),
)  # fmt: skip
TOKENS_SCORED: Final = Metric(
    "counter", "neuneu_tokens_scored", "Prompt tokens of scored checkpoints", ("suite",)
)
SWAP_SECONDS: Final = Metric(
    "histogram", "neuneu_swap_seconds",
    "Seconds to put a checkpoint's weights into a running engine, proof included", ("suite",),
    (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
)  # fmt: skip
TRAINING_SAMPLES: Final = Metric(
    "counter", "neuneu_training_samples", "Samples processed by forecaster training", ("training",)
)
TRAINING_LOSS: Final = Metric(
    "gauge", "neuneu_training_loss",
    "Pinball loss of the last training step, on the first worker's samples", ("training",),
)  # fmt: skip
METRICS: Final = (
    CHECKPOINTS_DONE, CHECKPOINTS_QUARANTINED, TOKENS_SCORED, SWAP_SECONDS, TRAINING_SAMPLES,
    TRAINING_LOSS,
)  # fmt: skip


def training_name(output: str) -> str:
    """Return the tag `training` for an output folder: the last two parts of its address."""
    return "/".join(output.rstrip("/").split("/")[-2:])
