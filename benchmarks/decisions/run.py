"""Calibration of the probabilities of rank, stop, when and next-eval on held-out runs.

    .venv/bin/python benchmarks/forecasting/run.py ../shared/trajectories --splits dev,standard
    .venv/bin/python benchmarks/decisions/run.py ../shared/trajectories FOLDER

FOLDER (runs/forecasting/standard-*-folds) has the networks of the folds, which the first command
trains for calibration, each without a third of the runs of the standard split (all runs of a size
together; no Pythia 12b, no OLMo 3B). Here each network forecasts the third that it was not trained
on, with intervals and joint distribution fitted to the other thirds. `benchmarks/page.py decisions`
writes the page.
Shapes: S samples, H targets.
"""

import argparse
import itertools
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from run_splits import SPLITS

from neuneu.core.config import config_to_dict
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.load import load_dataset
from neuneu.data.splits import Anchored, deal_by_size
from neuneu.data.trajectories import FloatArray, RunGroup, Trajectory
from neuneu.decisions.statistics import first_passage, reached_at, running_mean, weigh
from neuneu.forecasters.copula import Joint
from neuneu.forecasters.cross_run.export import load_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import make_queries
from neuneu.training.cross_run.fitting import FitConfig
from neuneu.training.cross_run.held_out import collect_folds
from neuneu.training.cross_run.out_of_fold import OutOfFold

SPLIT: Final = "standard"
CONTEXTS: Final = (0.2, 0.4)
SAMPLES: Final = 1000
SCORES: Final = np.arange(0.05, 1.0, 0.05)
LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
THRESHOLDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
NEXT: Final = (0.3, 0.5, 0.9)
"""Fractions of a run's checkpoints at which one more evaluation is made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A held-out trajectory: query, truth, and samples (S, H) drawn jointly with its fold."""

    query: Query
    truth: Trajectory
    samples: FloatArray
    fold: int

    @property
    def cell(self) -> tuple[Any, ...]:
        """Key of the runs that are compared with each other."""
        c = self.query.context
        return (self.fold, c.family, c.suite, c.task, c.metric, c.num_fewshot)

    @property
    def run(self) -> RunGroup:
        """The run group."""
        return self.query.context.run_group


class Folds:
    """The forecasters of the folds, each calibrated on the forecasts of the other folds."""

    def __init__(self, data: Path, networks: Path, seed: int) -> None:
        observed = load_dataset(
            data / "accuracies.parquet", losses=data / "losses.parquet", tasks=data / "tasks.csv"
        )
        self.digest = observed.digest
        self.trajectories = SPLITS[SPLIT].apply(observed.trajectories).learn
        self.networks = load_networks(networks).networks
        self.folds = deal_by_size(self.trajectories, len(self.networks), seed)
        with stage("forecasts for calibration", 1) as bar:
            self.collected = collect_folds(
                self.trajectories, self.folds, [[network] for network in self.networks]
            )
            bar.advance()

    def forecaster(self, fold: int) -> CrossRunForecaster:
        """Return the forecaster of a fold, with all runs of the other folds as references."""
        held = set(self.folds[fold])
        others = OutOfFold.merged([c for k, c in enumerate(self.collected) if k != fold])
        calibration = others.calibrate()
        made = CrossRunForecaster(
            [self.networks[fold]], calibration=calibration, joint=others.joint(calibration)
        )
        made.fit([t for t in self.trajectories if t.run_group not in held])
        return made

    def targets(self, fold: int) -> list[Trajectory]:
        """Return the held-out trajectories of a fold."""
        held = set(self.folds[fold])
        return [t for t in self.trajectories if t.run_group in held]


def ask(folds: Folds, forecasters: Sequence[CrossRunForecaster], share: float) -> list[Asked]:
    """Forecast all held-out trajectories from a fraction of their checkpoints, drawn by fold."""
    found = []
    for fold, forecaster in enumerate(forecasters):
        queries, truths = make_queries(folds.targets(fold), Anchored(fraction=share), None)
        drawn = forecaster.draw(queries, forecaster.predict(queries), count=SAMPLES, seed=fold)
        found += [
            Asked(query=q, truth=t, samples=s, fold=fold)
            for q, t, s in zip(queries, truths, drawn, strict=True)
        ]
    return found


def averages(asked: Sequence[Asked]) -> list[Asked]:
    """Return means over tasks by run, suite and shots, at the most common checkpoints."""
    groups: dict[tuple[Any, ...], list[Asked]] = defaultdict(list)
    for a in asked:
        c = a.query.context
        if c.metric == "acc":
            places = (tuple(c.tokens), tuple(a.truth.tokens))
            groups[a.fold, c.family, c.suite, c.run, c.num_fewshot, places].append(a)
    best: dict[tuple[Any, ...], list[Asked]] = {}
    for key, members in groups.items():
        if len(members) > len(best.get(key[:-1], [])):
            best[key[:-1]] = members
    # Runs are compared on the tasks that they share.
    tasks: dict[tuple[Any, ...], list[set[str]]] = defaultdict(list)
    for key, members in best.items():
        tasks[key[0], key[1], key[2], key[4]].append({m.query.context.task for m in members})
    result = []
    for key, members in best.items():
        common = set.intersection(*tasks[key[0], key[1], key[2], key[4]])
        kept = [m for m in members if m.query.context.task in common]
        if len(kept) < 3:
            continue
        context = replace(
            kept[0].query.context,
            task="mean",
            values=np.mean([m.query.context.values for m in kept], axis=0),
        )
        result.append(
            Asked(
                query=replace(kept[0].query, context=context),
                truth=replace(
                    kept[0].truth, values=np.mean([m.truth.values for m in kept], axis=0)
                ),
                samples=np.mean([m.samples for m in kept], axis=0),
                fold=kept[0].fold,
            )
        )
    return result


def cells(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yield groups of at least two held-out runs of one fold on one task."""
    groups: dict[tuple[Any, ...], list[Asked]] = defaultdict(list)
    for a in asked:
        groups[a.cell].append(a)
    yield from (group for group in groups.values() if len({a.run for a in group}) > 1)


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


def next_evaluations(
    folds: Folds, forecasters: Sequence[CrossRunForecaster], share: float
) -> list[dict[str, Any]]:
    """Compare the predicted gain of one more evaluation with the actual gain in accuracy."""
    places = [place for place in NEXT if place > share + 0.05]
    before: list[float] = []
    said: dict[float, list[float]] = {place: [] for place in places}
    after: dict[float, list[float]] = {place: [] for place in places}
    for fold, forecaster in enumerate(forecasters):
        queries, truths = make_queries(folds.targets(fold), Anchored(fraction=share), None)
        answers = forecaster.predict(queries)
        middle = forecaster.levels.index(0.5)
        drawn = forecaster.draw(queries, answers, count=SAMPLES, seed=fold)
        spots = [
            [int(place * (len(t) + len(q.context))) - len(q.context) for place in places]
            for q, t in zip(queries, truths, strict=True)
        ]
        fits = [
            all(0 <= s < len(t) - 1 for s in spot) for spot, t in zip(spots, truths, strict=True)
        ]
        for k, place in enumerate(places):
            more, ends = [], []
            for query, truth, spot, fit in zip(queries, truths, spots, fits, strict=True):
                if fit:
                    more.append(_with_point(query, truth, spot[k]))
                    ends.append(float(truth.values[-1]))
            for answer, end in zip(forecaster.predict(more), ends, strict=True):
                after[place].append(abs(float(answer[-1, middle]) - end))
        for answer, truth, samples, spot, fit in zip(
            answers, truths, drawn, spots, fits, strict=True
        ):
            if not fit:
                continue
            before.append(abs(float(answer[-1, middle]) - float(truth.values[-1])))
            worth = weigh(samples[:, -1][None], samples[:, spot].T, np.zeros(len(places), int))
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


def _with_point(query: Query, truth: Trajectory, spot: int) -> Query:
    """Return the query after one more evaluation, with the end as its only target."""
    context = query.context

    def joined(name: str) -> FloatArray:
        return np.append(getattr(context, name), getattr(truth, name)[spot])

    columns: dict[str, Any] = {
        name: joined(name) for name in ("steps", "tokens", "flops", "values", "stderrs")
    }
    losses = {
        name: np.append(values, truth.losses[name][spot]) for name, values in context.losses.items()
    }
    longer = replace(context, **columns, losses=losses)
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
    parser.add_argument("data", type=Path, help="folder of the public trajectories")
    parser.add_argument("networks", type=Path, help="folder of the networks of the folds")
    parser.add_argument("--output", type=Path, default=Path("docs/results/decisions.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folds = Folds(arguments.data, arguments.networks, FitConfig().seed)
    forecasters = [folds.forecaster(fold) for fold in range(len(folds.folds))]
    joints: list[Joint] = [f.joint for f in forecasters if f.joint is not None]
    record: dict[str, Any] = {
        "data_digest": folds.digest, "split": SPLIT, "cpus": os.cpu_count(),
        "python": platform.python_version(), "torch": torch.__version__, "samples": SAMPLES,
        "folds": [["/".join(group) for group in fold] for fold in folds.folds],
        "joint": [config_to_dict(joint) for joint in joints], "contexts": {},
    }  # fmt: skip
    for share in CONTEXTS:
        with stage(f"from {share:g} of the checkpoints", 1) as bar:
            asked = ask(folds, forecasters, share)
            record["contexts"][f"{share:g}"] = {
                "tasks": judge(asked),
                "means": judge(averages(asked)),
                "next": next_evaluations(folds, forecasters, share),
            }
            bar.advance()
        write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
