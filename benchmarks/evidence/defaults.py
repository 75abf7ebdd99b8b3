"""Print the models of `neuneu/forecasters/items/defaults.py`, fitted to the ladder of the study.

.venv/bin/python benchmarks/evidence/defaults.py runs/evidence
"""

import argparse
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

import numpy as np

from evidence.data import read_ladder
from neuneu.forecasters.items.cases import context_length, courses_by_items, make_cases
from neuneu.forecasters.items.features import OWN, RELATIVES
from neuneu.forecasters.items.model import (
    Case,
    ItemModel,
    Outcome,
    accuracy_moments,
    fit_model,
    with_uncertainty,
)
from neuneu.forecasters.items.projection import project, projected_accuracy, shifted

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def alone(known: dict) -> ItemModel:
    """Return the uncertainty of projections from several shares of every run."""
    outcomes = []
    for courses in known.values():
        for run, course in courses.items():
            for share in SHARES:
                end = context_length(course.ln_tokens, share)
                context = course.until(end)
                distances = course.ln_tokens[end:] - context.ln_tokens[-1]
                means = projected_accuracy(context, distances)
                chances = shifted(project(context, distances), means)
                mean, variance = accuracy_moments(chances)
                case = Case(
                    run=run, features=np.zeros((0, 0, 0), np.float32), right=course.right[end:],
                    distances=distances,
                )  # fmt: skip
                outcomes.append(Outcome(mean=mean, variance=variance, case=case))
    return with_uncertainty(ItemModel(coefficients=np.zeros(0)), outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder that ladder.py wrote")
    trajectories, _ = read_ladder(parser.parse_args().work)
    known = courses_by_items(trajectories)
    model = alone(known)
    print("ALONE", [round(v, 5) for v in model.spread], [round(s, 2) for s in model.scores])
    cases = [case for share in SHARES for case in make_cases(known, share)]
    model = fit_model(cases)
    print("RELATED", [round(v, 5) for v in model.spread], [round(s, 2) for s in model.scores])
    for name, value in zip((*OWN, *RELATIVES), model.coefficients, strict=True):
        print(f'    "{name}": {value:.2f},')


if __name__ == "__main__":
    main()
