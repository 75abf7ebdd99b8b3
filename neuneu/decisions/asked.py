"""A question about averages over tasks: read, narrowed down to common tasks, and sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.load import Table
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import Answer, plain, plain_tokens
from neuneu.decisions.futures import RunFuture, by_run, look_ahead
from neuneu.decisions.grounds import Grounds, about
from neuneu.decisions.options import AverageOptions, named_tasks, plain_settings, read_options
from neuneu.decisions.selection import (
    Cell,
    RunName,
    Selection,
    find_runs,
    run_labels,
    run_name,
    select,
)
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster

BAND: Final = (0.1, 0.5, 0.9)
"""Levels that rows tell."""


class Asked:
    """Runs with all tasks of a question, and their futures drawn together.

    Runs that have reached the end are what the forecaster compares with; unfinished runs are
    never compared with each other.
    """

    def __init__(
        self,
        forecaster: CrossRunForecaster,
        accuracies: Table,
        options: AverageOptions,
        *,
        least: int,
        explain: bool = False,
    ) -> None:
        """Reads and samples.

        Raises:
            UserError: tables that cannot be read, or fewer than `least` runs that have the tasks
                and an end.
        """
        self.known, self.horizon = read_options(accuracies, options)
        self.seed = options.get("seed", 0)
        self._options, self._explain = options, explain
        trajectories = self.known.trajectories
        runs = options.get("runs") or ()
        everyone = sorted({run_name(t) for t in trajectories})
        named = find_runs(runs, everyone) if runs else everyone
        pool = [t for t in trajectories if run_name(t) in set(named)]
        self.selection = _common(
            select(
                pool,
                tasks=named_tasks(options),
                metric=options.get("metric"),
                num_fewshot=options.get("num_fewshot"),
            ),
            pool,
        )
        found = by_run(pool, self.selection.cells)
        forecaster.fit(self.horizon.references(trajectories, self.known.references))
        self.futures = look_ahead(
            forecaster, found, self.horizon, seed=self.seed, token_losses=self.known.token_losses
        )
        if len(self.futures) < least:
            raise UserError(_too_few(found, self.futures, self.selection, least))
        self.members = {future.run: found[future.run] for future in self.futures}
        self.labels = run_labels(list(self.members))
        self._grounds = Grounds(forecaster)
        queries = [query for future in self.futures for query in future.queries]
        given = options.get("token_losses") is not None
        self._about = about(forecaster, queries, token_losses=given)

    def find(self, runs: Sequence[str]) -> list[RunFuture]:
        """Futures of named runs.

        Raises:
            UserError: a name that no run has.
        """
        names = find_runs(runs, [future.run for future in self.futures])
        return [future for future in self.futures if future.run in names]

    def describe(self, future: RunFuture) -> dict[str, Any]:
        """What every row says of a run."""
        grounds = self._grounds.calibration(future.queries)
        low, middle, high = np.quantile(future.final, BAND)
        row = {
            "run": self.labels[future.run], "task": self.selection.title,
            "present": plain(future.present), "seen_tokens": plain_tokens(future.seen_tokens),
            "tokens": plain_tokens(future.tokens[-1]), "finished": future.finished,
            "q0.1": plain(low), "q0.5": plain(middle), "q0.9": plain(high), **grounds,
        }  # fmt: skip
        return row | (self._grounds.explain(future.queries) if self._explain else {})

    def answer(self, question: str, rows: list[dict[str, Any]], **settings: Any) -> Answer:
        """An answer with the notes on the question."""
        tasks = [task for task, _, _ in self.selection.cells]
        return Answer(
            question=question,
            rows=rows,
            notes=(*self.known.notes, *self.selection.notes, *self._about),
            settings={**plain_settings(self._options), "tasks": tasks, **settings},
        )


def _common(selection: Selection, pool: Sequence[Trajectory]) -> Selection:
    """The cells that every run has, where there are any."""
    of: dict[RunName, set[Cell]] = {}
    for t in pool:
        of.setdefault(run_name(t), set()).add((t.task, t.metric, t.num_fewshot))
    everywhere = tuple(c for c in selection.cells if all(c in cells for cells in of.values()))
    if not everywhere or len(everywhere) == len(selection.cells):
        return selection
    left = len(selection.cells) - len(everywhere)
    note = f"{left} of {len(selection.cells)} tasks were left out: not every run has them"
    return replace(selection, cells=everywhere, notes=(*selection.notes, note))


def _too_few(
    members: Mapping[RunName, object],
    futures: Sequence[RunFuture],
    selection: Selection,
    least: int,
) -> str:
    wanted = f"expected at least {least} run{'s' if least > 1 else ''}"
    if len(members) < least:
        return (
            f"{wanted} evaluated on {selection.title}, found {len(members)}; choose tasks that "
            "they share with --task."
        )
    return (
        f"{wanted} whose end is known, found {len(futures)}; give --until TOKENS, or a column "
        "planned_tokens."
    )
