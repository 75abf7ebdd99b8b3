"""What token losses add to a forecast, on our own ladder.

    .venv/bin/neuneu demo --config jobs/configs/demo-reference.yaml
    .venv/bin/python benchmarks/token_losses/run.py runs/reference

The same network is trained with each encoding (none, one mean, means of several validation sets,
histogram, quantiles, CNN in word order) on the same runs and scored on held-out runs: all runs of
one text mix, in turn, and all runs of the largest size. The words form two texts from the same
sources. Networks are trained on the first and also evaluated on the second, which shows what
transfers.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from window_networks import train_window

from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.splits import Anchored
from neuneu.data.store.store import Store
from neuneu.data.trajectories import TokenLossTable, Trajectory, build_trajectories
from neuneu.evaluation.aggregation import RunBootstrap
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.window.config import EncoderConfig, ModelConfig
from neuneu.forecasters.window.encoders import SetMeans
from neuneu.scoring.corpus import word_spans
from neuneu.training.config import TrainConfig
from neuneu.training.optimisation import OptimConfig

KINDS: Final = ("none", "mean", "sets", "histogram", "quantiles", "cnn")
CARRIES_OVER: Final = ("sets", "histogram", "quantiles", "cnn")
RUN_NAME: Final = re.compile(r"(?P<size>[a-z]+)-(?P<recipe>[a-z]+)-s\d+")
_data: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """Trajectories with mean losses, and the word losses of two texts from the same sources.

    `sets` has the words of each source in either text, in the order of the columns.
    """

    trajectories: list[Trajectory]
    first: TokenLossTable
    second: TokenLossTable
    sets: dict[str, tuple[tuple[str, int], ...]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: encoding, held-out runs and seed."""

    kind: str
    fold: str
    held: tuple[str, ...]
    seed: int
    steps: int


def read_ladder(folder: Path, metric: str) -> Ladder:
    """Load the ladder of a demo, with the words of each source split into two texts."""
    store = Store(folder / "store")
    words = TokenLossTable.from_table(store.token_losses())
    assert words is not None, f"{folder}: its store has no word losses"
    text = pq.read_table(folder / "suite" / "text" / "validation.parquet")
    source = word_sources(text.to_pylist(), words.matrix.shape[1])
    columns: dict[str, npt.NDArray[np.int64]] = {}
    sets = {}
    for name, half in (("first", 0), ("second", 1)):
        # Words of one source are adjacent and in order.
        parts = [np.array_split(np.flatnonzero(source == s), 2)[half] for s in np.unique(source)]
        columns[name] = np.concatenate(parts)
        counts = map(len, parts)
        sets[name] = tuple(zip(np.unique(source).tolist(), counts, strict=True))
    length = min(len(chosen) for chosen in columns.values())
    trajectories = build_trajectories(store.accuracies(), store.losses(), store.tasks())
    return Ladder(
        trajectories=[t for t in trajectories if t.metric == metric],
        # The CNN has a fixed length, so only for it the longer text loses its last words.
        first=replace(words, matrix=np.ascontiguousarray(words.matrix[:, columns["first"]])),
        second=replace(words, matrix=np.ascontiguousarray(words.matrix[:, columns["second"]])),
        sets={**sets, "cnn": (("words", length),)},
    )


def word_sources(documents: Sequence[dict[str, str]], n_words: int) -> npt.NDArray[np.str_]:
    """Return the source of each of the first `n_words` words of a text."""
    sources: list[str] = []
    for document in documents:
        count = min(len(word_spans(document["text"])), n_words - len(sources))
        sources += [document["source"]] * count
    return np.array(sources)


def folds(trajectories: Sequence[Trajectory]) -> dict[str, tuple[str, ...]]:
    """Return the runs that are held out together: every recipe, and the largest size."""
    runs = {t.run: t.params for t in trajectories}
    parts = {run: match for run in runs if (match := RUN_NAME.fullmatch(run))}
    recipes = sorted({match["recipe"] for match in parts.values()})
    largest = parts[max(runs, key=lambda run: runs[run])]["size"]
    found = {
        f"text {recipe}": tuple(sorted(r for r, m in parts.items() if m["recipe"] == recipe))
        for recipe in recipes
    }
    return found | {
        f"size {largest}": tuple(sorted(r for r, m in parts.items() if m["size"] == largest))
    }


def encoder(kind: str, ladder: Ladder, text: str) -> EncoderConfig:
    """Return the encoder config for one of the two texts."""
    if kind == "sets":
        return EncoderConfig(kind="sets", sets=tuple(count for _, count in ladder.sets[text]))
    return EncoderConfig(kind=kind)  # type: ignore[arg-type]


def words_of(ladder: Ladder, kind: str, text: str) -> TokenLossTable | None:
    """Return the word losses that an encoding reads."""
    if kind in ("none", "mean"):
        return None
    table = ladder.first if text == "first" else ladder.second
    if kind != "cnn":
        return table
    return replace(table, matrix=table.matrix[:, : ladder.sets["cnn"][0][1]])


def run(job: Job) -> dict[str, Any]:
    """Train, forecast the held-out runs, and return the MAE of every trajectory by text."""
    ladder: Ladder = _data["ladder"]
    config = TrainConfig(
        output="unused",
        model=ModelConfig(encoder=encoder(job.kind, ladder, "first")),
        optim=OptimConfig(learning_rate=1e-3, epochs=1000, max_steps=job.steps, batch_size=128),
        max_ahead=None,
        held_out_runs=job.held,
        seed=job.seed,
    )
    words = words_of(ladder, job.kind, "first")
    forecaster = train_window(config, ladder.trajectories, words)
    encoding = forecaster.network.encoder
    test = [t for t in ladder.trajectories if t.run in set(job.held)]
    result: dict[str, Any] = {"kind": job.kind, "fold": job.fold, "seed": job.seed}
    for text in ("first", "second") if job.kind in CARRIES_OVER else ("first",):
        if isinstance(encoding, SetMeans):
            encoding.lengths = encoder("sets", ladder, text).sets
        queries, truths = make_queries(test, Anchored(), words_of(ladder, job.kind, text))
        answers = forecaster.predict(queries)
        middle = forecaster.levels.index(0.5)
        result[text] = [
            float(np.abs(a[:, middle] - t.values).mean())
            for a, t in zip(answers, truths, strict=True)
        ]
        result["runs"] = [q.context.run for q in queries]
    persistence = [
        float(np.abs(q.context.values[-1] - t.values).mean())
        for q, t in zip(queries, truths, strict=True)
    ]
    return result | {"persistence": persistence}


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return MAE and its difference from `none` for every encoding, by held-out text and size."""
    bootstrap = RunBootstrap()
    table: dict[str, Any] = {}
    for family in ("text", "size"):
        mine = [r for r in results if r["fold"].startswith(family)]
        if not mine:
            continue
        table[family] = {}
        cells = {
            (kind, text): _stack([r for r in mine if r["kind"] == kind], text)
            for kind in KINDS
            for text in ("first", "second")
            if text == "first" or kind in CARRIES_OVER
        }
        none, group = cells["none", "first"]
        cells["persistence", "first"] = _stack([r for r in mine if r["kind"] == "none"],
                                               "persistence")  # fmt: skip
        for (kind, text), (mae, _) in cells.items():
            stacked = np.stack([mae, mae - none], axis=1)
            value, difference = bootstrap.means(stacked, group)
            table[family][f"{kind}, {text} text"] = {
                "mae": vars(value), "minus_none": vars(difference), "n": len(mae),
            }  # fmt: skip
    return table


def noise_floor(trajectories: Sequence[Trajectory]) -> float:
    """Return the error of a forecast that knew the true accuracies, from their standard errors.

    The mean absolute value of a normal variable is sqrt(2 / pi) times its standard deviation.
    """
    stderr = np.concatenate([t.without_step_zero().stderrs for t in trajectories])
    return float(np.sqrt(2.0 / np.pi) * np.nanmean(stderr))


def _stack(
    results: Sequence[dict[str, Any]], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return (MAE of every trajectory averaged over seeds, index of its run)."""
    by_fold: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_fold.setdefault(result["fold"], []).append(result)
    values = [np.mean([r[key] for r in by_fold[fold]], axis=0) for fold in sorted(by_fold)]
    runs = [run for fold in sorted(by_fold) for run in by_fold[fold][0]["runs"]]
    return np.concatenate(values), np.unique(runs, return_inverse=True)[1]


def _start(ladder: Ladder) -> None:
    torch.set_num_threads(1)
    _data["ladder"] = ladder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", type=Path, help="output of the demo of the reference ladder")
    parser.add_argument("--metric", default="acc")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path, default=Path("docs/results/token_losses.json"))
    arguments = parser.parse_args()
    ladder = read_ladder(arguments.ladder, arguments.metric)
    jobs = [
        Job(kind=kind, fold=name, held=held, seed=seed, steps=arguments.steps)
        for seed, (name, held), kind in product(
            range(arguments.seeds), folds(ladder.trajectories).items(), arguments.kinds.split(",")
        )
    ]
    results = []
    context = multiprocessing.get_context("spawn")
    with (
        stage("compare readings", len(jobs)) as bar,
        ProcessPoolExecutor(os.cpu_count(), context, _start, (ladder,)) as pool,
    ):
        for result in pool.map(run, jobs):
            results.append(result)
            bar.advance(message=f"{result['kind']}, {result['fold']}")
    record = {
        "runs": len({t.run for t in ladder.trajectories}),
        "trajectories": len(ladder.trajectories),
        "tasks": len({t.task for t in ladder.trajectories}),
        "checkpoints": len(ladder.first.rows),
        "words": [ladder.first.matrix.shape[1], ladder.second.matrix.shape[1]],
        "noise_floor": noise_floor(ladder.trajectories),
        "seeds": arguments.seeds, "steps": arguments.steps, "metric": arguments.metric,
        "python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count(),
        "results": summary(results),
    }  # fmt: skip
    write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
