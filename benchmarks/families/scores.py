"""Scores of a case: errors, intervals, ratios to the best simple rule; all with run bootstraps.

Every number is a quotient of two sums over runs (a mean is a sum over a count), so that all share
one bootstrap: runs are resampled within their family, alike for every forecaster.
Shapes: N items, T trajectories, G run groups, B bootstrap samples, M metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from families.answers import Answers
from families.cases import Asked
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.evaluation import metrics
from neuneu.evaluation.aggregation import INTERVAL, RunBootstrap, trajectory_means

METRICS: Final = (
    "mae",
    "wis",
    *(f"coverage_{percent}" for percent in metrics.INTERVALS),
    *(f"width_{percent}" for percent in metrics.INTERVALS),
)
MANY_FINISHED: Final = 8
"""Finished runs from which intervals are expected to be right for the user's family."""

MANY_RUNS: Final = 5
"""Suites of more runs than this have a ratio of their own."""

SAMPLES: Final = 1000


@cache
def weights(family: str, n_groups: int) -> FloatArray:
    """Return how often each run group of a family is drawn, (B, G); families are independent."""
    return RunBootstrap(samples=SAMPLES, seed=crc32(family.encode())).weights(n_groups)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quotient:
    """A quotient of two sums over runs, and both sums in B resamples of the runs.

    `runs` is the number of run groups involved; one run has no interval.
    """

    top: float
    bottom: float
    tops: FloatArray
    bottoms: FloatArray
    runs: int

    @property
    def value(self) -> float:
        """The quotient; NaN without anything below."""
        return self.top / self.bottom if self.bottom else np.nan

    @property
    def draws(self) -> FloatArray:
        """The quotient in each resample, (B,); NaN without anything below."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.bottoms > 0, self.tops / self.bottoms, np.nan)


def quotient(family: str, groups: IntArray, top: FloatArray, bottom: FloatArray) -> Quotient:
    """Return the sum of top (T,) over that of bottom (T,), where both are known."""
    known = np.isfinite(top) & np.isfinite(bottom)
    n = int(groups.max(initial=-1)) + 1
    sums = [
        np.bincount(groups[known], weights=values[known], minlength=n) for values in (top, bottom)
    ]
    drawn = weights(family, n)
    return Quotient(
        top=float(sums[0].sum()), bottom=float(sums[1].sum()),
        tops=drawn @ sums[0], bottoms=drawn @ sums[1],
        runs=len(np.unique(groups[known])),
    )  # fmt: skip


def mean_of(quotients: Sequence[Quotient]) -> dict[str, Any]:
    """Return the mean of the quotients of families, with its interval."""
    value = float(np.mean([q.value for q in quotients]))
    draws = np.mean([q.draws for q in quotients], axis=0)
    return _plain(value, draws, sum(q.runs for q in quotients))


def total_of(quotients: Sequence[Quotient]) -> dict[str, Any]:
    """Return the quotient over the trajectories of all families, with its interval."""
    return estimate(
        Quotient(
            top=sum(q.top for q in quotients), bottom=sum(q.bottom for q in quotients),
            tops=np.sum([q.tops for q in quotients], axis=0),
            bottoms=np.sum([q.bottoms for q in quotients], axis=0),
            runs=sum(q.runs for q in quotients),
        )
    )  # fmt: skip


def estimate(q: Quotient) -> dict[str, Any]:
    """Return a quotient with its 95 % interval over runs; null where there is none."""
    return _plain(q.value, q.draws, q.runs)


def difference(first: Quotient, second: Quotient) -> dict[str, Any]:
    """Return the difference of two quotients on the same runs, with its interval."""
    return _plain(
        first.value - second.value, first.draws - second.draws, min(first.runs, second.runs)
    )


def _plain(value: float, draws: FloatArray, runs: int) -> dict[str, Any]:
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, INTERVAL) if runs > 1 and len(draws) else (np.nan, np.nan)
    numbers = {"value": value, "low": float(low), "high": float(high)}
    return {key: round(x, 5) if np.isfinite(x) else None for key, x in numbers.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """All forecasters of one family in one case.

    `means[name]` (T, M) are the means over a trajectory's targets, NaN where it was not answered;
    the best simple `rule` has the smallest MAE of those that answered every trajectory.
    """

    asked: Asked
    answers: Mapping[str, Answers]
    means: Mapping[str, FloatArray]
    trained: tuple[str, ...]
    rule: str | None

    def metric(self, name: str, metric: str) -> FloatArray:
        """Return one metric of one forecaster, (T,)."""
        return self.means[name][:, METRICS.index(metric)]

    def mean(self, name: str, metric: str, where: npt.NDArray[np.bool_] | None = None) -> Quotient:
        """Return the mean of a metric over answered trajectories, or over some of them."""
        values = self.metric(name, metric)
        top = values if where is None else np.where(where, values, np.nan)
        return quotient(self.asked.family, self.asked.groups, top, np.ones(len(values)))

    def ratio(self, name: str, rule: str, where: npt.NDArray[np.bool_] | None = None) -> Quotient:
        """Return the MAE of one forecaster over that of another where both answered."""
        mine, theirs = self.metric(name, "mae"), self.metric(rule, "mae")
        top = mine if where is None else np.where(where, mine, np.nan)
        return quotient(self.asked.family, self.asked.groups, top, theirs)

    def best_rule(self, where: npt.NDArray[np.bool_] | None = None) -> str | None:
        """Return the simple rule with the smallest MAE of those that answered everything."""
        chosen = slice(None) if where is None else where
        errors = {
            name: float(self.metric(name, "mae")[chosen].mean())
            for name in self.means
            if name not in self.trained
        }
        whole = {name: error for name, error in errors.items() if np.isfinite(error)}
        return min(whole, key=lambda name: whole[name]) if whole else None


def score(asked: Asked, answers: Mapping[str, Answers], trained: Sequence[str]) -> Scored:
    """Score all forecasters of a family in a case; those without any answer are left out."""
    answering = {name: given for name, given in answers.items() if not np.isnan(given.median).all()}
    shared = metrics.shared_levels(given.levels for given in answering.values())
    means = {name: _means(asked, given, shared) for name, given in answering.items()}
    found = Scored(
        asked=asked, answers=answering, means=means, rule=None,
        trained=tuple(name for name in trained if name in answering),
    )  # fmt: skip
    return replace(found, rule=found.best_rule())


def _means(asked: Asked, given: Answers, shared: Sequence[float]) -> FloatArray:
    """Return (T, M) means over the targets of each trajectory."""
    y, quantiles = asked.y, given.quantiles
    at = {level: index for index, level in enumerate(given.levels)}
    # A point forecast is one whose quantiles coincide.
    compared = np.stack([quantiles[:, at.get(level, at[0.5])] for level in shared], axis=1)
    columns = [
        metrics.absolute_error(given.median, y),
        metrics.weighted_interval_score(compared, y, shared),
    ]
    bounds = [
        (quantiles[:, at[low]], quantiles[:, at[high]])
        if low in at and high in at
        else (np.full(len(y), np.nan),) * 2
        for low, high in metrics.INTERVALS.values()
    ]
    columns += [metrics.inside_interval(low, high, y) for low, high in bounds]
    columns += [high - low for low, high in bounds]
    owner = np.repeat(np.arange(len(asked)), asked.counts)
    return trajectory_means(np.stack(columns, axis=1), owner, len(asked))


def family_entry(scored: Scored) -> dict[str, Any]:
    """Return everything on the page about one family in one case."""
    forecasters = {}
    for name in scored.means:
        entry: dict[str, Any] = {"n": int(np.isfinite(scored.metric(name, "mae")).sum())}
        for metric in METRICS:
            found = estimate(scored.mean(name, metric))
            if found["value"] is not None:
                entry[metric] = found
        if scored.rule is not None:
            entry["ratio"] = estimate(scored.ratio(name, scored.rule))
        forecasters[name] = entry
    return {
        "trajectories": len(scored.asked),
        "runs": len(np.unique(scored.asked.groups)),
        "rule": scored.rule,
        "forecasters": forecasters,
        "suites": _suites(scored),
    }


def _suites(scored: Scored) -> dict[str, Any]:
    """Return the ratios of trained forecasters to each larger suite's own best rule."""
    found = {}
    for suite in np.unique(scored.asked.suites).tolist():
        where = scored.asked.suites == suite
        runs = len(np.unique(scored.asked.groups[where]))
        rule = scored.best_rule(where)
        if runs <= MANY_RUNS or rule is None:
            continue
        ratios = {name: estimate(scored.ratio(name, rule, where)) for name in scored.trained}
        found[suite] = {"runs": runs, "rule": rule, "ratio": ratios}
    return found


def pooled_entry(families: Sequence[Scored]) -> dict[str, Any]:
    """Return means over families, and over all of their trajectories.

    A forecaster that answers for some families only is pooled over those, which are listed.
    """
    names = dict.fromkeys(name for scored in families for name in scored.means)
    result = {}
    for name in names:
        there = [s for s in families if name in s.means]
        entry: dict[str, Any] = {"families": [s.asked.family for s in there]}
        for metric in METRICS:
            parts = [q for s in there if (q := s.mean(name, metric)).bottom]
            if parts:
                entry[metric] = {"mean": mean_of(parts), "all": total_of(parts)}
        ratios = [s.ratio(name, s.rule) for s in there if s.rule is not None]
        if ratios:
            entry["ratio"] = {"mean": mean_of(ratios), "all": total_of(ratios)}
        result[name] = entry
    return result


def finished_entry(families: Sequence[Scored]) -> dict[str, Any]:
    """Return coverage and width where a run has at least `MANY_FINISHED` finished references."""
    there = {s.asked.family: (s, s.asked.finished >= MANY_FINISHED) for s in families}
    there = {family: found for family, found in there.items() if found[1].any()}
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for s in families for name in s.trained):
        known = {f: found for f, found in there.items() if name in found[0].means}
        if not known:
            continue
        entry: dict[str, Any] = {"families": {}}
        for metric in ("coverage_80", "width_80"):
            parts = {f: s.mean(name, metric, where) for f, (s, where) in known.items()}
            for family, part in parts.items():
                entry["families"].setdefault(family, {})[metric] = estimate(part)
            entry[metric] = mean_of(list(parts.values()))
        result[name] = entry
    return result
