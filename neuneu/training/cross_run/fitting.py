"""Training of the cross-run network: what is drawn for a step, and a loop in one process.

Shapes: B questions, H targets, Q levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from torch import Tensor, nn

from neuneu.core.config import config_dataclass
from neuneu.core.errors import DataError
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.batching import QueryBatch
from neuneu.forecasters.cross_run.curves import Codes, Curves, build_curves
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.network import (
    CrossRunConfig,
    CrossRunNetwork,
    sizes_of,
    task_index,
    to_tensors,
)
from neuneu.forecasters.cross_run.references import index_references
from neuneu.forecasters.cross_run.sampling import Sampler, SamplingConfig
from neuneu.forecasters.curve_prior import sample_varied
from neuneu.training.learner import Part, Ranks
from neuneu.training.loop import FitState, Loop
from neuneu.training.loop import fit as run_loop
from neuneu.training.objective import ObjectiveConfig, objective, sample_weights
from neuneu.training.optimisation import OptimConfig, Share, make_optimizer

MADE_UP: Final = 5000
"""Made-up curves that questions about such are drawn from."""


@config_dataclass
class CrossRunOptim(OptimConfig):
    """The optimiser of the cross-run network; an epoch is `FitConfig.report_steps` steps."""

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

    `task_dropout` of the questions are asked as if their task were unknown. Every `report_steps`
    steps held-out runs are forecast, where there are any.
    """

    network: CrossRunConfig = CrossRunConfig()
    sampling: SamplingConfig = SamplingConfig()
    optim: CrossRunOptim = CrossRunOptim()
    objective: ObjectiveConfig = ObjectiveConfig()
    task_dropout: Share = 0.3
    report_steps: pydantic.PositiveInt = 250
    seed: int = 0


def with_tasks(config: CrossRunConfig, trajectories: Sequence[Trajectory]) -> CrossRunConfig:
    """The config with every base task and family of the trajectories."""
    return replace(
        config,
        tasks=tuple(sorted({t.base_task for t in trajectories})),
        families=tuple(sorted({t.family for t in trajectories})),
    )


def general_config(config: FitConfig) -> FitConfig:
    """The general network of a forecaster whose networks are trained by `config`."""
    return replace(
        config,
        network=replace(config.network, general=True),
        sampling=replace(config.sampling, thinned=0.4, synthetic=0.4),
        task_dropout=1.0,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossRunLearner:
    """Questions about finished runs; see `neuneu.training.learner.Learner`.

    `validation` trajectories are asked about after a fifth of their checkpoints, beside those
    learnt from and without them.
    """

    learn: Sequence[Trajectory]
    config: FitConfig
    validation: Sequence[Trajectory] = ()

    def check(self) -> None:
        """Raises DataError where there is nothing to learn from."""
        _ = self._usable

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps between two evaluations; questions are drawn without end."""
        del batch_size
        return self.config.report_steps

    def build(self) -> nn.Module:
        """A fresh network."""
        first, _ = self._sampler.draw(np.random.default_rng((self.config.seed, 0)), 2)
        features = make_features(first, general=self.config.network.general)
        return CrossRunNetwork(self._network_config, sizes_of(features))

    def draw(self, epoch: int, index: int, ranks: Ranks) -> tuple[list[Part], int]:
        """This rank's share of the questions of a step; all ranks draw all, and keep theirs."""
        config = self.config
        step = epoch * config.report_steps + index
        generator = np.random.default_rng((config.seed, step))
        size = config.optim.batch_size
        questions, values = self._sampler.draw(generator, size)
        known = generator.random(size) >= config.task_dropout
        weights = self._weights(questions, values)
        mine = np.arange(size)[ranks.share(size)]
        limit = config.optim.micro_batch or size
        parts = [
            self._part(questions.take(rows), values[rows], known[rows], weights[rows])
            for rows in (mine[start : start + limit] for start in range(0, len(mine), limit))
        ]
        if not parts:
            rows = np.arange(1)
            part = self._part(questions.take(rows), values[rows], known[rows], weights[rows])
            parts = [replace(part, count=0)]
        return parts, size

    def losses(self, network: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(what is minimised, the pinball loss) of each question: means over its targets."""
        device = next(network.parameters()).device
        batch = {name: value.to(device) for name, value in inputs.items()}
        predicted_BHQ, _ = network(batch)
        return question_losses(
            self.config.objective, predicted_BHQ.float(), batch,
            torch.tensor(self._network_config.levels, device=device),
        )  # fmt: skip

    def evaluate(self, network: nn.Module, ranks: Ranks) -> dict[str, float]:
        """Of the validation trajectories, with references and (`own_`) without."""
        from neuneu.training.cross_run.validation import validate

        return validate(network, self.validation, self.learn, ranks)

    def _part(
        self,
        questions: QueryBatch,
        values: npt.NDArray,
        known: npt.NDArray[np.bool_],
        weights: npt.NDArray[np.float32],
    ) -> Part:
        inputs = to_tensors(make_features(questions, general=self.config.network.general))
        inputs["task"] = self._tasks[questions.rows] * torch.from_numpy(known)
        inputs["values"] = torch.from_numpy(values)
        inputs["weight"] = torch.from_numpy(weights)
        return Part(inputs=inputs, count=len(questions))

    def _weights(self, questions: QueryBatch, values: npt.NDArray) -> npt.NDArray[np.float32]:
        """(B, H) what each target weighs in the step."""
        now = questions.curves.x[questions.curves.starts[questions.rows] + questions.end]
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
        usable = [t for t in self.learn if len(t.without_step_zero()) >= 2]
        if not usable:
            raise DataError("expected trajectories of at least two checkpoints, found none.")
        return usable

    @cached_property
    def _curves(self) -> Curves:
        made_up = (
            sample_varied(MADE_UP, seed=self.config.seed) if self.config.sampling.synthetic else []
        )
        return build_curves([*self._usable, *made_up], Codes())

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(self._curves, index_references(self._curves), self.config.sampling)

    @cached_property
    def _tasks(self) -> Tensor:
        return task_index(self._curves, self._network_config)


def question_losses(
    config: ObjectiveConfig, predicted_BHQ: Tensor, batch: dict[str, Tensor], levels_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """(what is minimised, the pinball loss) of B questions: means over levels, then targets."""
    values_BH = batch["values"]
    known_BH = values_BH.isfinite()
    B, H = values_BH.shape
    loss, pinball = objective(
        config, predicted_BHQ.reshape(B * H, -1), values_BH.nan_to_num().reshape(-1), levels_Q
    )
    count_B = known_BH.sum(1).clamp(min=1)
    loss_BH, pinball_BH = loss.view(B, H) * batch["weight"], pinball.view(B, H)
    return (loss_BH * known_BH).sum(1) / count_B, (pinball_BH * known_BH).sum(1) / count_B


def fit(
    trajectories: Sequence[Trajectory],
    config: FitConfig,
    *,
    tick: Callable[[int, float], None] | None = None,
) -> CrossRunNetwork:
    """A network trained on finished runs, in this process.

    Args:
        trajectories: of all of them at least one has two checkpoints.
        config: everything else.
        tick: called after each step with the steps done and the pinball loss.

    Raises:
        DataError: nothing to learn from.
    """
    learner = CrossRunLearner(learn=trajectories, config=config)
    torch.manual_seed(config.seed)
    network = learner.build()
    assert isinstance(network, CrossRunNetwork)
    state = FitState()
    run_loop(
        network, make_optimizer(config.optim, network), learner,
        Loop(optim=config.optim, seed=config.seed), state,
        tick=lambda step, _, loss, __: None if tick is None else tick(step, loss),
    )  # fmt: skip
    if state.average is not None:
        network.load_state_dict(state.average)
    return network.eval()
