"""Calibration of the probabilities of rank, stop, when and next-eval on unseen families.

    .venv/bin/neuneu pretrain --config jobs/configs/pretrain.yaml --set output=runs/pretrained
    .venv/bin/python benchmarks/decisions/run.py ../shared runs/unseen

The first command also writes the forecaster of each family to runs/unseen: networks, intervals and
joint distribution of the other families. Runs of one size are forecast together, from the
first part of their checkpoints, with all smaller runs of the family as references.
`benchmarks/page.py decisions` writes the page.
Shapes: S samples, H targets.
"""

import argparse
import itertools
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from families.data import FAMILIES

from decisions.asked import Asked, Unseen, ask, averages, cells, queries_of
from neuneu.core.config import config_to_dict
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.arrays import FloatArray
from neuneu.data.fingerprints import data_digest
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.statistics import first_passage, reached_at, running_mean, weigh
from neuneu.forecasters.protocol import Query

CONTEXTS: Final = (0.2, 0.4)
SAMPLES: Final = 1000
SCORES: Final = np.arange(0.05, 1.0, 0.05)
LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
THRESHOLDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
NEXT: Final = (0.3, 0.5, 0.9)
"""Fractions of a run's checkpoints at which one more evaluation is made."""


def pairs(asked: Sequence[Asked], *, shared: bool) -> list[dict[str, Any]]:
    """Return, for every pair of runs on a task, the favourite's probability and whether it won.

    Args:
        asked: trajectories.
        shared: whether to use samples that were drawn jointly, or as if runs were independent.
    """
    rows = []
    for group in cells(asked):
        for first, second in itertools.combinations(group, 2):
            if first.run == second.run:
                continue
            mine, other = first.samples[:, -1], second.samples[:, -1]
            if not shared:
                other = np.random.default_rng(0).permutation(other)
            p = float((mine > other).mean() + 0.5 * (mine == other).mean())
            a, b = first.truth.values[-1], second.truth.values[-1]
            won = 0.5 * (1.0 + np.sign(a - b))
            rows.append(
                {"p": max(p, 1 - p), "won": float(won if p >= 0.5 else 1 - won)}
                | {"runs": (first.run, second.run)}
            )
    return rows


def reliability(rows: Sequence[Mapping[str, Any]], edges: Sequence[float]) -> list[dict[str, Any]]:
    """Return count, mean prediction and observed frequency by bin of predicted probability."""
    p = np.array([row["p"] for row in rows])
    won = np.array([row["won"] for row in rows])
    place = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
    return [
        {
            "from": edges[b], "to": edges[b + 1], "n": int((place == b).sum()),
            "stated": float(p[place == b].mean()), "came": float(won[place == b].mean()),
        }
        for b in range(len(edges) - 1)
        if (place == b).any()
    ]  # fmt: skip


def brier(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean squared difference of probability and outcome; 0.25 for a constant 0.5."""
    return float(np.mean([(row["p"] - row["won"]) ** 2 for row in rows]))


def passages(asked: Sequence[Asked]) -> dict[str, Any]:
    """Evaluate how often, and how early, scores are reached as predicted."""
    rows = []
    times: dict[float, list[tuple[float, bool]]] = {level: [] for level in LEVELS}
    for a in asked:
        past = a.query.context.values
        whole = running_mean(np.concatenate([past, a.truth.values]))[len(past) :]
        for score in SCORES.tolist():
            if reached_at(past, score) is not None or not 0.0 < score - past[-1] < 0.2:
                continue
            passage = first_passage(past, a.truth.tokens, a.samples, score)
            there = whole >= score
            at = float(a.truth.tokens[np.argmax(there)]) if there.any() else np.inf
            p = 1.0 - passage.never
            rows.append({"p": p, "won": float(np.isfinite(at))})
            for level, told in times.items():
                if np.isfinite(by := passage.quantile(level)):
                    # Grid points are discrete, so here the probability is at least the level.
                    told.append((passage.by(by), at <= by))
    return {
        "n": len(rows),
        "brier": brier(rows),
        "base": float(np.mean([row["won"] for row in rows])),
        "reliability": reliability(rows, [0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0]),
        "by": {
            f"{level:g}": {
                "n": len(told),
                "stated": float(np.mean([stated for stated, _ in told])),
                "came": float(np.mean([came for _, came in told])),
            }
            for level, told in times.items()
            if told
        },
    }


def stopping(asked: Sequence[Asked]) -> dict[str, Any]:
    """Evaluate stopping runs that are unlikely to be the best on a task: savings and losses."""
    rows = []
    for threshold in THRESHOLDS:
        saved, spent, lost, wrong, contests = 0.0, 0.0, [], 0, 0
        for group in cells(asked):
            final = np.stack([a.samples[:, -1] for a in group])
            best = (final == final.max(axis=0)).mean(axis=1)
            truth = np.array([a.truth.values[-1] for a in group])
            cost = np.array([
                a.query.context.params * (a.truth.tokens[-1] - a.query.context.tokens[-1])
                for a in group
            ])  # fmt: skip
            keep = (best >= threshold) | (best == best.max())
            contests += 1
            saved, spent = saved + cost[~keep].sum() / cost.sum(), spent + 1.0
            wrong += truth[keep].max() < truth.max()
            lost.append(truth.max() - truth[keep].max())
        rows.append(
            {"threshold": threshold, "contests": contests, "saved": saved / spent}
            | {"best_stopped": wrong / contests, "lost": float(np.mean(lost))}
        )
    return {"thresholds": rows}


def targets(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Evaluate stopping runs that are unlikely to reach a target: how many, how often wrongly."""
    rows = []
    for a in asked:
        past, final = a.query.context.values[-1], a.samples[:, -1]
        for score in SCORES:
            if 0.0 < score - past < 0.2:
                p = float((final >= score).mean())
                rows.append((p, float(a.truth.values[-1] >= score)))
    p, came = np.array(rows).T
    found: list[dict[str, Any]] = []
    for threshold in THRESHOLDS:
        stopped = p < threshold
        found.append(
            {"threshold": threshold, "n": len(p), "stopped": float(stopped.mean())}
            | {"would_have_failed": float((came == 0).mean())}
            | {"wrongly": float(came[stopped].mean()) if stopped.any() else None}
        )
    return found


def next_evaluations(unseen: Unseen, share: float) -> list[dict[str, Any]]:
    """Compare the predicted gain of one more evaluation with the actual gain in accuracy."""
    places = [place for place in NEXT if place > share + 0.05]
    before: list[float] = []
    said: dict[float, list[float]] = {place: [] for place in places}
    after: dict[float, list[float]] = {place: [] for place in places}
    for number, group in enumerate(unseen.groups):
        forecaster = unseen.fitted(group)
        asked = [
            (query, truth, spots)
            for query, truth in zip(*queries_of(group, share), strict=True)
            if (spots := _spots(query, truth, places)) is not None
        ]
        if not asked:
            continue
        queries = [query for query, _, _ in asked]
        ends = [float(truth.values[-1]) for _, truth, _ in asked]
        answers = forecaster.predict(queries)
        middle = forecaster.levels.index(0.5)
        drawn = forecaster.draw(queries, answers, count=SAMPLES, seed=number)
        before += [abs(float(a[-1, middle]) - end) for a, end in zip(answers, ends, strict=True)]
        for k, place in enumerate(places):
            more = [_with_point(query, truth, spots[k]) for query, truth, spots in asked]
            after[place] += [
                abs(float(a[-1, middle]) - end)
                for a, end in zip(forecaster.predict(more), ends, strict=True)
            ]
        for (_, _, spots), samples in zip(asked, drawn, strict=True):
            worth = weigh(samples[:, -1][None], samples[:, spots].T, np.zeros(len(places), int))
            for place, narrowing in zip(places, worth.narrowing, strict=True):
                said[place].append(float(narrowing))
    return [
        {
            "place": place, "n": len(before), "error_before": float(np.mean(before)),
            "error_after": float(np.mean(after[place])),
            "said": float(np.mean(said[place])),
            "came": 1.0 - float(np.mean(after[place]) / np.mean(before)),
        }
        for place in places
    ]  # fmt: skip


def _spots(query: Query, truth: Trajectory, places: Sequence[float]) -> list[int] | None:
    """Return the targets at these fractions of the tokens; None if they are not distinct."""
    end = truth.tokens[-1]
    spots = [int(np.argmin(np.abs(truth.tokens - place * end))) for place in places]
    whole = len(set(spots)) == len(spots) and spots[-1] < len(truth) - 1
    return spots if whole and places[0] * end > query.context.tokens[-1] else None


def _with_point(query: Query, truth: Trajectory, spot: int) -> Query:
    """Return the query after one more evaluation, with the end as its only target."""
    context = query.context

    def joined(name: str) -> FloatArray:
        return np.append(getattr(context, name), getattr(truth, name)[spot])

    columns: dict[str, Any] = {
        name: joined(name) for name in ("steps", "tokens", "flops", "values", "stderrs")
    }
    further: dict[str, Any] = {
        kind: {
            name: np.append(values, getattr(truth, kind)[name][spot])
            for name, values in getattr(context, kind).items()
        }
        for kind in ("losses", "signals")
    }
    longer = replace(context, **columns, **further)
    last = slice(len(truth) - 1, len(truth))
    return replace(
        query, context=longer, target_steps=query.target_steps[last],
        target_tokens=query.target_tokens[last], target_flops=query.target_flops[last],
    )  # fmt: skip


def judge(asked: list[Asked]) -> dict[str, Any]:
    """Return all results for one kind of curve (single tasks, or means)."""
    edges = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
    together, apart = pairs(asked, shared=True), pairs(asked, shared=False)
    return {
        "trajectories": len(asked),
        "runs": len({a.run for a in asked}),
        "rank": {
            "n": len(together),
            "right": float(np.mean([row["won"] for row in together])),
            "brier": brier(together),
            "brier_independent": brier(apart),
            "reliability": reliability(together, edges),
            "reliability_independent": reliability(apart, edges),
        },
        "when": passages(asked),
        "stop": {"contests": stopping(asked)["thresholds"], "targets": targets(asked)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with trajectories/ and families/")
    parser.add_argument("forecasters", type=Path, help="folder with one for each held-out family")
    parser.add_argument("--families", default=",".join(FAMILIES), help="of these, by commas")
    parser.add_argument("--output", type=Path, default=Path("docs/results/decisions.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    unseen = Unseen(arguments.shared, arguments.forecasters, arguments.families.split(","))
    joints = {name: f.joint for name, f in unseen.forecasters.items()}
    record: dict[str, Any] = {
        "cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
        "samples": SAMPLES,
        "families": {
            name: {
                "runs": len({t.run_group for t in targets}),
                "sizes": sum(g.family == name for g in unseen.groups),
                "trajectories": len(targets),
                "digest": data_digest(targets),
                "joint": None if joint is None else config_to_dict(joint),
            }
            for name, joint in joints.items()
            for targets in [[t for g in unseen.groups if g.family == name for t in g.targets]]
        },
        "contexts": {},
    }  # fmt: skip
    for share in CONTEXTS:
        asked = ask(unseen, share, SAMPLES)
        with stage(f"decisions from {share:g}", 1) as bar:
            record["contexts"][f"{share:g}"] = {
                "tasks": judge(asked),
                "means": judge(averages(asked)),
                "next": next_evaluations(unseen, share),
            }
            bar.advance()
        write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
