"""Synthetic families of accuracy curves, and their table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuneu.data.schemas import ACCURACIES
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query


def trajectory(
    values: list[float] | np.ndarray,
    *,
    steps: list[int] | None = None,
    run: str = "r",
    task: str = "t",
    losses: dict[str, np.ndarray] | None = None,
) -> Trajectory:
    """Return a trajectory with 1000 tokens per step."""
    n = len(values)
    at = np.array(steps if steps is not None else range(1, n + 1), dtype=np.int64)
    return Trajectory(
        family="f", suite="s", run=run, params=1e6, num_fewshot=0, task=task, metric="acc",
        steps=at, tokens=at * 1e3, flops=at * 6e9, values=np.asarray(values, dtype=np.float64),
        stderrs=np.full(n, np.nan), losses=losses or {}, base_task=task,
    )  # fmt: skip


def family(runs: list[str], *, tasks: int = 6, n: int = 14, seed: int = 0) -> list[Trajectory]:
    """Return curves a - b x step^-c, whose past determines their future."""
    generator = np.random.default_rng(seed)
    result = []
    for run in runs:
        for task in range(tasks):
            top, rise, rate = generator.uniform((0.5, 0.2, 0.2), (0.9, 0.4, 0.6))
            values = top - rise * np.arange(1, n + 1) ** -rate
            noisy = values + generator.normal(0, 0.002, n)
            losses = {"v": 2.0 + 2.0 * np.arange(1, n + 1) ** -rate}
            result.append(trajectory(noisy.clip(0, 1), run=run, task=f"t{task}", losses=losses))
    return result


def ask(full: Trajectory, end: int, *, oracle: bool = False) -> Query:
    """Return the query with the first `end` checkpoints as context, optionally future losses."""
    truth = full.slice(end, len(full))
    return Query(
        context=full.slice(0, end),
        target_steps=truth.steps,
        target_tokens=truth.tokens,
        target_flops=truth.flops,
        future_losses=dict(truth.losses) if oracle else None,
    )


def ladder(
    n_runs: int = 6, *, n: int = 20, tasks: int = 4, seed: int = 0, prefix: str = "r"
) -> list[Trajectory]:
    """Return runs of growing size whose tasks jump at a point that only other runs reveal."""
    generator = np.random.default_rng(seed)
    jumps = generator.uniform(0.35, 0.8, tasks)
    result = []
    for index in range(n_runs):
        for task, jump in enumerate(jumps):
            share = np.arange(1, n + 1) / n
            values = 0.25 + 0.3 / (1 + np.exp(-30 * (share - jump))) + 0.02 * index
            noisy = (values + generator.normal(0, 0.004, n)).clip(0, 1)
            run = trajectory(noisy, run=f"{prefix}{index}", task=f"t{task}")
            result.append(replace(run, params=1e6 * 2.0**index))
    return result


def write_table(path: Path, trajectories: list[Trajectory], **columns: object) -> Path:
    rows = []
    for t in trajectories:
        for step, tokens, flops, value in zip(t.steps, t.tokens, t.flops, t.values, strict=True):
            row = {
                "family": t.family, "suite": t.suite, "run": t.run, "params": t.params,
                "num_fewshot": 0, "step": int(step), "tokens": tokens, "flops": flops,
                "task": t.task, "metric": "acc", "value": float(value), "stderr": None,
                "planned_tokens": None,
            } | columns  # fmt: skip
            rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=ACCURACIES), path)
    return path
