"""What a search found, in numbers: pure functions of its experiment."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from neuneu.reports.tuning.study import Importance, parameter_importance
from neuneu.training.tuning.experiment import (
    STATUS_LABELS,
    Experiment,
    Objective,
    Plan,
    Report,
    Status,
    Trial,
)

LEAST_COMPARED: Final = 8
"""Minimum number of trials for parameter importances."""

_KEPT_BY: Final = "validation_pinball"
"""The metric by which a training with `keep: best` chooses its epoch."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of all trials, of trials stopped early, and of all trials run to the end.

    `to_the_end` is extrapolated from the seconds per epoch of finished trials (`is_rough`: of all
    trials, since none finished); None where no trial reported any.
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
    """Main objective by trial id at one epoch, the last that enough trials reached."""

    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Trials that the scheduler stopped after an epoch, and the best value of those it kept."""

    epoch: int
    trials: int
    value: float | None
    best_kept: float | None


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A trial stopped after `epoch` with `value`, rank `rank` of the `of` trials that reached it.

    Trained to the end it reached `final` (None: the rerun is not finished), which is rank
    `final_rank` among the finished trials.
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
    """What a search found.

    `ranked` holds by metric every trial that has a value, finished ones first, best first.
    `default` is the trial with the default parameters, even one without values; `front` the Pareto
    front of both objectives, of finished trials where there are any.
    """

    experiment: Experiment
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
        """The first objective."""
        return self.experiment.plan.objectives[0]

    @property
    def best(self) -> Scored | None:
        """The best trial by the first objective, a finished one where there are any."""
        return next(iter(self.ranked[self.main.metric]), None)

    @property
    def finished(self) -> tuple[Scored, ...]:
        """The finished trials by the first objective, best first."""
        return tuple(s for s in self.ranked[self.main.metric] if s.trial.status == "finished")


def analyse(experiment: Experiment) -> Analysis:
    """Counts, costs, ranks, importances, and whether the scheduler stopped the right trials."""
    plan, trials = experiment.plan, experiment.trials
    scored = [s for trial in trials if (s := _score(trial, plan)) is not None]
    ranked = {o.metric: _rank(scored, o.metric) for o in plan.objectives}
    compared = _compare(trials, plan.objectives[0].metric)
    counts = Counter(trial.status for trial in trials)
    counts["not started"] += max(0, plan.trials - len(trials))
    return Analysis(
        experiment=experiment,
        counts={status: counts[status] for status in STATUS_LABELS},
        cost=_cost(trials, plan),
        ranked=ranked,
        default=_find_default(trials, plan),
        front=_pareto_front(scored, plan) if len(plan.objectives) == 2 else (),
        compared=compared,
        importance=parameter_importance(
            experiment, {} if compared is None else compared.values, least=LEAST_COMPARED
        ),
        stops=_stops(trials, plan.objectives[0].metric),
        reruns=_reruns(experiment, ranked[plan.objectives[0].metric]),
    )


def _cost(trials: Sequence[Trial], plan: Plan) -> Cost:
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


def _kept(reports: Sequence[Report], plan: Plan) -> Report | None:
    """The report of the epoch whose weights the training keeps: its last, or its best."""
    if plan.base.get("keep") != "best" or not reports:
        return reports[-1] if reports else None
    metrics = [o.metric for o in plan.objectives]
    by = _KEPT_BY if _KEPT_BY in metrics else metrics[0]
    return min((r for r in reports if by in r.metrics), key=lambda r: r.metrics[by], default=None)


def _score(trial: Trial, plan: Plan) -> Scored | None:
    """The values of a trial; None where it has none, such as one that diverged."""
    report = _kept(trial.reports, plan)
    found = {} if report is None else report.metrics
    values = {o.metric: found[o.metric] for o in plan.objectives if o.metric in found}
    return Scored(trial=trial, epoch=report.epoch, values=values) if report and values else None


def _rank(scored: Iterable[Scored], metric: str) -> tuple[Scored, ...]:
    valued = [s for s in scored if metric in s.values]
    return tuple(sorted(valued, key=lambda s: (s.trial.status != "finished", s.values[metric])))


def _find_default(trials: Iterable[Trial], plan: Plan) -> Scored | None:
    """The trial with the defaults, a finished one where there are several."""
    found = [
        trial
        for trial in trials
        if plan.space and all(_same(trial.parameters.get(p.key), p.default) for p in plan.space)
    ]
    if not found:
        return None
    trial = min(found, key=lambda trial: trial.status != "finished")
    return _score(trial, plan) or Scored(trial=trial, epoch=trial.epochs, values={})


def _pareto_front(scored: Sequence[Scored], plan: Plan) -> tuple[Scored, ...]:
    """The trials that no other beats in one objective without losing in the other."""
    first, second = (o.metric for o in plan.objectives)
    both = [s for s in scored if first in s.values and second in s.values]
    both = [s for s in both if s.trial.status == "finished"] or both
    front: list[Scored] = []
    for s in sorted(both, key=lambda s: (s.values[first], s.values[second])):
        if not front or s.values[second] < front[-1].values[second]:
            front.append(s)
    return tuple(front)


def _compare(trials: Sequence[Trial], metric: str) -> Compared | None:
    """Trials at the last epoch that half of them, and at least `LEAST_COMPARED`, reached.

    Values of stopped trials are from where they stopped: only at one epoch are all comparable.
    None while fewer trials than that ended with a value.
    """
    valued = {
        trial.id: {r.epoch: r.metrics[metric] for r in trial.reports if metric in r.metrics}
        for trial in trials
        if trial.status in {"finished", "stopped"}
    }
    needed = max(LEAST_COMPARED, math.ceil(sum(map(bool, valued.values())) / 2))
    reached = Counter(epoch for values in valued.values() for epoch in values)
    epoch = max((epoch for epoch, n in reached.items() if n >= needed), default=None)
    if epoch is None:
        return None
    return Compared(
        epoch=epoch, values={i: values[epoch] for i, values in valued.items() if epoch in values}
    )


def _stops(trials: Sequence[Trial], metric: str) -> tuple[Stop, ...]:
    """The trials that were stopped, by the epoch after which they were."""
    found = []
    for epoch in sorted({trial.epochs for trial in trials if trial.status == "stopped"}):
        here = [trial for trial in trials if trial.status == "stopped" and trial.epochs == epoch]
        further = [trial for trial in trials if trial.epochs > epoch]
        values, kept = _values(here, metric, epoch), _values(further, metric, epoch)
        found.append(
            Stop(
                epoch=epoch,
                trials=len(here),
                value=median(values) if values else None,
                best_kept=min(kept, default=None),
            )
        )
    return tuple(found)


def _reruns(experiment: Experiment, ranked: Sequence[Scored]) -> tuple[Rerun, ...]:
    """Stopped trials that were trained to the end later, by their rank when they were stopped."""
    plan, metric = experiment.plan, experiment.plan.objectives[0].metric
    finished = [s.values[metric] for s in ranked if s.trial.status == "finished"]
    found = []
    for trial in experiment.trials:
        reports = experiment.reruns.get(trial.id, ())
        if not reports or trial.status == "finished":
            continue
        value = trial.value(metric, trial.epochs)
        there = _values(experiment.trials, metric, trial.epochs)
        last = _kept(reports, plan) if reports[-1].epoch >= plan.epochs else None
        final = last.metrics.get(metric) if last is not None else None
        found.append(
            Rerun(
                trial=trial,
                epoch=trial.epochs,
                value=value,
                rank=None if value is None else 1 + sum(v < value for v in there),
                of=len(there),
                final=final,
                final_rank=None if final is None else 1 + sum(v < final for v in finished),
            )
        )
    return tuple(sorted(found, key=lambda r: (r.rank is None, r.rank, r.trial.number)))


def _values(trials: Iterable[Trial], metric: str, epoch: int) -> list[float]:
    return [v for trial in trials if (v := trial.value(metric, epoch)) is not None]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
