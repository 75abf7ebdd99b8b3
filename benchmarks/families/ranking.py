"""Ranking of runs of equal size by what is forecast of their ends.

Two runs make a pair on a task, metric and number of shots if they are of one family, equal in
parameters (within 5 %) and length (planned tokens within 10 %), and either of one suite or of one
name and different schedules. A pair counts if the final scores, means of the last three
checkpoints, are more than a point apart; means over tasks, more than half a point. Forecasts of
the final are means over the same three checkpoints.
Shapes: N items, T trajectories, P pairs, G run groups, B bootstrap samples.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from families.cases import Asked
from families.entrants import PRESENT
from families.scores import (
    Quotient,
    Scored,
    difference,
    estimate,
    mean_of,
    total_of,
    weights,
)
from neuneu.data.arrays import FloatArray, IntArray
from neuneu.data.ranking import FINAL_CHECKPOINTS
from neuneu.data.trajectories import Trajectory

EQUAL_PARAMS: Final = 1.05
EQUAL_TOKENS: Final = 1.1
APART: Final = 0.01
APART_MEANS: Final = 0.005
KINDS: Final = ("tasks", "means")
"""Pairs on single tasks, and of the means over the tasks that two runs share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """P pairs of candidates: the run groups of both, and which is better by how much."""

    first: IntArray
    second: IntArray
    apart: FloatArray


def finals(asked: Asked, items: FloatArray) -> FloatArray:
    """Return the mean of the last three of each trajectory's items (N,), (T,)."""
    last = np.cumsum(asked.counts)[:, None] - np.arange(FINAL_CHECKPOINTS, 0, -1)
    return np.asarray(items[last].mean(axis=1))


def comparable(a: Trajectory, b: Trajectory) -> bool:
    """Return whether two trajectories on one task are of comparable runs."""
    renamed, moved = a.run != b.run, a.suite != b.suite
    kin = not moved if renamed else moved and a.schedule != b.schedule
    ends = [t.planned_tokens or float(t.tokens[-1]) for t in (a, b)]
    sizes = [a.params, b.params]
    return kin and _within(sizes, EQUAL_PARAMS) and _within(ends, EQUAL_TOKENS)


def _within(numbers: Sequence[float], factor: float) -> bool:
    return max(numbers) <= factor * min(numbers)


def pairs_of(asked: Asked) -> tuple[IntArray, IntArray]:
    """Return indices (P,), (P,) of comparable trajectories on one task, in order of their runs."""
    runs = [(t.suite, t.run) for t in asked.trajectories]
    cells: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, t in enumerate(asked.trajectories):
        cells[t.task, t.metric, t.num_fewshot].append(index)
    found = [
        pair
        for members in cells.values()
        for pair in itertools.combinations(sorted(members, key=lambda i: runs[i]), 2)
        if comparable(*(asked.trajectories[i] for i in pair))
    ]
    array = np.array(found, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def rank(scored: Scored) -> dict[str, dict[str, Quotient]]:
    """Return the share of pairs that each forecaster orders correctly, by kind of pair."""
    asked = scored.asked
    first, second = pairs_of(asked)
    truth = finals(asked, asked.y)
    forecasts = {name: finals(asked, given.median) for name, given in scored.answers.items()}
    result: dict[str, dict[str, Quotient]] = {}
    for kind, least in zip(KINDS, (APART, APART_MEANS), strict=True):
        where = first, second
        kept = truth, *forecasts.values()
        gaps = [values[first] - values[second] for values in kept]
        if kind == "means":
            where, gaps = _means(asked, first, second, gaps)
        far = np.abs(gaps[0]) > least
        if not far.any():
            continue
        one, other = (asked.groups[i[far]] for i in where)
        result[kind] = {
            name: _share(asked.family, one, other, gaps[0][far], gap[far])
            for name, gap in zip(forecasts, gaps[1:], strict=True)
        }
    return result


def _means(
    asked: Asked, first: IntArray, second: IntArray, gaps: Sequence[FloatArray]
) -> tuple[tuple[IntArray, IntArray], list[FloatArray]]:
    """Return pairs of runs, by one trajectory of each, with the means of their gaps on tasks."""
    runs = [(t.suite, t.run) for t in asked.trajectories]
    together: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        together[runs[i], runs[j]].append(place)
    members = [np.array(places) for places in together.values()]
    chosen = np.array([places[0] for places in members], dtype=np.int64)
    means = [np.array([gap[places].mean() for places in members]) for gap in gaps]
    return (first[chosen], second[chosen]), means


def _share(
    family: str, first: IntArray, second: IntArray, truth: FloatArray, forecast: FloatArray
) -> Quotient:
    """Return the share of pairs whose gap has the right sign; a tie is half right."""
    answered = np.isfinite(forecast)
    right = (1.0 + np.sign(forecast) * np.sign(truth))[answered] / 2.0
    n = int(max(first.max(), second.max())) + 1
    scores, counts = np.zeros((n, n)), np.zeros((n, n))
    np.add.at(scores, (first[answered], second[answered]), right)
    np.add.at(counts, (first[answered], second[answered]), 1.0)
    drawn = weights(family, n)
    return Quotient(
        top=float(scores.sum()), bottom=float(counts.sum()),
        tops=((drawn @ scores) * drawn).sum(axis=1),
        bottoms=((drawn @ counts) * drawn).sum(axis=1),
        runs=len(np.unique(np.concatenate([first[answered], second[answered]]))),
    )  # fmt: skip


def ranking_entry(families: Sequence[Scored]) -> dict[str, Any]:
    """Return shares of pairs ranked correctly in one case: by kind, family and forecaster.

    Forecasters that left a pair unanswered are not listed. `minus` is the difference to the better
    of present score and recent mean.
    """
    ranked = {s.asked.family: rank(s) for s in families}
    result: dict[str, Any] = {}
    for kind in KINDS:
        shares = {family: found[kind] for family, found in ranked.items() if kind in found}
        entry = {family: _ranked(found) for family, found in shares.items()}
        if not entry:
            continue
        result[kind] = {"families": entry, "pooled": _pooled(shares)}
    return result


def best_present(shares: dict[str, Quotient]) -> str | None:
    """Return the better of present score and recent mean; None if neither is there."""
    there = [name for name in PRESENT if name in shares]
    return max(there, key=lambda name: shares[name].value) if there else None


def _ranked(shares: dict[str, Quotient]) -> dict[str, Any]:
    pairs = max(q.bottom for q in shares.values())
    whole = {name: q for name, q in shares.items() if q.bottom == pairs}
    best = best_present(whole)
    forecasters = {}
    for name, q in whole.items():
        forecasters[name] = {"share": estimate(q)}
        if best is not None:
            forecasters[name]["minus"] = difference(q, whole[best])
    runs = max(q.runs for q in whole.values())
    return {"pairs": int(pairs), "runs": runs, "best": best, "forecasters": forecasters}


def _pooled(families: dict[str, dict[str, Quotient]]) -> dict[str, Any]:
    """Return shares pooled over families, as the mean of families and over all pairs."""
    result = {}
    for name in dict.fromkeys(name for shares in families.values() for name in shares):
        there = {f: s for f, s in families.items() if name in s and s[name].bottom}
        mine = [shares[name] for shares in there.values()]
        best = [shares[b] for shares in there.values() if (b := best_present(shares)) is not None]
        entry: dict[str, Any] = {
            "families": list(there),
            "pairs": int(sum(q.bottom for q in mine)),
            "share": {"mean": mean_of(mine), "all": total_of(mine)},
        }
        if len(best) == len(mine):
            entry["minus"] = {
                "mean": round(entry["share"]["mean"]["value"] - mean_of(best)["value"], 5),
                "all": round(entry["share"]["all"]["value"] - total_of(best)["value"], 5),
            }
        result[name] = entry
    return result
