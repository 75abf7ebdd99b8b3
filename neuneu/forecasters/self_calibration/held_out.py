"""Forecasts of finished runs from their beginnings, with the other runs as references."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from neuneu.data.fingerprints import runs_trained_on
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import MAX_SIBLINGS, make_queries, spread, with_siblings
from neuneu.forecasters.self_calibration.cases import AtShare, Fold, make_folds, progress
from neuneu.forecasters.self_calibration.correction import Outcomes, TaskKey

LIMIT: Final = 300
"""Maximum number of forecasts of a case, but at least `LEAST` trajectories of each run."""

LEAST: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutForecasts:
    """Forecasts of the finished runs of a family, each without that run among the references.

    `outcomes` has every target; `queries` and `truths`, one for each trajectory code, make it up.
    `shares` are the points where runs were cut, as shares of their tokens, `folds` the runs that
    were held out together, and `sampled` whether only some of the trajectories were forecast.
    """

    family: str
    outcomes: Outcomes
    queries: list[Query]
    truths: list[Trajectory]
    shares: tuple[float, ...]
    folds: tuple[Fold, ...]
    sampled: bool

    @property
    def from_smaller(self) -> bool:
        """Whether only smaller runs of the family were references."""
        return self.folds[0].below < np.inf

    @property
    def n_trajectories(self) -> int:
        """The number of trajectories, each counted once, however often it was cut."""
        return len({(t.family, *t.key) for t in self.truths})


def forecast_held_out(
    forecaster: JointForecaster,
    finished: Sequence[Trajectory],
    family: str,
    *,
    shares: Sequence[float],
    larger: bool = False,
    keys: frozenset[TaskKey] | None = None,
    limit: int = LIMIT,
    seed: int = 0,
) -> HeldOutForecasts | None:
    """Forecasts the finished runs of a family; None with fewer than two of them.

    Runs that the forecaster was trained on are references only. The forecaster is left fitted on
    the references of the last fold.

    Args:
        forecaster: fitted here, on the finished runs of the other folds, of any family.
        finished: all finished runs, as the question would have them as references.
        family: whose runs to forecast.
        shares: where to cut them, as shares of their tokens; 0 is before their start.
        larger: whether they stand for larger runs (`cases.make_folds`).
        keys: tasks to forecast; None takes all.
        limit: maximum number of forecasts.
        seed: for choosing trajectories, where there are more.
    """
    pool = comparable(forecaster, finished, family, keys)
    sizes = {t.run_group: t.params for t in pool}
    if len(sizes) < 2:
        return None
    folds = make_folds(sizes, larger=larger)
    held = frozenset(run for fold in folds for run in fold.runs)
    asked = [t for t in pool if t.run_group in held]
    chosen = _sample(asked, folds, limit // len(shares), seed)
    sampled = sum(map(len, chosen.values())) < len(asked)
    queries: list[Query] = []
    truths: list[Trajectory] = []
    parts: list[dict[str, Any]] = []
    places = {key: place for place, key in enumerate(sorted({_key(t) for t in pool}))}
    codes = {run: code for code, run in enumerate(sorted(sizes))}
    for fold in folds:
        for query, truth, answer in _forecast(
            forecaster, finished, fold, chosen, shares, sampled=sampled
        ):
            same = np.ones(len(truth), dtype=np.int64)
            parts.append(
                {
                    "quantiles": answer,
                    "outcomes": truth.values,
                    "progress": progress(query.context, query.target_tokens),
                    "runs": same * codes[truth.run_group],
                    "trajectories": same * len(queries),
                    "tasks": same * places[_key(truth)],
                }
            )
            queries.append(query)
            truths.append(truth)
    if len({t.run_group for t in truths}) < 2:
        return None
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return HeldOutForecasts(
        family=family,
        outcomes=Outcomes(levels=tuple(forecaster.levels), keys=tuple(places), **arrays),
        queries=queries,
        truths=truths,
        shares=tuple(shares),
        folds=folds,
        sampled=sampled,
    )


def comparable(
    forecaster: JointForecaster,
    finished: Sequence[Trajectory],
    family: str,
    keys: frozenset[TaskKey] | None = None,
) -> list[Trajectory]:
    """The trajectories of a family that can be held out: of two checkpoints, not trained on."""
    own = [
        t
        for t in finished
        if t.family == family
        and len(t.without_step_zero()) > 1
        and (keys is None or _key(t) in keys)
    ]
    trained_on = runs_trained_on(forecaster.seen_share, own)
    return [t for t in own if t.run_group not in trained_on]


def _forecast(
    forecaster: JointForecaster,
    finished: Sequence[Trajectory],
    fold: Fold,
    chosen: Mapping[RunGroup, Sequence[Trajectory]],
    shares: Sequence[float],
    *,
    sampled: bool,
) -> list[tuple[Query, Trajectory, Any]]:
    """(query, truth, (h, Q) quantiles) of the trajectories of a fold that were answered."""
    held = [t for run in fold.runs for t in chosen[run]]
    beside = _beside([t for t in finished if t.run_group in fold.runs])
    queries: list[Query] = []
    truths: list[Trajectory] = []
    for share in shares:
        rule = AtShare(fraction=share)
        asked, later = make_queries(held, rule, None)
        observed = [split[0] for t in beside if (split := rule.split(t)) is not None]
        queries += with_siblings(asked, observed)
        truths += later
    if not queries:
        return []
    references = [t for t in finished if fold.admits(t)]
    if sampled:  # only some tasks are forecast: spare the work for the others
        tasks = {t.task for t in held}
        references = [t for t in references if t.task in tasks]
    forecaster.fit(references)
    return [
        (query, truth, answer)
        for query, truth, answer in zip(queries, truths, forecaster.predict(queries), strict=True)
        if not np.isnan(answer).any() and not np.isnan(truth.values).any()
    ]


def _beside(several: Sequence[Trajectory]) -> list[Trajectory]:
    """Those trajectories of each run that may be siblings in a query."""
    runs: dict[tuple[str, str, str], list[Trajectory]] = defaultdict(list)
    for t in sorted(several, key=lambda t: t.key):
        runs[t.family, t.suite, t.run].append(t)
    return [t for members in runs.values() for t in spread(members, MAX_SIBLINGS + 1)]


def _key(trajectory: Trajectory) -> TaskKey:
    return (trajectory.task, trajectory.metric, trajectory.num_fewshot)


def _sample(
    pool: Sequence[Trajectory], folds: Sequence[Fold], limit: int, seed: int
) -> Mapping[RunGroup, list[Trajectory]]:
    """The trajectories to forecast of each run, in all about `limit`, whatever their order.

    Runs of a fold are forecast on the same tasks, so that few references have to be read.
    """
    by_run: dict[RunGroup, list[Trajectory]] = defaultdict(list)
    for t in sorted(pool, key=lambda t: t.key):
        by_run[t.run_group].append(t)
    most = max(LEAST, limit // max(1, len(by_run)))
    generator = np.random.default_rng(seed)
    found = {}
    for fold in folds:
        keys = sorted({_key(t) for run in fold.runs for t in by_run[run]})
        drawn = [keys[place] for place in generator.permutation(len(keys))]
        for run in fold.runs:
            members = sorted(by_run[run], key=lambda t: drawn.index(_key(t)))
            found[run] = members[:most]
    return found
