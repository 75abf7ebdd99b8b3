"""Forecasts of the public trajectories by every forecaster, on splits by run; tables and figures.

    .venv/bin/python benchmarks/forecasting.py ../shared/trajectories --splits dev
    .venv/bin/python benchmarks/forecasting.py ../shared/trajectories --splits standard,...

Networks are trained for each split on what it may learn from, and kept in `--work`, so that an
interrupted run goes on. Everything was chosen on `dev`; the other splits are read for the report.
The page docs/results/forecasting.md is written from the JSON by `--page`.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from neuneu.aggregation import RunBootstrap
from neuneu.backtest import run_backtest, summarise
from neuneu.backtest_inputs import read_observations
from neuneu.baselines import BASELINES, make_forecaster
from neuneu.baselines.boosted import BoostedQuantiles
from neuneu.config import config_hash, config_to_dict
from neuneu.cross_run.export import load_networks, save_networks
from neuneu.cross_run.fitting import FitConfig, fit
from neuneu.cross_run.forecaster import CrossRunForecaster
from neuneu.evaluation_summary import RunBooks
from neuneu.evaluation_table import read_evaluation
from neuneu.files import write_text_atomic
from neuneu.forecaster import Forecaster
from neuneu.progress import Bar, stage
from neuneu.run_splits import SPLITS, Parts
from neuneu.splits import PROTOCOLS, SplitRule
from neuneu.trajectories import Trajectory

PROTOCOL_NAMES: Final = ("anchored-0.2", "anchored-0.05", "anchored-0.1", "anchored-0.4",
                         "by-compute-0.2")  # fmt: skip
EARLY: Final = 0.01
OURS: Final = ("neuneu", "neuneu-own")


def networks(split: str, learn: Sequence[Trajectory], seeds: int, work: Path, steps: int) -> Any:
    """Networks of this split, trained unless the work folder has them."""
    trained = []
    for seed in range(seeds):
        config = FitConfig(seed=seed, steps=steps)
        folder = work / f"{split}-{config_hash(config)}"
        if not (folder / "config.json").exists():
            with stage(f"train {split}, seed {seed}", steps) as bar:
                network = fit(learn, config, tick=partial(_advance, bar))
            save_networks(folder, [network], training=config_to_dict(config))
        trained += load_networks(folder).networks
    return trained


def _advance(bar: Bar, *_: object) -> None:
    bar.advance()


def forecasters(split: str, parts: Parts, arguments: argparse.Namespace) -> list[Forecaster]:
    """Every forecaster of the report."""
    found: list[Forecaster] = [make_forecaster(name) for name in BASELINES]
    if not arguments.fast:
        for sees in ("own", "reference"):
            boosted = BoostedQuantiles(sees=sees)
            boosted.train(parts.learn)
            found.append(boosted)
    trained = networks(split, parts.learn, arguments.seeds, arguments.work, arguments.steps)
    found.append(CrossRunForecaster(trained, name="neuneu"))
    found.append(CrossRunForecaster(trained, sees="own", name="neuneu-own"))
    return found


def strata(table: pa.Table, test: Sequence[Trajectory]) -> dict[str, Any]:
    """MAE of every forecaster by kind of trajectory, with run-bootstrapped intervals."""
    evaluation = read_evaluation(table)
    known = {t.key: t for t in test}
    rows: list[dict[str, Any]] = evaluation.trajectories
    found = [known[r["suite"], r["run"], r["num_fewshot"], r["task"], r["metric"]] for r in rows]
    end = np.array([t.tokens[-1] for t in found])
    early = evaluation.context_tokens < EARLY * end
    signal = np.array([t.chance is None or _above(t) for t in found])
    labels = {
        "suite": [str(r["suite"]) for r in rows],
        "shots": [f"{r['num_fewshot']} shots" for r in rows],
        "metric": [str(r["metric"]) for r in rows],
        "tasks": ["MMLU" if t.base_task.startswith("mmlu") else "other" for t in found],
        "signal": ["signal" if s else "near chance" for s in signal],
        "context": ["within the first 1 % of tokens" if e else "later" for e in early],
    }
    group = evaluation.codes("family", "run")[1]
    owner = evaluation.item_trajectory
    result: dict[str, Any] = {}
    for name, quantiles in evaluation.quantiles.items():
        median = quantiles[:, evaluation.levels[name].index(0.5)]
        error = np.abs(median - evaluation.y)
        counts = np.bincount(owner)
        mae = np.bincount(owner, weights=error) / counts
        result[name] = {}
        for kind, values in labels.items():
            for label in sorted(set(values)):
                chosen = np.array(values) == label
                estimate = RunBootstrap().means(mae[chosen, None], group[chosen])[0]
                result[name][f"{kind}: {label}"] = {
                    "n": int(chosen.sum()),
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                }
    return result


def _above(trajectory: Trajectory) -> bool:
    """Whether its last values lie above chance by more than three points."""
    return bool(trajectory.values[-3:].mean() > (trajectory.chance or 0.0) + 0.03)


def protocol(name: str) -> SplitRule:
    kind, _, share = name.rpartition("-")
    return PROTOCOLS[kind](fraction=float(share))


def evaluate(split: str, trajectories: Sequence[Trajectory], arguments: Any) -> dict[str, Any]:
    """One split: scores of every forecaster under every protocol."""
    parts = SPLITS[split].apply(trajectories)
    found = forecasters(split, parts, arguments)
    tasks = {t.task: (t.base_task, t.group) for t in trajectories}
    results = {}
    for name in arguments.protocols.split(","):
        with stage(f"forecast {split}, {name}", 1) as bar:
            started = time.perf_counter()
            table = run_backtest(found, parts.test, parts.references, protocol(name))
            seconds = time.perf_counter() - started
            bar.advance()
        summary = summarise(table, books=RunBooks(tasks=tasks))
        for entry in summary["forecasters"].values():
            for slices in ("by_task", "by_run"):
                entry.pop(slices)
        results[name] = {
            "seconds": seconds,
            "summary": summary,
            "strata": strata(table, parts.test),
        }
        show(split, name, summary)
    return {
        "learn": len(parts.learn), "references": len(parts.references), "test": len(parts.test),
        "test_runs": sorted({"/".join(t.run_group) for t in parts.test}), "protocols": results,
    }  # fmt: skip


def show(split: str, protocol_name: str, summary: dict[str, Any]) -> None:
    """One table of a split and a protocol."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{split}, {protocol_name}")
    for column in ("forecaster", "sees", "MAE", "suite mean", "WIS", "80 % holds", "ranked"):
        table.add_column(column, justify="right")
    for name, entry in summary["forecasters"].items():
        overall = entry["overall"]
        cells = [_points(overall[key]) for key in ("mae", "mae_suite_mean", "wis", "coverage_80")]
        table.add_row(name, entry["sees"], *cells, _points(overall["ranking_accuracy"]))
    Console(width=120).print(table)


def _points(entry: dict[str, float] | None) -> str:
    return "-" if entry is None else f"{100 * entry['value']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="accuracies.parquet, losses.parquet, tasks.csv")
    parser.add_argument("--splits", default="dev")
    parser.add_argument("--protocols", default=",".join(PROTOCOL_NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=FitConfig().steps)
    parser.add_argument("--fast", action="store_true", help="leave the boosted trees out")
    parser.add_argument("--work", type=Path, default=Path("runs/forecasting"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/forecasting.json"))
    arguments = parser.parse_args()
    data = arguments.data
    observed = read_observations(
        data / "accuracies.parquet", data / "losses.parquet", data / "tasks.csv"
    )
    record: dict[str, Any] = {
        "data_digest": observed.digest, "cpus": os.cpu_count(), "splits": {},
        "python": platform.python_version(), "torch": torch.__version__,
        "config": config_to_dict(FitConfig(steps=arguments.steps)), "seeds": arguments.seeds,
    }  # fmt: skip
    if arguments.output.exists():
        before = json.loads(arguments.output.read_text(encoding="utf-8"))
        if before["data_digest"] == record["data_digest"]:
            record["splits"] = before["splits"]
    for split in arguments.splits.split(","):
        record["splits"][split] = evaluate(split, observed.trajectories, arguments)
        write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
