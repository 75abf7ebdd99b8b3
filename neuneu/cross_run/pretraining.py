"""The shipped forecaster: networks trained on every run of some tables, calibrated out of fold.

Each of a few folds of runs is forecast by a network that learnt from the others, as a new run
would be; from what came of those forecasts the bands are calibrated. The networks that are kept
learn from all runs.
"""

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from neuneu.backtest import make_queries
from neuneu.backtest_inputs import deal_folds, read_observations
from neuneu.calibration import Calibration
from neuneu.config import config_dataclass, config_hash, config_to_dict
from neuneu.cross_run.calibrating import OutOfFold, has_references
from neuneu.cross_run.card import write_card
from neuneu.cross_run.export import save_networks
from neuneu.cross_run.fitting import FitConfig, fit
from neuneu.cross_run.forecaster import CrossRunForecaster
from neuneu.cross_run.network import CrossRunNetwork
from neuneu.progress import stage
from neuneu.splits import Anchored
from neuneu.training_data import fingerprints
from neuneu.trajectories import Trajectory

CALIBRATION_CONTEXTS = (0.1, 0.2, 0.4)
"""Shares of the checkpoints after which held-out runs are forecast for calibration."""


@config_dataclass
class PretrainConfig:
    """Tables to learn from, and the folder of the result.

    `networks` are trained on everything, with seeds from that of `fit` on; their mean answers.
    `folds` of runs are held out in turn for calibration.
    """

    accuracies: Path
    output: Path
    losses: Path | None = None
    tasks: Path | None = None
    fit: FitConfig = field(default_factory=FitConfig)
    networks: Annotated[int, Field(ge=1)] = 3
    folds: Annotated[int, Field(ge=2)] = 4


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains, calibrates and writes a forecaster.

    Returns:
        `output`, and the counts of runs and trajectories it learnt from.

    Raises:
        UserError: tables that cannot be read, or too few runs.
    """
    observed = read_observations(config.accuracies, config.losses, config.tasks)
    trajectories = observed.trajectories
    calibration = calibrate_out_of_fold(trajectories, config)
    networks = [
        _train(trajectories, replace(config.fit, seed=config.fit.seed + index), f"network {index}")
        for index in range(config.networks)
    ]
    runs = fingerprints(trajectories)
    save_networks(
        config.output,
        networks,
        calibration=calibration.to_json(),
        provenance={
            "identity": config_hash(config.fit),
            "data_digest": observed.digest,
            "training_runs": runs,
            "training": config_to_dict(config.fit),
        },
    )
    write_card(config.output)
    return {"output": config.output, "runs": len(runs), "trajectories": len(trajectories)}


def calibrate_out_of_fold(
    trajectories: Sequence[Trajectory], config: PretrainConfig
) -> Calibration:
    """Calibration from forecasts of every run by a network that did not learn from it."""
    collected = None
    folds = deal_folds(list(trajectories), config.folds, config.fit.seed)
    for number, fold in enumerate(folds):
        held = set(fold)
        others = [t for t in trajectories if t.run_group not in held]
        network = _train(others, config.fit, f"fold {number + 1} of {config.folds}")
        collected = collected or OutOfFold(network.config.levels)
        targets = [t for t in trajectories if t.run_group in held]
        for share in CALIBRATION_CONTEXTS:
            queries, truths = make_queries(targets, Anchored(fraction=share), None)
            compared = has_references(queries, others)
            for sees in ("own", "reference"):
                forecaster = CrossRunForecaster([network], sees=sees)
                forecaster.fit(others)
                shown = compared if sees == "reference" else [False] * len(queries)
                collected.add(forecaster, queries, truths, shown)
    assert collected is not None, "there are at least two folds"
    return collected.calibrate()


def _train(trajectories: Sequence[Trajectory], config: FitConfig, what: str) -> CrossRunNetwork:
    with stage(f"train {what}", config.steps) as bar:
        return fit(trajectories, config, tick=lambda *_: bar.advance())
