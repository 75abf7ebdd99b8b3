"""Metrics of a store recomputed from its log-probabilities, without an engine."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from neuneu.core.progress import stage
from neuneu.data.choice_metrics import ACCURACY_METRICS, CONTINUOUS_METRICS, choice_metrics
from neuneu.data.schemas import ACCURACIES, LOSSES
from neuneu.data.store.store import Store

_RUN = ("family", "suite", "run", "params")
_SLOT = ("suite", "run", "step", "num_fewshot", "task", "metric")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recomputed:
    """All metrics that follow from a store's evidence.

    `metrics` has every one with its standard error, in the columns of `schemas.ACCURACIES`;
    `accuracies` those of `choice_metrics.ACCURACY_METRICS` among them. `losses`
    (`schemas.LOSSES`) has the continuous ones, named after their task. `differing` counts stored
    accuracies that are not what was recomputed; a store that nobody edited has none.
    """

    metrics: pa.Table
    accuracies: pa.Table
    losses: pa.Table
    choices: int
    differing: int


def recompute(store: Store, *, tasks: Collection[str] | None = None) -> Recomputed:
    """Recompute the metrics of a store from its log-probabilities.

    Args:
        store: a store; results of version 1, which have none, are left out.
        tasks: names of tasks; None selects all.

    Raises:
        StoreError: not a store, or a damaged file.
        DataError: a log-probability that is not finite.
    """
    names = ("suite", "run", "step")
    checkpoints = {
        tuple(row[name] for name in names): row for row in store.checkpoints().to_pylist()
    }
    rows: list[dict[str, Any]] = []
    count = 0
    with stage("recompute metrics") as bar:
        for choices in store.choices(tasks=tasks):
            count += choices.logprobs.size
            who = {name: getattr(choices, name) for name in _RUN}
            task = {"task": choices.items.task, "num_fewshot": choices.items.num_fewshot}
            records = [checkpoints[choices.suite, choices.run, int(s)] for s in choices.steps]
            for metric, series in choice_metrics(choices).items():
                known = np.isfinite(series.stderrs)
                rows += [
                    who | task | {
                        "metric": metric, "value": float(series.values[i]),
                        "stderr": float(series.stderrs[i]) if known[i] else None,
                    } | {k: record[k] for k in ("step", "tokens", "flops", "planned_tokens")}
                    for i, record in enumerate(records)
                ]  # fmt: skip
            bar.advance(1, f"{choices.run} {choices.items.task}")
    bounded = [row for row in rows if row["metric"] in ACCURACY_METRICS]
    losses = [
        {name: row[name] for name in LOSSES.names if name != "name"} | {"name": row["task"]}
        for row in rows
        if row["metric"] in CONTINUOUS_METRICS
    ]
    found = {tuple(row[name] for name in _SLOT): row["value"] for row in bounded}
    differing = sum(
        found.get(tuple(row[name] for name in _SLOT), row["value"]) != row["value"]
        for row in store.accuracies().to_pylist()
    )
    return Recomputed(
        metrics=pa.Table.from_pylist(rows, schema=ACCURACIES),
        accuracies=pa.Table.from_pylist(bounded, schema=ACCURACIES),
        losses=pa.Table.from_pylist(losses, schema=LOSSES),
        choices=count,
        differing=differing,
    )
