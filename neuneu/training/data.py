"""Training data: tables in, flat samples split by run out, with provenance."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from neuneu.core.errors import DataError, UserError
from neuneu.data.arrays import IntArray
from neuneu.data.fingerprints import fingerprints
from neuneu.data.load import load_dataset
from neuneu.data.splits import hold_out
from neuneu.data.store.store import Store
from neuneu.data.trajectories import TokenLossTable, Trajectory
from neuneu.forecasters.window.config import EncoderConfig, ModelConfig
from neuneu.forecasters.window.encoders import READS
from neuneu.forecasters.window.windows import (
    NO_LOSS,
    Samples,
    Series,
    build_series,
    enumerate_samples,
    mean_loss_rows,
    no_loss_rows,
    word_loss_rows,
)

if TYPE_CHECKING:
    from neuneu.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Samples of training and validation runs over one `Series`.

    `model`: the config, completed from the data (words W, mean and deviation of the loss). `runs`:
    training run `family/run` -> fingerprints of its trajectories. `corpus_hash` identifies the text
    of the word losses, `digest` all of these data.
    """

    series: Series
    train: Samples
    validation: Samples
    model: ModelConfig
    runs: dict[str, list[str]]
    metrics: list[str]
    corpus_hash: str | None
    digest: str


Source = tuple[list[Trajectory], TokenLossTable | None]
"""Trajectories (step 0 included), and word losses if an encoder reads them."""


def read_source(config: "TrainConfig") -> Source:
    """Read trajectories (step 0 included, on the unit scale) and word losses.

    Raises:
        UserError: no source or two of them, files that break the data contract, or a text whose
            losses are not read.
    """
    if (config.store is None) == (config.accuracies is None):
        raise UserError(
            "training: expected either `store` (a trajectory store) or `accuracies` (a table), "
            f"found store={config.store}, accuracies={config.accuracies}."
        )
    needs_words = config.cross_run is None and READS[config.model.encoder.kind] == "words"
    if config.corpus is not None and not needs_words:
        raise UserError(
            f"corpus={config.corpus}: expected an encoder that reads word losses (cnn, histogram, "
            "quantiles, sets), found none; leave corpus out, or choose one by model.encoder.kind."
        )
    if config.store is None:
        data = load_dataset(
            config.accuracies, losses=config.losses, tasks=config.tasks, run_table=config.run_table,
            corpus=config.corpus,
        )  # fmt: skip
        return [t.on_unit_scale() for t in data.trajectories], None
    data = load_dataset(Store(config.store), corpus=config.corpus)
    mapped = [t.on_unit_scale() for t in data.trajectories]
    return mapped, data.token_losses if needs_words else None


def prepare(
    config: "TrainConfig", trajectories: Sequence[Trajectory], words: TokenLossTable | None
) -> TrainingData:
    """Select trajectories, split them by run, and lay them out as samples.

    Args:
        config: metrics, held-out runs and tasks, validation runs, model, `max_ahead`.
        trajectories: with or without step 0.
        words: word losses, for encoders that read them.

    Raises:
        UserError: unknown runs or tasks, missing losses, or no sample left.
    """
    train, validation = split_by_run(config, trajectories)
    model, series, corpus_hash = _lay_out(config, [*train, *validation], len(train), words)
    samples = enumerate_samples(series, config.max_ahead)
    is_train = samples.trajectory < len(train)
    train_samples = samples.take(np.flatnonzero(is_train))
    if not len(train_samples):
        raise UserError(
            f"training: no samples are left of {len(trajectories)} trajectories: {len(train)} "
            "belong to training runs, and none has two checkpoints after step 0 and what the "
            f"{model.encoder.kind!r} encoder reads. Check metrics, held_out_runs, "
            "validation_runs, held_out_tasks and the losses."
        )
    return TrainingData(
        series=series,
        train=train_samples,
        validation=_subset(
            samples.take(np.flatnonzero(~is_train)), config.max_validation_samples, config.seed
        ),
        model=model,
        runs=fingerprints(train),
        metrics=sorted({t.metric for t in train}),
        corpus_hash=corpus_hash,
        digest=_digest(series, [t.key for t in (*train, *validation)], len(train)),
    )


def split_by_run(
    config: "TrainConfig", trajectories: Sequence[Trajectory]
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Return training and validation trajectories without step 0; held-out runs are in neither.

    Raises:
        UserError: unknown metrics, tasks or runs, or a run in both roles.
    """
    chosen, _ = hold_out(_select(config, trajectories), config.held_out_runs)
    return hold_out(chosen, config.validation_runs)


def _select(config: "TrainConfig", trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    metrics = {t.metric for t in trajectories}
    tasks = {t.base_task for t in trajectories}
    for name, wanted, known in (
        ("metrics", config.metrics, metrics),
        ("held_out_tasks", config.held_out_tasks, tasks),
    ):
        unknown = sorted(set(wanted) - known)
        if unknown:
            raise UserError(f"{name} {unknown} are not in the table; it has {sorted(known)}.")
    both = sorted(set(config.validation_runs) & set(config.held_out_runs))
    if both:
        raise UserError(f"runs {both} are both validation_runs and held_out_runs; choose one.")
    return [
        t.without_step_zero()
        for t in trajectories
        if (not config.metrics or t.metric in config.metrics)
        and t.base_task not in config.held_out_tasks
    ]


def _lay_out(
    config: "TrainConfig",
    trajectories: list[Trajectory],
    n_train: int,
    words: TokenLossTable | None,
) -> tuple[ModelConfig, Series, str | None]:
    encoder = config.model.encoder
    reads = READS[encoder.kind]
    corpus_hash = None
    if reads == "words":
        if words is None:
            raise DataError(
                f"encoder {encoder.kind!r} reads word losses and the source has none; "
                "train on a store that an extraction wrote, or set model.encoder.kind=none."
            )
        if encoder.units is not None and encoder.units != words.matrix.shape[1]:
            raise DataError(
                f"model.encoder.units is {encoder.units}, the word losses have "
                f"{words.matrix.shape[1]}; set it to null to take the data's."
            )
        losses, rows = word_loss_rows(trajectories, words)
        encoder = replace(encoder, units=int(losses.shape[1]))
        corpus_hash = words.corpus_hash
    elif reads == "mean":
        losses, rows = mean_loss_rows(trajectories, config.loss_names)
        encoder = _standardised(encoder, losses, rows[:n_train])
    else:
        losses, rows = no_loss_rows(trajectories)
    model = replace(config.model, encoder=encoder)
    series = build_series(trajectories, gap_unit=model.gap_unit, losses=losses, loss_rows=rows)
    return model, series, corpus_hash


def _standardised(
    encoder: EncoderConfig, losses: npt.NDArray, rows: Sequence[IntArray]
) -> EncoderConfig:
    used = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    values = losses[used[used != NO_LOSS], 0]
    if values.size == 0:
        raise DataError(
            "encoder 'mean' reads a mean validation loss and no training trajectory has one; "
            "give `losses` with metric cross_entropy_loss, or check `loss_names`."
        )
    spread = float(values.std()) or 1.0
    return replace(encoder, loss_mean=float(values.mean()), loss_std=spread)


def _subset(samples: Samples, limit: int, seed: int) -> Samples:
    if len(samples) <= limit:
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), size=limit, replace=False)
    return samples.take(np.sort(chosen))


def _digest(series: Series, keys: Sequence[object], n_train: int) -> str:
    digest = hashlib.sha256(repr((keys, n_train)).encode())
    arrays: tuple[npt.NDArray, ...] = (
        series.starts,
        series.values,
        series.positions,
        series.loss_rows,
        series.losses,
        series.noise,
    )
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
