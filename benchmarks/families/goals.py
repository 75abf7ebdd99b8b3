"""What issue 18 asks of the forecaster on unseen families, and what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from families.entrants import FINISHED, LAW, PEERS
from families.ranking import finals
from families.scores import MANY_FINISHED, Scored, estimate, quotient

TODAY: Final = "today"
"""Name of the forecaster whose intervals are compared with, if it is among the entrants."""

POOLED: Final = {"mean": "mean of families", "all": "all trajectories"}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Large runs of a family that are forecast from its smaller ones."""

    title: str
    family: str
    params: float


LARGE: Final = (
    Sizes(title="OLMo 1B and 3B", family="olmo", params=1e9),
    Sizes(title="open-sci-ref 1.3B", family="open-sci-ref", params=1e9),
    Sizes(title="Gemstones 0.5B", family="gemstones", params=0.49e9),
)


def large(scored: Scored, sizes: Sizes) -> npt.NDArray[np.bool_]:
    """Return which trajectories are of the large runs, (T,)."""
    return np.array([t.params >= sizes.params for t in scored.asked.trajectories])


def large_entry(scored: Scored, sizes: Sizes) -> dict[str, Any] | None:
    """Return errors on the large runs: of all targets, of the final, and relative to the law's.

    The final is the mean of the last three checkpoints. Ratios are on the trajectories for which
    the law has an answer.
    """
    where = large(scored, sizes)
    if not where.any():
        return None
    asked = scored.asked
    truth = finals(asked, asked.y)
    final = {n: np.abs(finals(asked, a.median) - truth) for n, a in scored.answers.items()}
    law = LAW if LAW in scored.means else None
    forecasters: dict[str, Any] = {}
    for name in scored.means:
        here = np.where(where, final[name], np.nan)
        entry: dict[str, Any] = {
            "n": int(np.isfinite(here).sum()),
            "mae": estimate(scored.mean(name, "mae", where)),
            "final": estimate(quotient(asked.family, asked.groups, here, np.ones(len(here)))),
        }
        if law is not None:
            entry["ratio"] = estimate(scored.ratio(name, law, where))
            entry["ratio_final"] = estimate(quotient(asked.family, asked.groups, here, final[law]))
        if entry["n"]:
            forecasters[name] = entry
    runs = len(np.unique(asked.groups[where]))
    return {"runs": runs, "trajectories": int(where.sum()), "law": law, "forecasters": forecasters}


def goal(what: str, limit: str, value: float | None, met: bool | None, unit: str) -> dict[str, Any]:
    """Return a row of the table: `unit` says how the value is shown (ratio, points, percent)."""
    rounded = None if value is None else round(value, 5)
    return {"what": what, "limit": limit, "value": rounded, "met": met, "unit": unit}


def goals(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return all goals for one forecaster that the record can tell about."""
    cases = record["cases"]
    rows: list[dict[str, Any]] = []
    for case, each, pooled in (("alone", 0.90, 0.80), ("smaller", 0.75, 0.65)):
        found = cases.get(case, {}).get("pooled", {}).get(name, {})
        if "ratio" not in found:
            continue
        what = f"MAE / best simple rule, {case}"
        ratios = _by_family(cases[case], name, "ratio")
        worst = max(ratios, key=lambda family: ratios[family])
        rows.append(_most(f"{what}, worst family: {worst}", each, ratios[worst]))
        for over, words in POOLED.items():
            rows.append(_most(f"{what}, {words}", pooled, found["ratio"][over]["value"]))
    rows += _suites(cases, name)
    rows += _coverage(cases, name)
    rows += _finished(record["finished"], name + FINISHED)
    rows += _ranking(record["ranking"], name)
    for title, entry in record["large"]["before"].items():
        mine = entry["forecasters"].get(name, {})
        for key, words in (("ratio_final", "final"), ("ratio", "all later checkpoints")):
            what = f"Before the start, error / ladder law's, {title}, {words}"
            rows.append(_most(what, 0.8, mine.get(key, {}).get("value")))
    for title, entry in record["large"]["one-recipe"].items():
        value = entry["forecasters"].get(name, {}).get("mae", {}).get("value")
        met = None if value is None else value <= 0.017
        what = f"One checkpoint and smaller runs of the same recipe, MAE, {title}"
        rows.append(goal(what, "<= 1.7 points", value, met, "points"))
    return rows


def _most(what: str, limit: float, value: float | None) -> dict[str, Any]:
    met = None if value is None else value <= limit
    return goal(what, f"<= {limit:.2f}", value, met, "ratio")


def _by_family(case: Mapping[str, Any], name: str, key: str) -> dict[str, float]:
    return {
        family: entry["forecasters"][name][key]["value"]
        for family, entry in case["families"].items()
        if key in entry["forecasters"].get(name, {})
    }


def _suites(cases: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = {
        f"{suite}, {case}": entry["ratio"][name]["value"]
        for case in ("alone", "smaller")
        for family in cases.get(case, {}).get("families", {}).values()
        for suite, entry in family["suites"].items()
        if name in entry["ratio"]
    }
    if not found:
        return []
    worst = max(found, key=lambda suite: found[suite])
    what = "MAE / best simple rule, worst suite of more than five runs"
    return [_most(f"{what}: {worst}", 1.0, found[worst])]


def _coverage(cases: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = []
    for case in ("alone", "smaller", "before"):
        pooled = cases.get(case, {}).get("pooled", {})
        if "coverage_80" not in pooled.get(name, {}):
            continue
        what = f"80 % interval coverage, {case}"
        for over, words in POOLED.items():
            value = pooled[name]["coverage_80"][over]["value"]
            rows.append(_inside(f"{what}, {words}", 0.77, 0.83, value))
        families = _by_family(cases[case], name, "coverage_80")
        worst = max(families, key=lambda family: abs(families[family] - 0.8))
        rows.append(_inside(f"{what}, worst family: {worst}", 0.7, 0.9, families[worst]))
        if TODAY in pooled and name != TODAY and case != "before":
            mine, theirs = (_by_family(cases[case], n, "width_80") for n in (name, TODAY))
            both = [family for family in mine if family in theirs]
            value = float(np.mean([mine[f] / theirs[f] for f in both]))
            what = f"Width of 80 % intervals / today's, {case}, mean of {', '.join(both)}"
            rows.append(_most(what, 0.667, value))
    return rows


def _inside(what: str, low: float, high: float, value: float) -> dict[str, Any]:
    limit = f"{100 * low:.0f} to {100 * high:.0f} %"
    return goal(what, limit, value, low <= value <= high, "percent")


def _finished(finished: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = []
    for case in ("smaller", "equal"):
        found = finished.get(case, {}).get(name)
        if found is not None:
            what = f"80 % interval coverage, {case}, {MANY_FINISHED} finished runs or more"
            rows.append(_inside(f"{what}, mean", 0.78, 0.82, found["coverage_80"]["value"]))
    return rows


def _ranking(ranking: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The goals of ranking, met with the answers of `rank` where these are known."""
    rows = []
    for case, kinds in ranking.items():
        pooled = kinds.get("tasks", {}).get("pooled", {})
        used = name + PEERS if name + PEERS in pooled else name
        if "minus" not in pooled.get(used, {}):
            continue
        what = f"Pairs ranked correctly beyond present score and recent mean, {case}"
        for over, words in (("mean", "mean of families"), ("all", "all pairs")):
            rows.append(_least(f"{what}, {words}", 0.02, pooled[used]["minus"][over]))
        minus = {
            family: entry["forecasters"][used]["minus"]["value"]
            for family, entry in kinds["tasks"]["families"].items()
            if "minus" in entry["forecasters"].get(used, {})
        }
        worst = min(minus, key=lambda family: minus[family])
        rows.append(_least(f"{what}, worst family: {worst}", 0.0, minus[worst]))
    return rows


def _least(what: str, limit: float, value: float) -> dict[str, Any]:
    return goal(what, f">= {100 * limit:g} points", value, value >= limit, "points")


def names_of(scored: Sequence[Scored]) -> list[str]:
    """Return the trained forecasters of any family, in their order."""
    return list(dict.fromkeys(name for s in scored for name in s.trained))
