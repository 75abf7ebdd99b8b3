"""Training of the shipped forecaster: networks trained on all runs, calibrated out of fold.

Each fold of runs is forecast by a network trained on the others, as a new run would be; intervals
are calibrated on these forecasts. The networks that are kept are trained on all runs.
"""

import shutil
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
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.export import save_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.window.export import CONFIG
from neuneu.training.cross_run.fitting import CrossRunLearner, FitConfig, general_config
from neuneu.training.cross_run.out_of_fold import OutOfFold
from neuneu.training.cross_run.parallel import fit_all

CALIBRATION_CONTEXTS = (0.1, 0.2, 0.4)
"""Fractions of the checkpoints from which held-out runs are forecast for calibration."""
TRAININGS = "trainings"
"""Folder of states in the output, while the networks are trained."""


@config_dataclass
class PretrainConfig:
    """Tables or a store to train on, and the folder of the result; local or `s3://`.

    `networks`: networks trained on all runs, with consecutive seeds from that of `fit`; forecasts
    are their mean. `folds`: folds of runs, held out in turn for calibration. `general`: networks
    for families outside the training set.
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
    """Networks trained on all runs, their calibration, and the folds behind it.

    `folds`: run groups of each fold; `fold_networks`: networks trained without that fold.
    """

    networks: list[CrossRunNetwork]
    general: list[CrossRunNetwork]
    calibration: Calibration
    joint: Joint
    folds: tuple[tuple[RunGroup, ...], ...]
    fold_networks: list[CrossRunNetwork]


def pretrain(config: PretrainConfig, *, address: str | None = None) -> dict[str, Any]:
    """Train, calibrate and write a forecaster; an interrupted training resumes.

    Args:
        config: settings.
        address: a Ray cluster; None: the current one, else a small one on this machine.

    Returns:
        `output`, and the numbers of runs and trajectories it was trained on.

    Raises:
        UserError: tables that cannot be read, or too few runs.
        NeuneuError: a training failed.
    """
    output = Folder(config.output)
    output.exists(CONFIG)  # report an unusable location before the work
    observed = load_dataset(config.accuracies, losses=config.losses, tasks=config.tasks)
    trajectories = observed.trajectories
    trained = train_calibrated(
        trajectories, config.fit, networks=config.networks, folds=config.folds,
        general=config.general, folder=output / TRAININGS, address=address,
    )  # fmt: skip
    runs = fingerprints(trajectories)
    with written_to(output, last=CONFIG) as folder:
        save_networks(
            folder,
            trained.networks,
            general=trained.general,
            calibration=config_to_dict(trained.calibration),
            joint=config_to_dict(trained.joint),
            provenance={
                "identity": config_hash(config.fit),
                "data_digest": observed.digest,
                "training_runs": runs,
                "training": config_to_dict(config.fit),
            },
        )
        write_card(folder)
    _delete(output / TRAININGS)
    return {"output": str(output), "runs": len(runs), "trajectories": len(trajectories)}


def train_calibrated(
    trajectories: Sequence[Trajectory],
    config: FitConfig,
    *,
    networks: int,
    folds: int,
    general: int = 0,
    folder: Folder | None = None,
    address: str | None = None,
) -> Pretrained:
    """Train networks with consecutive seeds, and calibrate them out of fold.

    Args:
        trajectories: all runs to train on.
        config: settings of every training.
        networks: number of networks trained on all runs.
        folds: number of folds of runs, dealt by size.
        general: number of networks for families outside the training set.
        folder: see `fit_all`.
        address: see `fit_all`.

    Raises:
        UserError: fewer runs than folds.
        NeuneuError: a training failed.
    """
    dealt = deal_by_size(trajectories, folds, config.seed)
    seeded = [replace(config, seed=config.seed + i) for i in range(max(networks, general))]
    learners = [
        *(CrossRunLearner(learn=without(trajectories, fold), config=config) for fold in dealt),
        *(CrossRunLearner(learn=trajectories, config=one) for one in seeded[:networks]),
        *(
            CrossRunLearner(learn=trajectories, config=general_config(one))
            for one in seeded[:general]
        ),
    ]
    trained = fit_all(learners, folder=folder, address=address)
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


def without(trajectories: Sequence[Trajectory], held: Sequence[RunGroup]) -> list[Trajectory]:
    """Return the trajectories whose runs are not held out."""
    groups = set(held)
    return [t for t in trajectories if t.run_group not in groups]


def _delete(folder: Folder) -> None:
    if folder.is_local:
        shutil.rmtree(folder.address, ignore_errors=True)
    else:
        for name in folder.files():
            folder.delete(name)


def calibrate_folds(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[CrossRunNetwork],
) -> tuple[Calibration, Joint]:
    """Calibrate on forecasts of every fold by the network trained without it."""
    collected = OutOfFold.merged(collect_folds(trajectories, folds, networks))
    calibration = collected.calibrate()
    return calibration, collected.joint(calibration)


def collect_folds(
    trajectories: Sequence[Trajectory],
    folds: Sequence[Sequence[RunGroup]],
    networks: Sequence[CrossRunNetwork],
) -> list[OutOfFold]:
    """Collect forecasts of every fold by the network trained without it, and the outcomes."""
    found = []
    for fold, network in zip(folds, networks, strict=True):
        collected = OutOfFold(network.config.levels)
        others = without(trajectories, fold)
        targets = [t for t in trajectories if t.run_group in set(fold)]
        for fraction in CALIBRATION_CONTEXTS:
            queries, truths = make_queries(targets, Anchored(fraction=fraction), None)
            for sees in ("own", "reference"):
                forecaster = CrossRunForecaster([network], sees=sees)
                forecaster.fit(others)
                shown = [bool(runs.used) for runs in forecaster.reference_runs(queries)]
                collected.add(forecaster, queries, truths, shown)
        found.append(collected)
    return found
