"""Training of the shipped forecaster: networks trained on all runs, calibrated out of fold.

Each fold is forecast by networks trained on the others; intervals are calibrated on these
forecasts. A fold is a family where there are several, since a user's family is new. The networks
that are kept are trained on all runs.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from pydantic import Field

from neuneu.core.config import Address, config_dataclass, config_hash, config_to_dict
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder, written_to
from neuneu.data.cells import quoted
from neuneu.data.fingerprints import data_digest, fingerprints
from neuneu.data.load import load_dataset
from neuneu.data.splits import deal_by_family, deal_by_size
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.copula import Joint
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.export import save_networks
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.window.export import CONFIG
from neuneu.training.cross_run.fitting import CrossRunLearner, FitConfig
from neuneu.training.cross_run.held_out import collect_families, collect_folds
from neuneu.training.cross_run.out_of_fold import OutOfFold
from neuneu.training.cross_run.parallel import fit_all

MIN_FAMILIES: Final = 3
"""From so many families on, each one is a fold."""
TRAININGS = "trainings"
"""Folder of states in the output, while the networks are trained."""


@config_dataclass
class Tables:
    """Tables of finished runs; local or `s3://`."""

    accuracies: Address
    losses: Address | None = None
    tasks: Address | None = None
    run_table: Address | None = None


@config_dataclass
class PretrainConfig:
    """Tables or a store to train on, and the folder of the result; local or `s3://`.

    `further`: more tables to train on. `networks`: networks trained on all runs, and on all but
    each fold, with consecutive seeds from that of `fit`; forecasts are their mean. `folds`: folds
    of runs, held out in turn for calibration; by default one per family where there are at least
    three, else four. `unseen`: also keep the forecasters of the folds of families there, each
    calibrated on the other families, to evaluate them on the family they have not seen.
    """

    accuracies: Address
    output: Address
    losses: Address | None = None
    tasks: Address | None = None
    run_table: Address | None = None
    further: tuple[Tables, ...] = ()
    fit: FitConfig = field(default_factory=FitConfig)
    networks: Annotated[int, Field(ge=1)] = 2
    folds: Annotated[int, Field(ge=2)] | None = None
    unseen: Address | None = None

    @property
    def tables(self) -> tuple[Tables, ...]:
        """All tables."""
        first = Tables(
            accuracies=self.accuracies, losses=self.losses, tasks=self.tasks,
            run_table=self.run_table,
        )  # fmt: skip
        return (first, *self.further)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """Networks trained on all runs, and those of each fold, trained without it.

    `folds`: run groups of each fold; `by_family` says whether each is a family. `collected`:
    forecasts of each fold, which `calibration` and `joint` rest on.
    """

    networks: list[CrossRunNetwork]
    folds: tuple[tuple[RunGroup, ...], ...]
    fold_networks: list[list[CrossRunNetwork]]
    by_family: bool
    collected: list[OutOfFold]

    def calibrated(self, without: int | None = None) -> tuple[Calibration, Joint]:
        """Calibration on the forecasts of all folds, or of all but one."""
        parts = [part for place, part in enumerate(self.collected) if place != without]
        together = OutOfFold.merged(parts)
        calibration = together.calibrate(by_family=self.by_family)
        return calibration, together.joint(calibration)

    def unseen(self) -> dict[str, tuple[Calibration, Joint]]:
        """Family -> what its forecasts are adjusted by: the calibration on the other families."""
        return {
            fold[0][0]: self.calibrated(place)
            for place, fold in enumerate(self.folds)
            if self.by_family
        }


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
    trajectories = read_tables(config.tables)
    trained = train_calibrated(
        trajectories, config.fit, networks=config.networks, folds=config.folds,
        folder=output / TRAININGS, address=address,
    )  # fmt: skip
    runs = fingerprints(trajectories)
    unseen = trained.unseen()
    measured = {
        family: collected.measure(adjusted[0])
        for (family, adjusted), collected in zip(unseen.items(), trained.collected, strict=False)
    }
    _write(
        output, config.fit, trained.networks, trained.calibrated(),
        trajectories=trajectories, unseen=measured,
    )  # fmt: skip
    if config.unseen is not None:
        for (family, adjusted), networks in zip(
            unseen.items(), trained.fold_networks, strict=False
        ):
            _write(
                Folder(config.unseen) / family, config.fit, networks, adjusted,
                trajectories=[t for t in trajectories if t.family != family],
            )  # fmt: skip
    _delete(output / TRAININGS)
    return {"output": str(output), "runs": len(runs), "trajectories": len(trajectories)}


def read_tables(tables: Sequence[Tables]) -> list[Trajectory]:
    """Read the trajectories of several tables, on the unit scale, where networks work.

    Raises:
        UserError: tables that cannot be read, or one trajectory in two of them.
    """
    found: dict[tuple[object, ...], Trajectory] = {}
    for one in tables:
        data = load_dataset(
            one.accuracies, losses=one.losses, tasks=one.tasks, run_table=one.run_table
        )
        for trajectory in data.trajectories:
            key = (trajectory.family, *trajectory.key)
            if key in found:
                raise UserError(
                    f"{one.accuracies}: run {quoted(trajectory.run)}, task "
                    f"{quoted(trajectory.task)} is in another table already; expected each "
                    "trajectory once. Drop one."
                )
            found[key] = trajectory.on_unit_scale()
    return list(found.values())


def _write(
    output: Folder,
    fit: FitConfig,
    networks: Sequence[CrossRunNetwork],
    adjusted: tuple[Calibration, Joint],
    *,
    trajectories: Sequence[Trajectory],
    **record: Mapping[str, Any],
) -> None:
    calibration, joint = adjusted
    with written_to(output, last=CONFIG) as folder:
        save_networks(
            folder,
            networks,
            calibration=config_to_dict(calibration),
            joint=config_to_dict(joint),
            provenance={
                "identity": config_hash(fit),
                "data_digest": data_digest(trajectories),
                "training_runs": fingerprints(trajectories),
                "training": config_to_dict(fit),
            },
            **record,
        )
        write_card(folder)


def train_calibrated(
    trajectories: Sequence[Trajectory],
    config: FitConfig,
    *,
    networks: int,
    folds: int | None = None,
    folder: Folder | None = None,
    address: str | None = None,
) -> Pretrained:
    """Train networks with consecutive seeds, and forecast each fold by networks without it.

    Args:
        trajectories: all runs to train on.
        config: settings of every training.
        networks: number of networks trained on all runs, and on all but each fold.
        folds: number of folds of runs, dealt by size; None: see `PretrainConfig`.
        folder: see `fit_all`.
        address: see `fit_all`.

    Raises:
        UserError: fewer runs than folds.
        NeuneuError: a training failed.
    """
    by_family = folds is None and len({t.family for t in trajectories}) >= MIN_FAMILIES
    dealt = (
        deal_by_family(trajectories)
        if by_family
        else deal_by_size(trajectories, folds or 4, config.seed)
    )
    seeded = [replace(config, seed=config.seed + i) for i in range(networks)]
    shares = [without(trajectories, fold) for fold in dealt]
    learners = [
        CrossRunLearner(learn=share, config=one)
        for share in (*shares, trajectories)
        for one in seeded
    ]
    trained = fit_all(learners, folder=folder, address=address)
    grouped = [trained[at : at + networks] for at in range(0, len(trained), networks)]
    collect = collect_families if by_family else collect_folds
    return Pretrained(
        networks=grouped[-1],
        folds=dealt,
        fold_networks=grouped[:-1],
        by_family=by_family,
        collected=collect(trajectories, dealt, grouped[:-1]),
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
