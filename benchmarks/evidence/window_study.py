"""The published network on the ladder: trained on all runs but one, with readings of a text.

A forecast reads no other run. The finished runs are those that the network was trained on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from window_networks import train_window

import neuneu
from neuneu.core.config import config_to_dict
from neuneu.core.files import atomic_path
from neuneu.data.arrays import FloatArray
from neuneu.data.fingerprints import data_digest
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.window.config import EncoderConfig, EncoderKind, ModelConfig
from neuneu.forecasters.window.encoders import READS
from neuneu.training.config import TrainConfig
from neuneu.training.optimisation import OptimConfig

KINDS: Final[tuple[EncoderKind, ...]] = ("none", "mean", "histogram", "cnn")
SEEDS: Final = 2
STEPS: Final = 300
BATCH: Final = 64
CODE: Final = ("forecasters/window", "training")
"""Folders of the package whose code decides an answer."""


def window_config(kind: EncoderKind, run: str, seed: int, steps: int = STEPS) -> TrainConfig:
    """Return the settings of a training that holds one run out; only the encoder differs."""
    return TrainConfig(
        output="unused",
        model=ModelConfig(encoder=EncoderConfig(kind=kind)),
        optim=OptimConfig(learning_rate=1e-3, epochs=1000, max_steps=steps, batch_size=BATCH),
        max_ahead=None,
        held_out_runs=(run,),
        seed=seed,
    )


class Windows:
    """Answers of networks that did not see the run they forecast, kept in a folder."""

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        words: TokenLossTable,
        folder: Path,
        fractions: Sequence[float],
        *,
        seeds: int = SEEDS,
        steps: int = STEPS,
    ) -> None:
        """Trains nothing yet.

        Args:
            trajectories: of all runs, with the mean loss of the text.
            words: losses of its words.
            folder: where answers are kept.
            fractions: context fractions of the checkpoints.
            seeds: trainings of each reading, whose answers are averaged level by level.
            steps: of each training.
        """
        self._trajectories, self._words, self._folder = list(trajectories), words, folder
        self._fractions, self._seeds, self._steps = tuple(fractions), seeds, steps
        content = [data_digest(trajectories), code_digest(), repr(self._fractions)]
        content += [t.losses[name].tobytes().hex() for t in trajectories for name in t.losses]
        digest = hashlib.sha256(repr(content).encode())
        digest.update(words.matrix.tobytes())
        self._digest = digest.hexdigest()

    def answers(self, kind: EncoderKind, run: str, fraction: float) -> list[FloatArray]:
        """Return quantiles (h, Q) of every trajectory of a run from a share of its checkpoints."""
        several = [self._kept(kind, run, seed, fraction) for seed in range(self._seeds)]
        return [np.mean(of, axis=0) for of in zip(*several, strict=True)]

    def _kept(self, kind: EncoderKind, run: str, seed: int, fraction: float) -> list[FloatArray]:
        config = window_config(kind, run, seed, self._steps)
        content = repr((self._digest, config_to_dict(config)))
        mark = hashlib.sha256(content.encode()).hexdigest()[:12]
        path = self._folder / f"{run}-{kind}-{seed}-{mark}.npz"
        if not path.exists():
            answers = self._forecast(config, run)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **cast("dict[str, Any]", answers))
        with np.load(path) as file:
            own = [name for name in file.files if name.startswith(f"{fraction:g}/")]
            return [file[name] for name in own]

    def _forecast(self, config: TrainConfig, run: str) -> dict[str, FloatArray]:
        """Train once; the answers from every fraction, by fraction and trajectory."""
        words = self._words if READS[config.model.encoder.kind] == "words" else None
        forecaster = train_window(config, self._trajectories, words)
        own = [t for t in self._trajectories if t.run == run]
        return {
            f"{fraction:g}/{place}": answer
            for fraction in self._fractions
            for place, answer in enumerate(
                forecaster.predict(make_queries(own, Anchored(fraction=fraction), words)[0])
            )
        }


def code_digest(folders: Sequence[str] = CODE) -> str:
    """Return sixteen hex digits of the package's code in some folders."""
    root = Path(neuneu.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(file for folder in folders for file in (root / folder).glob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
