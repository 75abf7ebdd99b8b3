"""The best config of a search compared with the defaults, on runs that no trial saw.

    .venv/bin/neuneu tune --config jobs/configs/tune.yaml --set output=runs/search
    .venv/bin/neuneu tune-report runs/search --export runs/search/best.yaml
    .venv/bin/python benchmarks/tuning/run.py ../shared/trajectories runs/search

Both are trained on the training runs of the standard split (every Pythia 12b and OLMo 3B run held
out; the runs that trials were evaluated on are included), with the same seeds and as many steps as
the shipped forecaster. Single networks, not calibrated. Differences are per seed.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from run_splits import SPLITS

from neuneu.core.config import build_config, config_to_dict
from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.data.load import load_dataset
from neuneu.reports.tuning.analysis import analyse
from neuneu.reports.tuning.report import summary
from neuneu.training.cross_run.fitting import CrossRunLearner, FitConfig
from neuneu.training.cross_run.parallel import fit_all
from neuneu.training.cross_run.validation import validate
from neuneu.training.tuning.experiment import read_experiment

SPLIT: Final = "standard"
MEASURES: Final = ("mae", "pinball", "coverage_80", "own_mae", "own_pinball", "own_coverage_80")


def searched(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the report of the search, and the parameters of the best trial."""
    analysis = analyse(read_experiment(str(folder)))
    assert analysis.best is not None, "no trial finished"
    return summary(analysis), dict(analysis.best.trial.parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the public trajectories")
    parser.add_argument("search", type=Path, help="folder of the search, with best.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=Path("docs/results/tuning.json"))
    arguments = parser.parse_args()
    data: Path = arguments.data
    observed = load_dataset(
        data / "accuracies.parquet", losses=data / "losses.parquet", tasks=data / "tasks.csv"
    )
    parts = SPLITS[SPLIT].apply(observed.trajectories)
    raw = yaml.safe_load((arguments.search / "best.yaml").read_text(encoding="utf-8"))
    kinds = {"defaults": FitConfig(), "best": build_config(FitConfig, raw["cross_run"])}
    learners = [
        CrossRunLearner(
            learn=parts.learn,
            config=replace(
                config, seed=seed, optim=replace(config.optim, max_steps=arguments.steps)
            ),
        )
        for seed in range(arguments.seeds)
        for config in kinds.values()
    ]
    networks = fit_all(learners, title="defaults and best")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    with stage("judging", len(networks)) as bar:
        for place, network in enumerate(networks):
            name = list(kinds)[place % len(kinds)]
            results[name].append(validate(network, parts.test, parts.references))
            bar.advance()
    report, parameters = searched(arguments.search)
    differences = {
        measure: [
            b[measure] - d[measure]
            for b, d in zip(results["best"], results["defaults"], strict=True)
            if measure in b and measure in d
        ]
        for measure in MEASURES
    }
    record = {
        "split": SPLIT, "seeds": arguments.seeds, "steps": arguments.steps,
        "trajectories": len(parts.test), "runs": len({t.run_group for t in parts.test}),
        "cpus": os.cpu_count(), "torch": torch.__version__, "data_digest": observed.digest,
        "search": report, "parameters": parameters,
        "configs": {name: config_to_dict(config) for name, config in kinds.items()},
        "results": results,
        "means": {
            name: {m: float(np.mean([row[m] for row in rows])) for m in MEASURES if m in rows[0]}
            for name, rows in results.items()
        },
        "differences": differences,
    }  # fmt: skip
    write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["means"], indent=1))


if __name__ == "__main__":
    main()
