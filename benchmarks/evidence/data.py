"""The data of the study: the ladder with all its choices, and Gemstones with its gold losses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray, FloatArray32, IntArray
from neuneu.data.choice_metrics import item_starts
from neuneu.data.choices import Choices, ItemSet
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.margins import item_margins

FAMILY = "evidence"


def read_ladder(work: Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """Return trajectories of `acc` of finished runs with their choices, and what was scored.

    Raises:
        UserError: Nothing is finished there.
    """
    path = work / "scores.json"
    if not path.exists():
        raise UserError(f"{path}: found nothing; run benchmarks/evidence/ladder.py first.")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    items = list(item_sets(record["tasks"], dict(np.load(work / "items.npz"))))
    most = max(len(_files(work, run)) for run in record["runs"])
    trajectories = []
    for run, facts in record["runs"].items():
        files = _files(work, run)
        if len(files) < most:
            continue  # not finished
        scored = [np.load(file) for file in files]
        logprobs = np.stack([part["logprobs"] for part in scored])
        losses = np.array([float(part["loss"]) for part in scored])
        steps = np.array([int(file.stem) for file in files])
        for (task, place), item_set in zip(places(record["tasks"]), items, strict=True):
            choices = Choices(
                family=FAMILY, suite=FAMILY, run=run, params=facts["params"], items=item_set,
                steps=steps, tokens=steps * float(facts["batch_tokens"]),
                logprobs=logprobs[:, place],
            )  # fmt: skip
            trajectories.append(with_items(_empty(choices, task, facts, losses), choices))
    return trajectories, record


def with_items(trajectory: Trajectory, choices: Choices) -> Trajectory:
    """Return a trajectory with the choices given, and the accuracies that follow from them."""
    right = item_margins(choices, trajectory.metric) > 0
    values = right.mean(axis=1, dtype=np.float64)
    return replace(
        trajectory,
        values=values,
        stderrs=np.sqrt(values * (1 - values) / right.shape[1]),
        choices=choices,
    )


def some_items(choices: Choices, keep: IntArray) -> Choices:
    """Return the choices of some items, given by their indices."""
    items = choices.items
    starts = item_starts(items.docs)
    item = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(items.docs)))
    chosen = np.isin(item, keep)
    columns = {
        name: getattr(items, name)[chosen]
        for name in ("docs", "choices", "n_tokens", "n_chars", "n_bytes")
    }
    kept = replace(items, labels=items.labels[np.sort(keep)], **columns)
    return replace(choices, items=kept, logprobs=choices.logprobs[:, chosen])


def places(tasks: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], slice]]:
    """Yield every task with the place of its requests among those of all tasks."""
    start = 0
    for task in tasks:
        yield task, slice(start, start + task["requests"])
        start += task["requests"]


def item_sets(tasks: list[dict[str, Any]], columns: dict[str, IntArray]) -> Iterator[ItemSet]:
    """Yield the items of every task."""
    for task, place in places(tasks):
        own = {name: values[place].astype(np.int64) for name, values in columns.items()}
        starts = item_starts(own["docs"])
        own["labels"] = own["labels"][starts]
        yield ItemSet(
            task=task["task"], task_hash=task["task"], format=task["format"], num_fewshot=0, **own
        )


def _files(work: Path, run: str) -> list[Path]:
    return sorted((work / "scores" / run).glob("*.npz"))


def _empty(
    choices: Choices, task: dict[str, Any], facts: dict[str, Any], losses: FloatArray
) -> Trajectory:
    unknown = np.full(len(choices), np.nan)
    return Trajectory(
        family=FAMILY, suite=FAMILY, run=choices.run, params=facts["params"], num_fewshot=0,
        task=task["task"], metric="acc", steps=choices.steps, tokens=choices.tokens,
        flops=6 * facts["params"] * choices.tokens, values=unknown, stderrs=unknown,
        losses={"validation": losses}, planned_tokens=float(facts["planned_tokens"]),
        chance=task["chance"], base_task=task["task"], recipe=facts["recipe"],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldLosses:
    """Losses (n, D) of the right answers of one task in one run, in nats."""

    run: str
    task: str
    losses: FloatArray32


def read_gold_losses(path: Path) -> Iterator[GoldLosses]:
    """Yield the losses of every run and task in Gemstones' `item_losses.parquet`."""
    table = pq.read_table(path).to_pandas().sort_values(["run", "task", "step", "subset"])
    for (run, task), rows in table.groupby(["run", "task"]):
        by_step = [np.concatenate(list(of.gold_nll)) for _, of in rows.groupby("step")]
        yield GoldLosses(run=run, task=task, losses=np.stack(by_step).astype(np.float32))
