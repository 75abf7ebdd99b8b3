"""What a training config names: data laid out, its learner, and how the result is written."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from neuneu.data.fingerprints import fingerprints
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.export import save_networks
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.window.export import Provenance, save_model
from neuneu.training.cross_run.fitting import CrossRunLearner
from neuneu.training.data import Source, TrainingData, prepare, read_source, split_by_run
from neuneu.training.learner import Learner
from neuneu.training.window_learner import WindowLearner

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A learner, the digest of all it learns from, and `save(folder, weights, provenance)`."""

    learner: Learner
    digest: str
    save: Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]


def load_subject(config: "TrainConfig", source: Source | None = None) -> Subject:
    """Prepares what is to be trained.

    Args:
        config: the training config.
        source: what its source holds; None reads it.

    Raises:
        UserError: no source or two of them, unknown runs, or nothing left to train on.
    """
    trajectories, words = source or read_source(config)
    if config.cross_run is None:
        data = prepare(config, trajectories, words)
        return Subject(
            learner=WindowLearner(data=data, config=config),
            digest=data.digest,
            save=lambda *arguments: _save_network(config, data, *arguments),
        )
    train, validation = split_by_run(config, trajectories)
    learner = CrossRunLearner(
        learn=train, config=replace(config.cross_run, seed=config.seed), validation=validation
    )
    learner.check()
    digest = _digest(train, validation)
    return Subject(
        learner=learner,
        digest=digest,
        save=lambda *arguments: _save_cross_run(learner, digest, *arguments),
    )


def _save_network(
    config: "TrainConfig",
    data: TrainingData,
    folder: Path,
    weights: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    more: dict[str, Any] = {
        "training_runs": data.runs,
        "metrics": data.metrics,
        "corpus_hash": data.corpus_hash,
        "loss_names": list(config.loss_names),
    }
    save_model(folder, data.model, weights, Provenance(**{**provenance, **more}))


def _save_cross_run(
    learner: CrossRunLearner,
    digest: str,
    folder: Path,
    weights: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    network = learner.build()
    assert isinstance(network, CrossRunNetwork)
    network.load_state_dict(dict(weights))
    more = {"data_digest": digest, "training_runs": fingerprints(learner.learn)}
    save_networks(folder, [network.eval()], provenance={**provenance, **more})
    write_card(folder)


def _digest(train: list[Trajectory], validation: list[Trajectory]) -> str:
    digest = hashlib.sha256(str(len(train)).encode())
    for t in (*train, *validation):
        told = (t.key, t.family, t.group, t.base_task, t.params, t.planned_tokens, t.chance)
        digest.update(repr((told, list(t.losses))).encode())
        for array in (t.steps, t.tokens, t.values, t.stderrs, *t.losses.values()):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
