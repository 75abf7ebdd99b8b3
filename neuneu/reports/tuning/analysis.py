"""What a tuning found, in numbers: pure functions of its results."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from neuneu.reports.tuning.importance import Importance, parameter_importance
from neuneu.reports.tuning.results import STATUS_IN_WORDS, Objective, Plan, Results, Status, Trial
from neuneu.training.tuning.trial_files import Report

LEAST_COMPARED: Final = 8
"""Fewer trials than this say nothing about what matters."""

_KEPT_BY: Final = "validation_pinball"
"""What a training with `keep: best` chooses its epoch by."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of all trials, of those stopped early, and of all run to the end.

    `to_the_end` rests on the seconds an epoch of finished trials (of all, if none finished:
    `is_rough`); None where no trial reported any.
    """

    seconds: float
    stopped_seconds: float
    to_the_end: float | None
    is_rough: bool


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trial and its values by metric at the epoch whose weights its training keeps."""

    trial: Trial
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Trials at one epoch, the last that enough of them reached: trial id -> main objective."""

    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What the scheduler stopped after an epoch, and the best value of those that went on."""

    epoch: int
    trials: int
    value: float | None
    best_going_on: float | None


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A trial stopped after `epoch` with `value`, the `rank`-th of `of` that reached it.

    Run to the end it reached `final` (None: the rerun is not at its end), which would have been
    rank `final_rank` beside the finished trials.
    """

    trial: Trial
    epoch: int
    value: float | None
    rank: int | None
    of: int
    final: float | None
    final_rank: int | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a tuning found.

    `ranked` holds by metric every trial that has a value: finished ones first, best first.
    `default` is the trial whose parameters are the defaults, also one without values; `front` the
    trials that no other beats in both objectives, finished ones only where there are any.
    """

    results: Results
    counts: Mapping[Status, int]
    cost: Cost
    ranked: Mapping[str, tuple[Scored, ...]]
    default: Scored | None
    front: tuple[Scored, ...]
    compared: Compared | None
    importance: Importance
    stops: tuple[Stop, ...]
    reruns: tuple[Rerun, ...]

    @property
    def main(self) -> Objective:
        """The objective that leads."""
        return self.results.plan.objectives[0]

    @property
    def best(self) -> Scored | None:
        """The best trial by the main objective, a finished one if any finished."""
        ranked = self.ranked[self.main.metric]
        return ranked[0] if ranked else None

    @property
    def finished(self) -> tuple[Scored, ...]:
        """The finished trials by the main objective, best first."""
        return tuple(s for s in self.ranked[self.main.metric] if s.trial.status == "finished")


def analyse(results: Results) -> Analysis:
    """Counts, costs, ranks, importance, and whether stopping was right."""
    plan, trials = results.plan, results.trials
    scored = [s for trial in trials if (s := score(trial, plan)) is not None]
    ranked = {o.metric: rank(scored, o) for o in plan.objectives}
    compared = compare(trials, plan)
    return Analysis(
        results=results,
        counts=count(results),
        cost=cost(trials, plan),
        ranked=ranked,
        default=find_default(trials, plan),
        front=pareto_front(scored, plan.objectives) if len(plan.objectives) == 2 else (),
        compared=compared,
        importance=parameter_importance(
            results, {} if compared is None else compared.values, least=LEAST_COMPARED
        ),
        stops=stops(trials, plan),
        reruns=reruns(trials, plan, ranked[plan.objectives[0].metric]),
    )


def count(results: Results) -> dict[Status, int]:
    """Trials by status; wanted ones that do not exist yet are not started."""
    found = Counter(trial.status for trial in results.trials)
    found["not started"] += max(0, results.plan.trials - len(results.trials))
    return {status: found[status] for status in STATUS_IN_WORDS}


def cost(trials: Sequence[Trial], plan: Plan) -> Cost:
    """What the trials cost, and what they would have cost without any stopping."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.epochs]
    basis = finished or [trial for trial in trials if trial.epochs]
    epochs = sum(trial.epochs for trial in basis)
    started = sum(trial.status != "not started" for trial in trials)
    pace = sum(trial.seconds for trial in basis) / epochs if epochs else None
    return Cost(
        seconds=sum(trial.seconds for trial in trials),
        stopped_seconds=sum(trial.seconds for trial in trials if trial.status == "stopped"),
        to_the_end=None if pace is None else pace * plan.epochs * started,
        is_rough=not finished,
    )


def kept(reports: Sequence[Report], plan: Plan) -> Report | None:
    """The report of the epoch whose weights the training keeps: its last, or its best."""
    if not reports:
        return None
    if plan.base.get("keep") != "best":
        return reports[-1]
    by = next((o for o in plan.objectives if o.metric == _KEPT_BY), plan.objectives[0])
    valued = [report for report in reports if by.metric in report.metrics]
    return min(valued, key=lambda r: by.loss(r.metrics[by.metric]), default=None)


def score(trial: Trial, plan: Plan) -> Scored | None:
    """A trial's values; None where it has none, as one that diverged."""
    report = kept(trial.reports, plan)
    if report is None:
        return None
    values = {
        o.metric: report.metrics[o.metric] for o in plan.objectives if o.metric in report.metrics
    }
    return Scored(trial=trial, epoch=report.epoch, values=values) if values else None


def rank(scored: Iterable[Scored], objective: Objective) -> tuple[Scored, ...]:
    """Those with a value of the objective: finished ones first, best first."""
    valued = [s for s in scored if objective.metric in s.values]
    return tuple(
        sorted(
            valued,
            key=lambda s: (
                s.trial.status != "finished", objective.loss(s.values[objective.metric])
            ),
        )
    )  # fmt: skip


def find_default(trials: Iterable[Trial], plan: Plan) -> Scored | None:
    """The trial that has the defaults, a finished one if there are several; maybe no values."""
    found = [trial for trial in trials if is_default(trial, plan)]
    if not found:
        return None
    trial = min(found, key=lambda trial: trial.status != "finished")
    return score(trial, plan) or Scored(trial=trial, epoch=trial.epochs, values={})


def is_default(trial: Trial, plan: Plan) -> bool:
    """Whether every parameter searched is at its default; no when one of them has none."""
    known = [d for d in plan.space if d.default is not None or None in d.values]
    return bool(plan.space) and len(known) == len(plan.space) and all(
        d.key in trial.parameters and _same(trial.parameters[d.key], d.default) for d in known
    )  # fmt: skip


def pareto_front(scored: Sequence[Scored], objectives: Sequence[Objective]) -> tuple[Scored, ...]:
    """The trials that no other beats in one objective without losing in the other."""
    first, second = objectives
    both = [s for s in scored if first.metric in s.values and second.metric in s.values]
    both = [s for s in both if s.trial.status == "finished"] or both
    both.sort(key=lambda s: [o.loss(s.values[o.metric]) for o in objectives])
    front: list[Scored] = []
    for s in both:
        if not front or second.loss(s.values[second.metric]) < second.loss(
            front[-1].values[second.metric]
        ):
            front.append(s)
    return tuple(front)


def compare(trials: Sequence[Trial], plan: Plan) -> Compared | None:
    """Trials at the last epoch that half of them, and at least `LEAST_COMPARED`, reached.

    Values of stopped trials are from where they stopped: only at one epoch are all comparable.
    None while fewer trials than that ended with a value.
    """
    metric = plan.objectives[0].metric
    ended = [trial for trial in trials if trial.status in {"finished", "stopped"}]
    valued = {
        trial.id: {r.epoch: r.metrics[metric] for r in trial.reports if metric in r.metrics}
        for trial in ended
    }
    valued = {trial_id: values for trial_id, values in valued.items() if values}
    needed = max(LEAST_COMPARED, math.ceil(len(valued) / 2))
    reached = Counter(epoch for values in valued.values() for epoch in values)
    epochs = [epoch for epoch, n in reached.items() if n >= needed]
    if not epochs:
        return None
    epoch = max(epochs)
    return Compared(
        epoch=epoch, values={i: values[epoch] for i, values in valued.items() if epoch in values}
    )


def stops(trials: Sequence[Trial], plan: Plan) -> tuple[Stop, ...]:
    """What was stopped after which epoch, by epoch."""
    main = plan.objectives[0]
    stopped = [trial for trial in trials if trial.status == "stopped"]
    found = []
    for epoch in sorted({trial.epochs for trial in stopped}):
        here = [trial for trial in stopped if trial.epochs == epoch]
        values = [v for trial in here if (v := trial.value(main.metric, epoch)) is not None]
        further = [
            v
            for trial in trials
            if trial.epochs > epoch and (v := trial.value(main.metric, epoch)) is not None
        ]
        found.append(
            Stop(
                epoch=epoch,
                trials=len(here),
                value=median(values) if values else None,
                best_going_on=min(further, key=main.loss) if further else None,
            )
        )
    return tuple(found)


def reruns(trials: Sequence[Trial], plan: Plan, ranked: Sequence[Scored]) -> tuple[Rerun, ...]:
    """Trials that did not finish and were run to the end later, best rank at the stop first."""
    main = plan.objectives[0]
    finished = [s.values[main.metric] for s in ranked if s.trial.status == "finished"]
    found = []
    for trial in trials:
        if not trial.rerun or trial.status == "finished":
            continue
        value = trial.value(main.metric, trial.epochs)
        there = [
            v for other in trials if (v := other.value(main.metric, trial.epochs)) is not None
        ]  # fmt: skip
        last = kept(trial.rerun, plan)
        ended = trial.rerun[-1].epoch >= plan.epochs
        final = last.metrics.get(main.metric) if last is not None and ended else None
        found.append(
            Rerun(
                trial=trial,
                epoch=trial.epochs,
                value=value,
                rank=None if value is None else _rank(value, there, main),
                of=len(there),
                final=final,
                final_rank=None if final is None else _rank(final, finished, main),
            )
        )
    return tuple(sorted(found, key=lambda r: (r.rank is None, r.rank, r.trial.number)))


def _rank(value: float, among: Iterable[float], objective: Objective) -> int:
    return 1 + sum(objective.loss(other) < objective.loss(value) for other in among)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
