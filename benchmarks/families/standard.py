"""The `standard` split: Pythia 12b and OLMo 3B, forecast by what was trained on all other runs.

    .venv/bin/python benchmarks/families/standard.py ../shared

These families are known to the networks, unlike a user's; the split is read once, for the report.
Adds its figures to the record of `benchmarks/families/run.py`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from run_splits import SPLITS

from families.data import FAMILIES, load_families
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.storage import Folder
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.aggregation import RunBootstrap
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.protocol import Forecaster
from neuneu.forecasters.queries import make_queries
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.parallel import fit_all

SPLIT: Final = "standard"
RULES: Final = ("persistence", "recent-mean", "power-law", "nearest-analogue", "ladder-law")


def errors(
    forecaster: Forecaster, targets: Sequence[Trajectory], references: Sequence[Trajectory]
) -> dict[str, Any]:
    """Return the MAE over later checkpoints from 20 %, with its interval over runs."""
    forecaster.fit(references)
    queries, truths = make_queries(targets, Anchored(), None)
    middle = list(forecaster.levels).index(0.5)
    found = np.array(
        [
            np.abs(answer[:, middle] - truth.values).mean()
            for answer, truth in zip(forecaster.predict(queries), truths, strict=True)
        ]
    )
    groups = sorted({t.run_group for t in truths})
    runs = np.array([groups.index(t.run_group) for t in truths])
    kept = np.isfinite(found)
    (mae,) = RunBootstrap().means(found[kept, None], runs[kept])
    return {"value": mae.value, "low": mae.low, "high": mae.high, "n": int(kept.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with trajectories/ and families/")
    parser.add_argument("--steps", type=int, default=2500, help="of each of two networks")
    parser.add_argument("--work", type=Path, default=Path("runs/standard"))
    parser.add_argument("--record", type=Path, default=Path("docs/results/families.json"))
    arguments = parser.parse_args()
    families = load_families(arguments.shared, FAMILIES)
    known = [t for name in ("pythia", "olmo") for t in families[name]]
    parts = SPLITS[SPLIT].apply(known)
    further = [t for name, of in families.items() if name not in {"pythia", "olmo"} for t in of]
    config = FitConfig(optim=CrossRunOptim(max_steps=arguments.steps))
    learners = [
        CrossRunLearner(learn=[*parts.learn, *further], config=replace(config, seed=seed))
        for seed in (config.seed, config.seed + 1)
    ]
    networks = fit_all(learners, folder=Folder(arguments.work))
    entrants: dict[str, Forecaster] = {
        "neuneu": CrossRunForecaster(networks),
        "neuneu, own past": CrossRunForecaster(networks, sees="own"),
        **{name: make_forecaster(name) for name in RULES},
    }
    with stage("standard", len(entrants)) as bar:
        found = {}
        for name, forecaster in entrants.items():
            found[name] = errors(forecaster, parts.test, parts.references)
            bar.advance()
    record = json.loads(arguments.record.read_text(encoding="utf-8"))
    record["standard"] = {
        "trajectories": len(parts.test),
        "runs": len({t.run_group for t in parts.test}),
        "steps": arguments.steps,
        "mae": found,
    }
    write_text_atomic(arguments.record, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
