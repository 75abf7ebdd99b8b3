"""`check`: how far off forecasts of the finished runs of a table are, task by task."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from neuneu.core.errors import UserError
from neuneu.core.formatting import percent
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.cells import listed
from neuneu.data.load import Dataset
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.decisions.answers import plain
from neuneu.decisions.self_calibration import (
    CaseCheck,
    check_case,
    measure,
    notes_of,
    unfinished,
)
from neuneu.evaluation.aggregation import Estimate
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.items.combined import with_items
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import Horizon
from neuneu.forecasters.self_calibration.cases import case_of, largest_sizes
from neuneu.forecasters.self_calibration.held_out import (
    HeldOutForecasts,
    comparable,
    forecast_held_out,
)

SHARES: Final = (0.1, 0.2, 0.4)
"""Where finished runs are cut if no run of their family is unfinished."""

RULES: Final = ("persistence", "recent-mean", "power-law")
"""Simple rules, of which the best one is shown."""

LIMIT: Final = 4000
"""Maximum number of forecasts: 20 to 40 seconds on one core."""

MAX_TASKS: Final = 30
"""Tables with more base tasks get a row for each task group instead."""

OVERALL: Final = "all tasks"


class Check:
    """Forecasts of all finished runs of a table, each held out, and their errors by task."""

    def __init__(
        self,
        forecaster: JointForecaster,
        dataset: Dataset,
        horizon: Horizon,
        *,
        tasks: Sequence[str] = (),
        context: float | None = None,
    ) -> None:
        """Forecasts.

        Args:
            forecaster: fitted here.
            dataset: the table and its reference runs.
            horizon: where runs end. A run of the table without one ends at its last checkpoint.
            tasks: names of tasks, base tasks or task groups; none takes all.
            context: share of a run's tokens to use as context; None takes the shares at which the
                unfinished runs stand, else 0.1, 0.2 and 0.4.

        Raises:
            UserError: no family with two finished runs, or an unknown task.
        """
        units = {t.metric: t.scale.unit for t in dataset.trajectories}
        if len(set(units.values())) > 1:
            raise UserError(
                f"check: metrics {listed(sorted(units))}: expected metrics of one unit to average "
                "errors over; choose one with --metric."
            )
        trajectories, self._endless = _with_ends(dataset.trajectories, horizon)
        finished = horizon.references(trajectories, dataset.references)
        keys = _keys([*trajectories, *dataset.references], tasks)
        forecaster = with_items(forecaster, dataset.trajectories)
        self.checks: list[CaseCheck] = []
        self._unusable, self._waiting = 0, False
        waiting = unfinished(trajectories, horizon)
        for (family, larger), stand in _stands(finished, waiting).items():
            shares = stand or SHARES if context is None else (context,)
            held_out = forecast_held_out(
                forecaster, finished, family,
                shares=shares, larger=larger, keys=keys, limit=LIMIT,
            )  # fmt: skip
            if held_out is not None:
                self.checks.append(check_case(held_out, larger=larger))
                own = {t.run_group for t in finished if t.family == family}
                usable = {t.run_group for t in comparable(forecaster, finished, family, keys)}
                self._unusable += len(own - usable)
                self._waiting |= bool(stand) and context is None
        if not self.checks:
            raise UserError(_too_few({t.run_group for t in finished}))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each task or task group of each family, after one over all tasks."""
        found = []
        for check in self.checks:
            held_out = check.held_out
            rules = {rule: _errors(rule, held_out) for rule in RULES}
            names = _row_names(held_out.truths)
            parts = {OVERALL: np.arange(len(names))} | {
                name: np.flatnonzero(names == name) for name in sorted(set(names.tolist()))
            }
            label = _label(held_out, several=len(self.checks) > 1)
            case = {"family": held_out.family, "from_smaller": held_out.from_smaller}
            found += [
                case | {"task": label + name} | _row(check, members, rules)
                for name, members in parts.items()
            ]
        return found

    @property
    def notes(self) -> list[str]:
        """What was done: contexts, folds, ends; then the line that every answer has."""
        notes = []
        several = len(self.checks) > 1
        for check in self.checks:
            label = _label(check.held_out, several=several)
            notes.append(label + _method(check.held_out))
        if self._waiting:
            notes.append("finished runs were cut where the unfinished ones stand")
        if self._unusable:
            notes.append(
                f"{self._unusable} finished runs do not count: the forecaster was trained on "
                "them, or they have one checkpoint"
            )
        if self._endless:
            notes.append(
                f"{self._endless} runs have no planned tokens: their last checkpoint was taken as "
                "their end"
            )
        notes.append("coverage and width are those of answers, corrected by the other runs")
        return [*notes, *notes_of(self.checks)]


def _stands(
    finished: Sequence[Trajectory], waiting: Sequence[Query]
) -> dict[tuple[str, bool], tuple[float, ...]]:
    """(family, larger than all finished runs) -> shares at which its unfinished runs stand."""
    largest = largest_sizes(finished)
    found: dict[tuple[str, bool], set[float]] = defaultdict(set)
    for query in waiting:
        case = case_of(query.context, query.target_tokens, largest)
        found[case.family, case.larger].add(case.share)
    known = {family for family, _ in found}
    for family in {t.family for t in finished} - known:
        found[family, False] = set()
    return {case: tuple(sorted(shares)) for case, shares in sorted(found.items())}


def _label(held_out: HeldOutForecasts, *, several: bool) -> str:
    larger = ", from smaller runs" if held_out.from_smaller else ""
    return f"{held_out.family}{larger}: " if several else ""


def _method(held_out: HeldOutForecasts) -> str:
    """How a case was forecast, in a line."""
    n, folds = held_out.outcomes.n_runs, len(held_out.folds)
    shares = ", ".join(percent(share) for share in held_out.shares)
    if held_out.from_smaller:
        how = "with smaller ones as references, since the unfinished ones are larger than all"
    elif folds == n:
        how = "one held out at a time"
    else:
        how = f"in {folds} folds with runs of all sizes"
    drawn = f", {held_out.n_trajectories} trajectories drawn from more" if held_out.sampled else ""
    return f"{n} finished runs were forecast from {shares} of their tokens, {how}{drawn}"


def _with_ends(
    trajectories: Sequence[Trajectory], horizon: Horizon
) -> tuple[list[Trajectory], int]:
    """The trajectories, with the last checkpoint as the end of runs without one; their number."""
    last: dict[RunGroup, float] = defaultdict(float)
    for t in trajectories:
        if len(t) and horizon.end(t) is None:
            last[t.run_group] = max(last[t.run_group], float(t.tokens[-1]))
    found = [
        replace(t, planned_tokens=last[t.run_group])
        if t.planned_tokens is None and t.run_group in last
        else t
        for t in trajectories
    ]
    return found, len(last)


def _keys(
    trajectories: Sequence[Trajectory], tasks: Sequence[str]
) -> frozenset[tuple[str, str, int]] | None:
    names = {name for t in trajectories for name in (t.task, t.base_task, t.group) if name}
    if missing := sorted(set(tasks) - names):
        some = sorted({t.task for t in trajectories})
        raise UserError(
            f"task {', '.join(missing)}: not in the table; it has {', '.join(some[:20])}"
            f"{' ...' if len(some) > 20 else ''}."
        )
    if not tasks:
        return None
    return frozenset(
        (t.task, t.metric, t.num_fewshot)
        for t in trajectories
        if {t.task, t.base_task, t.group}.intersection(tasks)
    )


def _too_few(finished: set[RunGroup]) -> str:
    found = ", ".join("/".join(run) for run in sorted(finished)[:5]) or "none"
    return (
        f"check: expected at least two finished runs of one family with two checkpoints each, "
        f"found {found}; give planned_tokens or --until, so that it is known which runs are "
        "finished, or more runs with --reference."
    )


def _row_names(truths: Sequence[Trajectory]) -> Any:
    """(T,) the row that each trajectory belongs to: its base task, or its task group."""
    base = [t.base_task or t.task for t in truths]
    if len(set(base)) > MAX_TASKS and all(t.group for t in truths):
        base = [t.group for t in truths]
    return np.array(base)


def _errors(rule: str, held_out: HeldOutForecasts) -> FloatArray:
    """(T,) mean absolute error of a simple rule on each trajectory."""
    answers = make_forecaster(rule).predict(held_out.queries)
    return np.array([
        float(np.abs(answer[:, 0] - truth.values).mean())
        for answer, truth in zip(answers, held_out.truths, strict=True)
    ])  # fmt: skip


def _row(check: CaseCheck, members: IntArray, rules: Mapping[str, FloatArray]) -> dict[str, Any]:
    held_out = check.held_out
    found = measure(held_out, check.corrected, members)
    before = measure(held_out, held_out.outcomes.quantiles, members)
    errors = {rule: float(of[members].mean()) for rule, of in rules.items()}
    best = min(errors, key=lambda rule: errors[rule])
    chosen = [held_out.truths[place] for place in members]
    return {
        "metric": " and ".join(sorted({t.metric for t in chosen})),
        "runs": len({t.run_group for t in chosen}),
        "trajectories": len({t.key for t in chosen}),
        **_bounds("error", found["error"]),
        "rule": best,
        "rule_error": plain(errors[best]),
        "ratio": plain(found["error"].value / errors[best], 3) if errors[best] else None,
        **{
            key: plain(found[key].value, 4)
            for key in ("coverage_50", "coverage_80", "coverage_90", "width_80")
        },
        "uncorrected_coverage_80": plain(before["coverage_80"].value, 4),
        "uncorrected_width_80": plain(before["width_80"].value),
    }


def _bounds(name: str, found: Estimate) -> dict[str, float | None]:
    return {
        name: plain(found.value),
        f"{name}_low": plain(found.low),
        f"{name}_high": plain(found.high),
    }
