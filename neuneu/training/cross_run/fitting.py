"""Training of the cross-run network: settings, and the learner that draws its questions.

Shapes: B questions, H targets, Q levels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from torch import Tensor, nn

from neuneu.core.config import config_dataclass
from neuneu.core.errors import DataError
from neuneu.data.fingerprints import fingerprints
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.batching import QueryBatch
from neuneu.forecasters.cross_run.card import write_card
from neuneu.forecasters.cross_run.curves import Codes, Curves, build_curves
from neuneu.forecasters.cross_run.export import save_networks
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.network import (
    CrossRunConfig,
    CrossRunNetwork,
    sizes_of,
    task_index,
    to_tensors,
)
from neuneu.forecasters.cross_run.references import index_references
from neuneu.training.cross_run.sampling import Sampler, SamplingConfig
from neuneu.training.cross_run.synthetic import sample_varied
from neuneu.training.cross_run.validation import validate
from neuneu.training.learner import Part, Ranks, passes
from neuneu.training.objective import ObjectiveConfig, objective, sample_weights
from neuneu.training.optimisation import OptimConfig, Share

SYNTHETIC: Final = 5000
"""Number of synthetic curves."""


@config_dataclass
class CrossRunOptim(OptimConfig):
    """Optimiser of the cross-run network; an epoch is `FitConfig.report_steps` steps."""

    learning_rate: pydantic.PositiveFloat = 2e-3
    weight_decay: pydantic.NonNegativeFloat = 0.05
    batch_size: pydantic.PositiveInt = 128
    epochs: pydantic.PositiveInt = 1000
    max_steps: pydantic.PositiveInt | None = 3000
    warmup_fraction: Share = 0.05
    final_fraction: Share = 0.02
    average_from: Share | None = 0.7


@config_dataclass
class FitConfig:
    """Network, questions and optimiser of one training.

    `task_dropout`: fraction of the questions whose task is hidden. `report_steps`: steps between
    two evaluations on validation runs, where there are any.
    """

    network: CrossRunConfig = CrossRunConfig()
    sampling: SamplingConfig = SamplingConfig()
    optim: CrossRunOptim = CrossRunOptim()
    objective: ObjectiveConfig = ObjectiveConfig()
    task_dropout: Share = 0.3
    report_steps: pydantic.PositiveInt = 250
    seed: int = 0


def with_tasks(config: CrossRunConfig, trajectories: Sequence[Trajectory]) -> CrossRunConfig:
    """Return the config with every base task and family of the trajectories."""
    return replace(
        config,
        tasks=tuple(sorted({t.base_task for t in trajectories})),
        families=tuple(sorted({t.family for t in trajectories})),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossRunLearner:
    """Trains on questions about finished runs; see `Learner` for the methods.

    `validation` trajectories are forecast after a fifth of their checkpoints, with the training
    runs as references and without.

    Raises:
        DataError: no trajectory to train on.
    """

    learn: Sequence[Trajectory]
    config: FitConfig
    validation: Sequence[Trajectory] = ()

    def __post_init__(self) -> None:
        """Refuse data without a trajectory to train on."""
        if not self._usable:
            raise DataError("expected trajectories of at least two checkpoints, found none.")

    @property
    def digest(self) -> str:
        """Digest of the trajectories."""
        digest = hashlib.sha256(str(len(self.learn)).encode())
        for t in (*self.learn, *self.validation):
            described = (
                t.key,
                t.family,
                t.group,
                t.base_task,
                t.params,
                t.planned_tokens,
                t.chance,
                t.recipe,
                t.schedule,
                t.decay_start,
            )
            digest.update(repr((described, list(t.losses), list(t.signals))).encode())
            further = (*t.losses.values(), *t.signals.values())
            for array in (t.steps, t.tokens, t.values, t.stderrs, *further):
                digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return steps between two evaluations; questions are drawn without end."""
        del batch_size
        return self.config.report_steps

    def build(self) -> CrossRunNetwork:
        """Return a fresh network."""
        first, _ = self._sampler.draw(np.random.default_rng((self.config.seed, 0)), 2)
        features = make_features(first)
        return CrossRunNetwork(self._network_config, sizes_of(features))

    def draw(self, epoch: int, index: int, ranks: Ranks) -> tuple[list[Part], int]:
        """Return this rank's share of a step; every rank draws all questions and keeps its own."""
        config = self.config
        step = epoch * config.report_steps + index
        generator = np.random.default_rng((config.seed, step))
        size = config.optim.batch_size
        questions, values = self._sampler.draw(generator, size)
        known = generator.random(size) >= config.task_dropout
        weights = self._weights(questions, values)
        parts = [
            self._part(questions.take(rows), values[rows], known[rows], weights[rows], count)
            for rows, count in passes(size, ranks, config.optim.micro_batch or size)
        ]
        return parts, size

    def losses(self, network: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return training loss and pinball loss of each question: means over its targets."""
        device = next(network.parameters()).device
        batch = {name: value.to(device) for name, value in inputs.items()}
        predicted_BHQ, _ = network(batch)
        return question_losses(
            self.config.objective, predicted_BHQ.float(), batch,
            torch.tensor(self._network_config.levels, device=device),
        )  # fmt: skip

    def evaluate(self, network: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Return metrics on validation runs, with references and without (`own_`)."""
        return validate(network, self.validation, self.learn, ranks)

    def save(
        self, folder: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, Any]
    ) -> None:
        """Write a forecaster with these weights."""
        data = {"data_digest": self.digest, "training_runs": fingerprints(self.learn)}
        save_networks(folder, [self.load(weights)], provenance={**provenance, **data})
        write_card(folder)

    def load(self, weights: Mapping[str, Tensor]) -> CrossRunNetwork:
        """Return a network with these weights, in evaluation mode."""
        network = self.build()
        network.load_state_dict(dict(weights))
        return network.eval()

    def _part(
        self,
        questions: QueryBatch,
        values: npt.NDArray,
        known: npt.NDArray[np.bool_],
        weights: npt.NDArray[np.float32],
        count: int,
    ) -> Part:
        inputs = to_tensors(make_features(questions))
        inputs["task"] = self._tasks[questions.rows] * torch.from_numpy(known)
        inputs["values"] = torch.from_numpy(values)
        inputs["weight"] = torch.from_numpy(weights)
        return Part(inputs=inputs, count=count)

    def _weights(self, questions: QueryBatch, values: npt.NDArray) -> npt.NDArray[np.float32]:
        """Return the weight of each target in the step, (B, H)."""
        last = questions.curves.starts[questions.rows] + np.maximum(questions.end, 0)
        now = np.where(questions.end < 0, questions.begin, questions.curves.x[last])
        return sample_weights(
            self.config.objective,
            questions.targets - now[:, None],
            questions.curves.noise[questions.rows][:, None],
            counted=np.isfinite(values),
        )

    @cached_property
    def _network_config(self) -> CrossRunConfig:
        return with_tasks(self.config.network, self._usable)

    @cached_property
    def _usable(self) -> list[Trajectory]:
        return [t for t in self.learn if len(t.without_step_zero()) >= 2]

    @cached_property
    def _curves(self) -> Curves:
        synthetic = (
            sample_varied(SYNTHETIC, seed=self.config.seed)
            if self.config.sampling.synthetic
            else []
        )
        return build_curves([*self._usable, *synthetic], Codes())

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self._curves, index_references(self._curves), self.config.sampling)

    @cached_property
    def _tasks(self) -> Tensor:
        return task_index(self._curves, self._network_config)


def question_losses(
    config: ObjectiveConfig, predicted_BHQ: Tensor, batch: dict[str, Tensor], levels_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """Return training loss and pinball loss of B questions: means over levels, then targets."""
    values_BH = batch["values"]
    known_BH = values_BH.isfinite()
    B, H = values_BH.shape
    loss, pinball = objective(
        config, predicted_BHQ.reshape(B * H, -1), values_BH.nan_to_num().reshape(-1), levels_Q
    )
    count_B = known_BH.sum(1).clamp(min=1)
    loss_BH, pinball_BH = loss.view(B, H) * batch["weight"], pinball.view(B, H)
    return (loss_BH * known_BH).sum(1) / count_B, (pinball_BH * known_BH).sum(1) / count_B
