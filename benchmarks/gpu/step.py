"""Run one step of the GPU check in this process; benchmarks/gpu/check.py starts it."""

import argparse
import importlib
from pathlib import Path
from typing import Final

from gpu.report import Context, Report, Turns

FUNCTIONS: Final = {
    "card": "gpu.card:measure_card",
    "models": "gpu.models:write_models",
    "transformers": "gpu.scoring:score_with_transformers",
    "vllm": "gpu.scoring:score_with_vllm",
    "pipeline": "gpu.pipeline:run_pipeline",
    "training": "gpu.train:measure_training",
    "pytest": "gpu.suite:run_tests",
}
"""Steps by name up to the first hyphen; imports happen in the process of the step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--turns", type=Path, required=True)
    parser.add_argument("--group", required=True, help="steps started together, comma-separated")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    report = Report(given.result)
    context = Context(
        name=given.name, work=given.work, dry_run=given.dry_run, report=report,
        turns=Turns(given.turns, given.name, given.group.split(",")),
    )  # fmt: skip
    with report.case(given.name):
        module, function = FUNCTIONS[given.name.split("-")[0]].split(":")
        getattr(importlib.import_module(module), function)(context)


if __name__ == "__main__":
    main()
