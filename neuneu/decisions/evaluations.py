"""Evaluations that could be made next, and samples of their values.

Shapes: R runs, S samples, E evaluations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.cells import as_type, listed, row_name
from neuneu.data.load import Table, read_table
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.decisions.futures import SAMPLES, RunFuture
from neuneu.decisions.peers import align_peers
from neuneu.decisions.selection import RunName, TaskKey, find_runs, task_key
from neuneu.forecasters.protocol import JointForecaster
from neuneu.forecasters.queries import Horizon, query_at, with_siblings


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One checkpoint of one run on one task, not evaluated so far."""

    run: RunName
    key: TaskKey
    step: int
    tokens: float
    params: float


@dataclass(frozen=True, kw_only=True, eq=False)
class JointSamples:
    """`final` (R, S) scores and `values` (E, S) of evaluations, drawn together.

    `owner` (E,) is the row of the run that each evaluation is of.
    """

    final: FloatArray
    values: FloatArray
    owner: IntArray


def sample_evaluations(
    forecaster: JointForecaster,
    members: Mapping[RunName, Sequence[Trajectory]],
    futures: Sequence[RunFuture],
    evaluations: Sequence[Evaluation],
    *,
    horizon: Horizon,
    token_losses: TokenLossTable | None,
    seed: int,
    beside: Sequence[Trajectory] = (),
) -> JointSamples:
    """Samples final scores of runs and values of evaluations.

    Args:
        forecaster: fitted on its references.
        members: the trajectories of each run, one a task.
        futures: of the runs, for their horizons.
        evaluations: at least one; of unfinished runs.
        horizon: context and horizon.
        token_losses: for forecasters that read them.
        seed: for sampling.
        beside: contexts of the same runs on further tasks (`peers.align_peers`).
    """
    wanted: dict[tuple[RunName, TaskKey], set[float]] = {}
    for evaluation in evaluations:
        wanted.setdefault((evaluation.run, evaluation.key), set()).add(evaluation.tokens)
    names, queries = [], []
    for future in futures:
        for t in () if future.finished else members[future.run]:
            names.append((future.run, task_key(t)))
            grid = sorted({*wanted.get(names[-1], ()), float(future.tokens[-1])})
            queries.append(query_at(horizon.context_of(t), np.array(grid), token_losses))
    queries = with_siblings(queries, beside or None)
    answers = align_peers(forecaster, queries, forecaster.predict(queries), beside)
    drawn = forecaster.draw(queries, answers, count=SAMPLES, seed=seed)
    samples = dict(zip(names, drawn, strict=True))
    grids = {name: query.target_tokens for name, query in zip(names, queries, strict=True)}
    rows = {future.run: row for row, future in enumerate(futures)}
    return JointSamples(
        final=np.stack([
            future.final
            if future.finished
            else np.mean([samples[n][:, -1] for n in names if n[0] == future.run], axis=0)
            for future in futures
        ]),
        values=np.stack([
            samples[e.run, e.key][:, int(np.searchsorted(grids[e.run, e.key], e.tokens))]
            for e in evaluations
        ]),
        owner=np.array([rows[evaluation.run] for evaluation in evaluations]),
    )  # fmt: skip


def pending_evaluations(
    members: Mapping[RunName, Sequence[Trajectory]],
    futures: Sequence[RunFuture],
    horizon: Horizon,
    checkpoints: Table | None,
) -> list[Evaluation]:
    """Evaluations after the last one of a task, up to the run's horizon.

    Args:
        members: the trajectories of each run, one a task.
        futures: of the same runs.
        horizon: context and horizon.
        checkpoints: saved ones: columns run and step or tokens; None takes those at which the run
            was evaluated on any of the tasks.

    Raises:
        UserError: a table that does not say which checkpoints of which runs.
    """
    saved = None if checkpoints is None else _saved(checkpoints, list(members))
    found = []
    for future in futures:
        if future.finished:
            continue
        contexts = [horizon.context_of(t) for t in members[future.run]]
        steps_per_token = contexts[0].steps[-1] / contexts[0].tokens[-1]
        if saved is None:
            known = {float(x) for t in contexts for x in t.tokens}
        else:
            known = {
                tokens if np.isfinite(tokens) else step / steps_per_token
                for step, tokens in saved.get(future.run, [])
            }
        found += [
            Evaluation(
                run=future.run, key=task_key(t), step=round(tokens * steps_per_token),
                tokens=tokens, params=t.params,
            )
            for t in contexts
            for tokens in sorted(known)
            if t.tokens[-1] < tokens <= future.tokens[-1]
        ]  # fmt: skip
    return found


def _saved(checkpoints: Table, runs: list[RunName]) -> dict[RunName, list[tuple[float, float]]]:
    """(step, tokens) of each run's saved checkpoints; NaN where unknown."""
    file = read_table(checkpoints, name="checkpoints")
    columns = set(file.table.column_names)
    if "run" not in columns or not columns & {"step", "tokens"}:
        raise DataError(
            f"{file.name}: expected columns run and step or tokens, found "
            f"{listed(sorted(columns))}; add what is missing."
        )
    numbers = []
    for column in ("step", "tokens"):
        found = file.table.column(column) if column in columns else pa.nulls(file.table.num_rows)
        cells = as_type(found, pa.float64(), title=column, name=file.name)
        numbers.append(cells.to_pylist())
    saved: dict[RunName, list[tuple[float, float]]] = {}
    names = file.table.column("run").to_pylist()
    for row, (name, *pair) in enumerate(zip(names, *numbers, strict=True)):
        (run,) = find_runs([str(name)], runs)
        if pair == [None, None]:
            raise DataError(
                f"{file.name}: {row_name(file.name, row)}: expected a step or tokens, found "
                "neither; give one or drop the row."
            )
        step, tokens = (np.nan if value is None else value for value in pair)
        saved.setdefault(run, []).append((step, tokens))
    return saved
