"""The forecasters that are compared: trained for each split and kept in a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from filelock import FileLock

from forecasting.boosted import BoostedQuantiles
from forecasting.lc_pfn import train_lc_pfn
from neuneu.core.config import config_hash, config_to_dict
from neuneu.core.progress import stage
from neuneu.data.splits import deal_by_size
from neuneu.data.trajectories import RunGroup, Trajectory
from neuneu.forecasters.baselines import BASELINES, make_forecaster
from neuneu.forecasters.calibration import Calibration
from neuneu.forecasters.cross_run.export import load_networks, save_networks
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.protocol import Forecaster, Sees
from neuneu.forecasters.window.config import preset
from neuneu.forecasters.window.export import CONFIG, Provenance, save_model
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.fitting import CrossRunLearner, FitConfig
from neuneu.training.cross_run.held_out import collect_folds
from neuneu.training.cross_run.out_of_fold import OutOfFold
from neuneu.training.cross_run.parallel import fit_all
from neuneu.training.cross_run.pretraining import without
from neuneu.training.data import prepare
from neuneu.training.loop import train_here
from neuneu.training.optimisation import OptimConfig
from neuneu.training.window_learner import WindowLearner

PAPER_SIZE: Final = {"width": 64, "layers": 2, "heads": 4, "feed_forward": 256}
"""The published design, small enough for minutes on two cores (published: 512 wide, 6 deep)."""

PAPER_STEPS: Final = 2000
Makers = dict[str, Callable[[], Forecaster]]
"""Forecasters by name, created (and trained) on demand."""

LOSSES: Final = ("c4_en-validation", "lambada_openai")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ours:
    """Our forecaster for one split: `networks` trained on all of `learn`.

    It is calibrated on folds (of sizes), if there are any.
    """

    split: str
    learn: Sequence[Trajectory]
    config: FitConfig
    networks: int
    folds: int
    work: Path

    def makers(self) -> Makers:
        """Our forecaster with and without references and, if calibrated, uncalibrated."""
        makers: Makers = {
            "neuneu": lambda: self._load("neuneu"),
            "neuneu-own": lambda: self._load("neuneu-own", "own"),
        }
        if self.folds:
            makers["neuneu-uncalibrated"] = lambda: self._load("neuneu-uncalibrated", raw=True)
        return makers

    @cached_property
    def _trained(self) -> tuple[list[CrossRunNetwork], list[CrossRunNetwork]]:
        """(networks on all runs, networks of the folds), from the work folder if it has them."""
        folder = self.work / f"{self.split}-{config_hash(self.config)}-{self.networks}-{self.folds}"
        of_folds = self.work / f"{folder.name}-folds"
        self.work.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # another process may be training the same networks
            if not (folder / CONFIG).exists():
                seeds = range(self.config.seed, self.config.seed + self.networks)
                learners = [
                    CrossRunLearner(learn=without(self.learn, fold), config=self.config)
                    for fold in self._dealt
                ] + [
                    CrossRunLearner(learn=self.learn, config=replace(self.config, seed=seed))
                    for seed in seeds
                ]
                found = fit_all(learners, title=f"train {self.split}")
                training = config_to_dict(self.config)
                if self.folds:
                    save_networks(of_folds, found[: self.folds], training=training)
                save_networks(folder, found[self.folds :], training=training)
        kept = load_networks(folder).networks
        return kept, load_networks(of_folds).networks if self.folds else []

    @cached_property
    def _dealt(self) -> tuple[tuple[RunGroup, ...], ...]:
        return deal_by_size(self.learn, self.folds, self.config.seed) if self.folds else ()

    @cached_property
    def _calibration(self) -> Calibration:
        with stage(f"calibrate {self.split}", 1) as bar:
            of_folds = [[network] for network in self._trained[1]]
            found = OutOfFold.merged(collect_folds(self.learn, self._dealt, of_folds))
            bar.advance()
        return found.calibrate()

    def _load(self, name: str, sees: Sees = "reference", *, raw: bool = False) -> Forecaster:
        calibration = self._calibration if self.folds and not raw else None
        return CrossRunForecaster(self._trained[0], name=name, sees=sees, calibration=calibration)


def baselines() -> Makers:
    """Return the baselines that are not trained on other runs."""
    return {name: partial(make_forecaster, name) for name in BASELINES}


def boosted(learn: Sequence[Trajectory]) -> Makers:
    """Return gradient-boosted trees on the features of our network."""

    def make(sees: Sees) -> Forecaster:
        trees = BoostedQuantiles(sees=sees)
        with stage(f"train {trees.name}", 1) as bar:
            trees.train(learn)
            bar.advance()
        return trees

    return {"boosted-own": lambda: make("own"), "boosted": lambda: make("reference")}


def lc_pfn(work: Path, steps: int = 2000) -> Forecaster:
    """Return the network trained on synthetic curves only; the same for every split."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / f"lc-pfn-{steps}"
    if not (folder / CONFIG).exists():
        with stage("train lc-pfn", steps) as bar:
            trained = train_lc_pfn(steps=steps, tick=bar.advance)
        network = trained.network
        save_model(folder, network.config, network.state_dict(), trained.provenance)
    return NeuralForecaster.load(folder, name="lc-pfn")


def paper(split: str, learn: Sequence[Trajectory], work: Path) -> Makers:
    """Return smaller versions of the published design, without and with mean validation loss."""

    def make(kind: str) -> Forecaster:
        config = TrainConfig(
            output=str(work),
            model=preset("paper", **PAPER_SIZE, encoder={"kind": kind, "units": None}),
            loss_names=LOSSES if kind == "mean" else (),
            optim=OptimConfig(epochs=1000, max_steps=PAPER_STEPS, batch_size=128),
        )
        folder = work / f"{split}-paper-{kind}-{PAPER_STEPS}"
        if not (folder / CONFIG).exists():
            _train_paper(config, learn, folder, kind)
        return NeuralForecaster.load(folder, name=f"paper-{kind}-loss")

    return {f"paper-{kind}-loss": partial(make, kind) for kind in ("none", "mean")}


def _train_paper(config: TrainConfig, learn: Sequence[Trajectory], folder: Path, kind: str) -> None:
    named = learn
    if kind == "mean":
        named = [t for t in learn if any(name in t.losses for name in LOSSES)]
    data = prepare(config, named, None)
    with stage(f"train {folder.name}", PAPER_STEPS) as bar:
        network = train_here(
            WindowLearner(data=data, config=config), config.loop, tick=lambda *_: bar.advance()
        )
    provenance = Provenance(
        identity=folder.name, training_runs={}, validation_runs=[], held_out_runs=[],
        metrics=data.metrics, corpus_hash=None, loss_names=list(config.loss_names),
        selection="last", evaluation={}, training=config_to_dict(config),
    )  # fmt: skip
    save_model(folder, data.model, network.state_dict(), provenance)
