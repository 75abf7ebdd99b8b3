"""The shipped forecaster: networks trained on every run of some tables, calibrated out of fold.

Each of a few folds of runs is forecast by a network that learnt from the others, as a new run
would be; from what came of those forecasts the bands are calibrated. The networks that are kept
learn from all runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from neuneu.core.config import Address, config_dataclass, config_hash, config_to_dict
from neuneu.core.storage import Folder, written_to
from neuneu.data.fingerprints import fingerprints
from neuneu.data.load import load_dataset
from neuneu.data.splits import Anchored, deal_by_size
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.copula import Joint
from neuneu.forecasters.cross_run.calibrating import OutOfFold
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.export import save_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.window.export import CONFIG
from neuneu.training.cross_run.fitting import FitConfig, general_config
from neuneu.training.cross_run.parallel import Training, fit_all

CALIBRATION_CONTEXTS = (0.1, 0.2, 0.4)
"""Shares of the checkpoints after which held-out runs are forecast for calibration."""


@config_dataclass
class PretrainConfig:
    """Tables or a store to learn from, and the folder of the result; local or `s3://`.

    `networks` are trained on everything, with seeds from that of `fit` on; their mean answers.
    `folds` of runs are held out in turn for calibration. `general` networks answer for families
    that were not learnt from.
    """

    accuracies: Address
    output: Address
    losses: Address | None = None
    tasks: Address | None = None
    fit: FitConfig = field(default_factory=FitConfig)
    networks: Annotated[int, Field(ge=1)] = 3
    general: Annotated[int, Field(ge=0)] = 1
    folds: Annotated[int, Field(ge=2)] = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """Networks that learnt from all runs, their calibration, and what was forecast for it.

    `folds` are the run groups of each fold, `fold_networks` those that did not learn from them.
    """

    networks: list[CrossRunNetwork]
    general: list[CrossRunNetwork]
    calibration: Calibration
    joint: Joint
    folds: tuple[tuple[RunGroup, ...], ...]
    fold_networks: list[CrossRunNetwork]


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Trains, calibrates and writes a forecaster.

    Returns:
        `output`, and the counts of runs and trajectories it learnt from.

    Raises:
        UserError: tables that cannot be read, or too few runs.
    """
    output = Folder(config.output)
    output.exists(CONFIG)  # a place that cannot be used is told before the work
    observed = load_dataset(config.accuracies, losses=config.losses, tasks=config.tasks)
    trajectories = observed.trajectories
    trained = train_calibrated(
        trajectories, config.fit, networks=config.networks, folds=config.folds,
        general=config.general,
    )  # fmt: skip
    runs = fingerprints(trajectories)
    with written_to(output, last=CONFIG) as folder:
        save_networks(
            folder,
            trained.networks,
            general=trained.general,
            calibration=trained.calibration.to_json(),
            joint=trained.joint.to_json(),
            provenance={
                "identity": config_hash(config.fit),
                "data_digest": observed.digest,
                "training_runs": runs,
                "training": config_to_dict(config.fit),
            },
        )
        write_card(folder)
    return {"output": str(output), "runs": len(runs), "trajectories": len(trajectories)}


def train_calibrated(
    trajectories: Sequence[Trajectory],
    config: FitConfig,
    *,
    networks: int,
    folds: int,
    general: int = 0,
    title: str = "train",
) -> Pretrained:
    """Networks with seeds from that of `config` on, and a calibration out of fold.

    Args:
        trajectories: of all runs that may be learnt from.
        config: of every training.
        networks: how many learn from everything.
        folds: of runs, dealt by size; each is forecast by a network that learnt from the others.
        general: how many are trained for families that nothing is learnt from.
        title: what progress is called.

    Raises:
        UserError: fewer runs than folds.
    """
    dealt = deal_by_size(trajectories, folds, config.seed)
    everything = tuple(range(len(trajectories)))
    trainings = [Training(learn=without(trajectories, fold), config=config) for fold in dealt] + [
        Training(learn=everything, config=replace(config, seed=config.seed + index))
        for index in range(networks)
    ]
    trainings += [
        Training(learn=everything, config=general_config(replace(config, seed=config.seed + index)))
        for index in range(general)
    ]
    trained = fit_all(trajectories, trainings, title=title)
    fold_networks, kept = trained[: len(dealt)], trained[len(dealt) :]
    calibration, joint = calibrate_folds(trajectories, dealt, fold_networks)
    return Pretrained(
        networks=kept[:networks],
        general=kept[networks:],
        calibration=calibration,
        joint=joint,
        folds=dealt,
        fold_networks=fold_networks,
    )


def without(trajectories: Sequence[Trajectory], held: Sequence[RunGroup]) -> tuple[int, ...]:
    """Places of the trajectories whose runs are not held out."""
    groups = set(held)
    return tuple(p for p, t in enumerate(trajectories) if t.run_group not in groups)


def calibrate_folds(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[CrossRunNetwork],
) -> tuple[Calibration, Joint]:
    """From forecasts of every fold by the network that did not learn from it."""
    collected = OutOfFold.merged(collect_folds(trajectories, folds, networks))
    calibration = collected.calibrate()
    return calibration, collected.joint(calibration)


def collect_folds(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[CrossRunNetwork],
) -> list[OutOfFold]:
    """Forecasts of every fold by the network that did not learn from it, and what came."""
    found = []
    for fold, network in zip(folds, networks, strict=True):
        collected = OutOfFold(network.config.levels)
        held = set(fold)
        others = [t for t in trajectories if t.run_group not in held]
        targets = [t for t in trajectories if t.run_group in held]
        for share in CALIBRATION_CONTEXTS:
            queries, truths = make_queries(targets, Anchored(fraction=share), None)
            for sees in ("own", "reference"):
                forecaster = CrossRunForecaster([network], sees=sees)
                forecaster.fit(others)
                shown = [bool(runs.used) for runs in forecaster.reference_runs(queries)]
                collected.add(forecaster, queries, truths, shown)
        found.append(collected)
    return found
