"""Evaluations that could be made, and samples of what they would show.

Shapes: R runs, S samples, E evaluations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from neuneu.core.errors import DataError
from neuneu.data.cells import as_type, listed, row_name
from neuneu.data.load import Table, read_table
from neuneu.data.trajectories import FloatArray, IntArray, TokenLossTable, Trajectory
from neuneu.decisions.futures import SAMPLES, RunFuture, Sampling
from neuneu.decisions.selection import Cell, RunName, find_runs
from neuneu.forecasters.horizon import Horizon, query_at


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One checkpoint of one run on one task, not evaluated so far."""

    run: RunName
    cell: Cell
    step: int
    tokens: float
    params: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """`final` (R, S) and `seen` (E, S) samples, drawn together; `owner` (E,) rows of the runs."""

    final: FloatArray
    seen: FloatArray
    owner: IntArray

    @classmethod
    def draw(
        cls,
        forecaster: Sampling,
        members: Mapping[RunName, Sequence[Trajectory]],
        futures: Sequence[RunFuture],
        places: Sequence[Evaluation],
        *,
        horizon: Horizon,
        token_losses: TokenLossTable | None,
        seed: int,
    ) -> "Places":
        """Samples the ends of runs and what evaluations would show.

        Args:
            forecaster: with its references fitted.
            members: the trajectories of each run, one a task.
            futures: of the runs, for their ends.
            places: the evaluations.
            horizon: what of the trajectories is seen.
            token_losses: for forecasters that read them.
            seed: of the samples.
        """
        wanted: dict[tuple[RunName, Cell], list[float]] = {}
        for spot in places:
            wanted.setdefault((spot.run, spot.cell), []).append(spot.tokens)
        asked = [future for future in futures if not future.finished]
        keys, queries = [], []
        for future in asked:
            for t in members[future.run]:
                cell = (t.task, t.metric, t.num_fewshot)
                tokens = {*wanted.get((future.run, cell), []), float(future.tokens[-1])}
                keys.append((future.run, cell))
                queries.append(query_at(horizon.seen(t), np.array(sorted(tokens)), token_losses))
        answers = forecaster.predict(queries)
        drawn = forecaster.draw(queries, answers, count=SAMPLES, seed=seed)
        of = dict(zip(keys, zip(queries, drawn, strict=True), strict=True))
        final = np.stack([
            future.final
            if future.finished
            else np.mean([of[key][1][:, -1] for key in keys if key[0] == future.run], axis=0)
            for future in futures
        ])  # fmt: skip
        rows = {future.run: row for row, future in enumerate(futures)}
        seen = []
        for spot in places:
            query, samples = of[spot.run, spot.cell]
            seen.append(samples[:, int(np.searchsorted(query.target_tokens, spot.tokens))])
        return cls(
            final=final, seen=np.stack(seen), owner=np.array([rows[spot.run] for spot in places])
        )


def open_evaluations(
    members: Mapping[RunName, Sequence[Trajectory]],
    futures: Sequence[RunFuture],
    horizon: Horizon,
    checkpoints: Table | None,
) -> list[Evaluation]:
    """Evaluations of checkpoints after the last one seen on a task, up to the run's end.

    Args:
        members: the trajectories of each run, one a task.
        futures: of the same runs.
        horizon: what of the trajectories is seen.
        checkpoints: those that are saved: columns run and step or tokens; None takes the
            checkpoints at which the run was evaluated on any of the tasks.

    Raises:
        UserError: a table that does not say which checkpoints of which runs.
    """
    saved = None if checkpoints is None else _saved(checkpoints, list(members))
    found = []
    for future in futures:
        if future.finished:
            continue
        seen = [horizon.seen(t) for t in members[future.run]]
        steps_a_token = seen[0].steps[-1] / seen[0].tokens[-1]
        if saved is None:
            known = sorted({float(x) for t in seen for x in t.tokens})
        else:
            known = sorted(
                {
                    tokens if np.isfinite(tokens) else step / steps_a_token
                    for step, tokens in saved.get(future.run, [])
                }
            )
        for t in seen:
            found += [
                Evaluation(
                    run=future.run, cell=(t.task, t.metric, t.num_fewshot),
                    step=round(tokens * steps_a_token), tokens=tokens, params=t.params,
                )
                for tokens in known
                if t.tokens[-1] < tokens <= future.tokens[-1]
            ]  # fmt: skip
    return found


def _saved(checkpoints: Table, runs: list[RunName]) -> dict[RunName, list[tuple[float, float]]]:
    """(step, tokens) of each run's saved checkpoints; NaN where one is not told."""
    file = read_table(checkpoints, name="checkpoints")
    columns = set(file.table.column_names)
    if "run" not in columns or not columns & {"step", "tokens"}:
        raise DataError(
            f"{file.name}: expected columns run and step or tokens, found "
            f"{listed(sorted(columns))}; add what is missing."
        )
    place = {}
    for column in ("step", "tokens"):
        found = file.table.column(column) if column in columns else pa.nulls(file.table.num_rows)
        place[column] = as_type(found, pa.float64(), title=column, name=file.name)
    saved: dict[RunName, list[tuple[float, float]]] = {}
    for row, name in enumerate(file.table.column("run").to_pylist()):
        (run,) = find_runs([str(name)], runs)
        step, tokens = (place[column][row].as_py() for column in ("step", "tokens"))
        if step is None and tokens is None:
            raise DataError(
                f"{file.name}: {row_name(file.name, row)}: expected a step or tokens, found "
                "neither; give one or drop the row."
            )
        known = tuple(float("nan") if value is None else value for value in (step, tokens))
        saved.setdefault(run, []).append((known[0], known[1]))
    return saved
