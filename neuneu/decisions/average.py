"""A question about a mean over tasks: read, narrowed down to common tasks, and sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from neuneu.core.errors import UserError
from neuneu.data.cells import listed
from neuneu.data.scales import Scale
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.answers import Answer, plain, plain_tokens
from neuneu.decisions.explanation import (
    calibration_fields,
    evidence_fields,
    explanation_fields,
    forecast_notes,
)
from neuneu.decisions.futures import RunFuture, group_by_run, sample_runs
from neuneu.decisions.options import plain_settings, read_options, task_names
from neuneu.decisions.plans import planned_runs, unanswered_note
from neuneu.decisions.selection import (
    RunName,
    Selection,
    TaskKey,
    find_runs,
    run_labels,
    run_name,
    select,
    task_key,
)
from neuneu.decisions.self_calibration import self_calibrate, unfinished
from neuneu.forecasters.items.combined import with_items
from neuneu.forecasters.protocol import JointForecaster

if TYPE_CHECKING:
    from neuneu.data.load import Table

INTERVAL: Final = (0.1, 0.5, 0.9)
"""Levels that rows report."""


class AverageForecast:
    """The runs that have all tasks of a question, and their futures drawn together.

    Runs that have reached the horizon are references; unfinished and planned runs never are. Only
    a question with the option `plan` is about planned runs.
    """

    def __init__(
        self,
        forecaster: JointForecaster,
        accuracies: "Table",
        options: Mapping[str, Any],
        kind: type,
        *,
        min_runs: int = 1,
    ) -> None:
        """Reads and samples.

        Args:
            forecaster: fitted here.
            accuracies: evaluations so far.
            options: of the question.
            kind: the class that declares them.
            min_runs: how many runs the question needs.

        Raises:
            UserError: tables that cannot be read, or fewer than `min_runs` runs that have the
                tasks and a horizon.
        """
        self.options = options
        self.dataset, self.horizon = read_options(accuracies, options, kind)
        self.seed = options.get("seed", 0)
        trajectories = self.dataset.trajectories
        planned, plan_notes = self._planned(kind)
        trajectories = [*trajectories, *planned]
        known = sorted({run_name(t) for t in trajectories})
        names = options.get("runs") or ()
        chosen = set(find_runs(names, known) if names else known)
        pool = [t for t in trajectories if run_name(t) in chosen]
        self.selection = _common(
            select(
                pool,
                tasks=task_names(options),
                metric=options.get("metric"),
                num_fewshot=options.get("num_fewshot"),
            ),
            pool,
        )
        self.scale = _one_scale(self.selection, pool)
        runs = group_by_run(pool, self.selection.keys)
        references = self.horizon.references(self.dataset.trajectories, self.dataset.references)
        self.self_calibration = self_calibrate(
            with_items(forecaster, self.dataset.trajectories),
            [t for t in references if t.scale == self.scale],
            unfinished([t for members in runs.values() for t in members], self.horizon),
            enabled=options.get("self_calibrate", True),
        )
        self.forecaster = self.self_calibration.forecaster
        self.forecaster.fit(references)
        self.beside = [self.horizon.context_of(t) for t in pool]
        self.futures = sample_runs(
            self.forecaster, runs, self.horizon, seed=self.seed,
            token_losses=self.dataset.token_losses, beside=self.beside,
        )  # fmt: skip
        answered = {future.run for future in self.futures}
        unanswered = [t for t in pool if not len(t) and run_name(t) in runs.keys() - answered]
        plan_notes += unanswered_note(unanswered)
        if len(self.futures) < min_runs:
            evaluated = len(runs) - len({run_name(t) for t in unanswered})
            few = _too_few_runs(evaluated, len(self.futures), self.selection, min_runs)
            raise UserError("; ".join([few.rstrip("."), *plan_notes]) + ".")
        self.trajectories = {future.run: runs[future.run] for future in self.futures}
        self.labels = run_labels(list(self.trajectories))
        queries = [query for future in self.futures for query in future.queries]
        given = options.get("token_losses") is not None
        self._notes = [*plan_notes, *forecast_notes(forecaster, queries, token_losses=given)]

    def _planned(self, kind: type) -> tuple[tuple[Trajectory, ...], tuple[str, ...]]:
        """Planned runs, as trajectories without checkpoints, and notes on those left out."""
        if "plan" in kind.__annotations__:
            planned = planned_runs(self.dataset, self.horizon, self.options.get("plan"))
            return planned.trajectories, planned.notes
        names = listed([run.run for run in self.dataset.planned])
        note = f"left out: planned runs {names}; this question is about runs that have started"
        return (), (note,) if self.dataset.planned else ()

    def find(self, runs: Sequence[str]) -> list[RunFuture]:
        """Futures of named runs.

        Raises:
            UserError: a name that no run has.
        """
        names = find_runs(runs, [future.run for future in self.futures])
        return [future for future in self.futures if future.run in names]

    def row(self, future: RunFuture) -> dict[str, Any]:
        """The fields that every row about a run has."""
        low, middle, high = np.quantile(future.final, INTERVAL)
        row = {
            "run": self.labels[future.run], "task": self.selection.title,
            "present": plain(future.present), "seen_tokens": plain_tokens(future.seen_tokens),
            "tokens": plain_tokens(future.tokens[-1]), "finished": future.finished,
            "q0.1": plain(low), "q0.5": plain(middle), "q0.9": plain(high),
            "metric": self.selection.metric, "higher_is_better": self.scale.higher_is_better,
            **calibration_fields(self.forecaster, future.queries),
        }  # fmt: skip
        if self.options.get("explain"):
            row |= explanation_fields(self.forecaster, future.queries)
            row |= evidence_fields(self.forecaster, future.queries)
        return row

    def answer(self, question: str, rows: list[dict[str, Any]], **settings: Any) -> Answer:
        """An answer with the notes and settings of the question."""
        tasks = [task for task, _, _ in self.selection.keys]
        return Answer(
            question=question,
            rows=rows,
            notes=(
                *self.dataset.notes,
                *self.selection.notes,
                *self._notes,
                *self.self_calibration.notes,
            ),
            self_calibration=self.self_calibration.record,
            settings={**plain_settings(self.options), "tasks": tasks, **settings},
        )


def _common(selection: Selection, pool: Sequence[Trajectory]) -> Selection:
    """The tasks that every run has, where there are any."""
    keys: dict[RunName, set[TaskKey]] = {}
    for t in pool:
        keys.setdefault(run_name(t), set()).add(task_key(t))
    shared = tuple(key for key in selection.keys if all(key in of for of in keys.values()))
    if not shared or len(shared) == len(selection.keys):
        return selection
    note = (
        f"{len(selection.keys) - len(shared)} of {len(selection.keys)} tasks were left out: "
        "not every run has them"
    )
    return replace(selection, keys=shared, notes=(*selection.notes, note))


def _one_scale(selection: Selection, pool: Sequence[Trajectory]) -> Scale:
    """The scale of the metrics to average.

    Raises:
        UserError: metrics of several scales.
    """
    scales = {t.metric: t.scale for t in pool if task_key(t) in selection.keys}
    first = next(iter(scales.values()))
    other = next((metric for metric, scale in scales.items() if scale != first), None)
    if other is not None:
        raise UserError(
            f"metrics {listed(sorted(scales))}: expected metrics of one range and unit to average "
            "over; choose one with --metric, or tasks with --task."
        )
    return first


def _too_few_runs(evaluated: int, with_horizon: int, selection: Selection, min_runs: int) -> str:
    wanted = f"expected at least {min_runs} run{'s' if min_runs > 1 else ''}"
    if evaluated < min_runs:
        return (
            f"{wanted} evaluated on {selection.title}, found {evaluated}; choose tasks that "
            "they share with --task."
        )
    return (
        f"{wanted} with a known horizon, found {with_horizon}; give --until TOKENS, or a column "
        "planned_tokens."
    )
