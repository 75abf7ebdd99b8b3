"""What benchmarks/forecasting.py compares: forecasters trained for a split, kept in a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock

from neuneu.backtest import make_queries
from neuneu.baselines import BASELINES, make_forecaster
from neuneu.baselines.banded import Banded, Residuals, measure_residuals
from neuneu.baselines.boosted import BoostedQuantiles
from neuneu.baselines.lc_pfn import train_lc_pfn
from neuneu.config import config_hash, config_to_dict
from neuneu.cross_run.export import save_networks
from neuneu.cross_run.fitting import FitConfig
from neuneu.cross_run.forecaster import CrossRunForecaster
from neuneu.cross_run.parallel import Training, fit_all
from neuneu.cross_run.pretraining import train_calibrated
from neuneu.forecaster import Forecaster
from neuneu.forecasting import NeuralForecaster
from neuneu.model.config import preset
from neuneu.model.export import CONFIG, Provenance, save_model
from neuneu.model.network import Network
from neuneu.progress import stage
from neuneu.run_splits import Parts
from neuneu.splits import Anchored
from neuneu.training import OptimConfig, TrainConfig
from neuneu.training_data import prepare
from neuneu.training_loop import FitState, fit, make_optimizer
from neuneu.trajectories import Trajectory

PAPER_SIZE: Final = {"width": 64, "layers": 2, "heads": 4, "feed_forward": 256}
"""The published design at a size that two cores train in minutes (published: 512 wide, 6 deep)."""

PAPER_STEPS: Final = 2000
LOSSES: Final = ("c4_en-validation", "lambada_openai")


def ours(
    split: str, learn: Sequence[Trajectory], config: FitConfig, *, networks: int, folds: int,
    work: Path,
) -> list[Forecaster]:  # fmt: skip
    """Our forecaster with and without references, and with its bands as they come.

    Without folds there is no calibration, and only the first two.
    """
    folder = work / f"{split}-{config_hash(config)}-{networks}-{folds}"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # another process may be training the same
        if not (folder / CONFIG).exists():
            title = f"train {split}"
            record: dict[str, Any] = {"training": config_to_dict(config)}
            if folds:
                both = train_calibrated(learn, config, networks=networks, folds=folds, title=title)
                trained = both.networks
                record["calibration"] = both.calibration.to_json()
            else:
                everything = tuple(range(len(learn)))
                trained = fit_all(
                    learn,
                    [
                        Training(learn=everything, config=replace(config, seed=config.seed + index))
                        for index in range(networks)
                    ],
                    title=title,
                )
            save_networks(folder, trained, **record)
    found: list[Forecaster] = [
        CrossRunForecaster.load(folder, name="neuneu"),
        CrossRunForecaster.load(folder, sees="own", name="neuneu-own"),
    ]
    if not folds:
        return found
    raw = CrossRunForecaster.load(folder, name="neuneu-uncalibrated")
    raw.calibration = None
    return [*found, raw]


def baselines() -> list[Forecaster]:
    """Every baseline that needs no training on other runs."""
    return [make_forecaster(name) for name in BASELINES]


def boosted(learn: Sequence[Trajectory]) -> list[Forecaster]:
    """Gradient-boosted trees on the features that our network reads."""
    found: list[Forecaster] = []
    for sees in ("own", "reference"):
        trees = BoostedQuantiles(sees="own" if sees == "own" else "reference")
        with stage(f"train {trees.name}", 1) as bar:
            trees.train(learn)
            bar.advance()
        found.append(trees)
    return found


def lc_pfn(work: Path, steps: int = 2000) -> Forecaster:
    """The network that has seen synthetic curves only; the same for every split."""
    folder = work / f"lc-pfn-{steps}"
    if not (folder / CONFIG).exists():
        with stage("train lc-pfn", steps) as bar:
            trained = train_lc_pfn(steps=steps, tick=bar.advance)
        network = trained.network
        save_model(folder, network.config, network.state_dict(), trained.provenance)
    return NeuralForecaster.load(folder, name="lc-pfn")


def paper(split: str, learn: Sequence[Trajectory], work: Path) -> list[Forecaster]:
    """The published design, smaller, without a loss and with the mean validation loss."""
    found: list[Forecaster] = []
    for kind in ("none", "mean"):
        config = TrainConfig(
            output=work,
            model=preset("paper", **PAPER_SIZE, encoder={"kind": kind, "units": None}),
            loss_names=LOSSES if kind == "mean" else (),
            optim=OptimConfig(epochs=1000, max_steps=PAPER_STEPS, batch_size=128),
        )
        folder = work / f"{split}-paper-{kind}-{PAPER_STEPS}"
        if not (folder / CONFIG).exists():
            _train_paper(config, learn, folder, kind)
        found.append(NeuralForecaster.load(folder, name=f"paper-{kind}-loss"))
    return found


def _train_paper(config: TrainConfig, learn: Sequence[Trajectory], folder: Path, kind: str) -> None:
    named = learn
    if kind == "mean":
        named = [t for t in learn if any(name in t.losses for name in LOSSES)]
    data = prepare(config, named, None)
    torch.manual_seed(config.seed)
    network = Network(data.model)
    with stage(f"train {folder.name}", PAPER_STEPS) as bar:
        fit(
            network,
            make_optimizer(config, network),
            data,
            config,
            FitState(),
            save=lambda _: None,
            tick=lambda *_: bar.advance(),
        )
    provenance = Provenance(
        identity=folder.name, training_runs={}, validation_runs=[], held_out_runs=[],
        metrics=data.metrics, corpus_hash=None, loss_names=list(config.loss_names),
        selection="last", evaluation={}, training=config_to_dict(config),
    )  # fmt: skip
    save_model(folder, data.model, network.state_dict(), provenance)


def banded(
    found: Sequence[Forecaster], parts: Parts, known: Mapping[str, Any] | None
) -> tuple[list[Forecaster], dict[str, Any]]:
    """Point forecasters with bands of their residuals on dev; others as they are.

    Args:
        found: forecasters.
        parts: of dev, where `known` is None and the residuals are measured.
        known: the residuals measured on dev.

    Returns:
        (forecasters, residuals by name as JSON)
    """
    queries, truths = make_queries(parts.test, Anchored(), None)
    wrapped, residuals = [], {}
    for forecaster in found:
        if len(forecaster.levels) > 1:
            wrapped.append(forecaster)
            continue
        if known is None:
            if forecaster.sees != "own":
                forecaster.fit(parts.references)
            asked = queries
            if forecaster.sees == "oracle-loss":
                from neuneu.backtest import with_future_losses

                asked = with_future_losses(queries, truths)
            measured = measure_residuals(forecaster, asked, truths)
        else:
            measured = Residuals(offsets=tuple(map(tuple, known[forecaster.name])))
        residuals[forecaster.name] = [list(row) for row in measured.offsets]
        wrapped.append(Banded(forecaster, measured))
    return wrapped, residuals
