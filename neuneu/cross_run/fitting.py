"""Training of the cross-run network in one process, on arrays, seeded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from neuneu.config import config_dataclass
from neuneu.cross_run.curves import Codes, Curves, build_curves
from neuneu.cross_run.features import make_features
from neuneu.cross_run.network import CrossRunConfig, CrossRunNetwork, sizes_of, to_tensors
from neuneu.cross_run.references import index_references
from neuneu.cross_run.sampling import Sampler, SamplingConfig
from neuneu.curve_prior import sample_varied
from neuneu.errors import DataError
from neuneu.quantiles import pinball_torch
from neuneu.trajectories import Trajectory

MADE_UP: Final = 5000
"""Made-up curves that questions about such are drawn from."""


@config_dataclass
class FitConfig:
    """Network, questions and optimiser of one training.

    `average_from` is the share of the steps after which weights are averaged into those that
    are kept. `task_dropout` of the questions are asked as if their task were unknown.
    """

    network: CrossRunConfig = CrossRunConfig()
    sampling: SamplingConfig = SamplingConfig()
    steps: Annotated[int, Field(ge=1)] = 3000
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    average_from: Annotated[float, Field(ge=0, lt=1)] = 0.7
    task_dropout: Annotated[float, Field(ge=0, le=1)] = 0.3
    clip: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 0


def task_places(curves: Curves, config: CrossRunConfig) -> torch.Tensor:
    """(T,) what the network calls each trajectory's task: 1 + its place in `tasks`, 0 unknown."""
    place = {task: index + 1 for index, task in enumerate(config.tasks)}
    return torch.tensor([place.get(t.base_task, 0) for t in curves.trajectories])


def with_tasks(config: CrossRunConfig, trajectories: Sequence[Trajectory]) -> CrossRunConfig:
    """The config with every base task and family of the trajectories."""
    return replace(
        config,
        tasks=tuple(sorted({t.base_task for t in trajectories})),
        families=tuple(sorted({t.family for t in trajectories})),
    )


def unfamiliar(curves: Curves, config: CrossRunConfig) -> npt.NDArray[np.bool_]:
    """(T,) whether each trajectory is of a family that the network did not learn from."""
    return np.array([t.family not in config.families for t in curves.trajectories], dtype=bool)


def fit(
    trajectories: Sequence[Trajectory],
    config: FitConfig,
    *,
    tick: Callable[[int, float], None] | None = None,
) -> CrossRunNetwork:
    """A network trained on finished runs.

    Args:
        trajectories: of all of them at least one has two checkpoints.
        config: everything else.
        tick: called after each step with the step and its loss.

    Raises:
        DataError: nothing to learn from.
    """
    usable = [t for t in trajectories if len(t.without_step_zero()) >= 2]
    if not usable:
        raise DataError("expected trajectories of at least two checkpoints, found none.")
    made_up = sample_varied(MADE_UP, seed=config.seed) if config.sampling.synthetic else []
    curves = build_curves([*usable, *made_up], Codes())
    network_config = with_tasks(config.network, usable)
    sampler = Sampler(curves, index_references(curves), config.sampling)
    tasks = task_places(curves, network_config)
    torch.manual_seed(config.seed)
    first, _ = sampler.draw(np.random.default_rng((config.seed, 0)), 2)
    network = CrossRunNetwork(
        network_config, sizes_of(make_features(first, general=config.network.general))
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    levels_Q = torch.tensor(network_config.levels)
    average = torch.optim.swa_utils.AveragedModel(network)
    network.train()
    for step in range(config.steps):
        generator = np.random.default_rng((config.seed, step))
        questions, values = sampler.draw(generator, config.batch_size)
        batch = to_tensors(make_features(questions, general=config.network.general))
        known = torch.from_numpy(generator.random(len(questions)) >= config.task_dropout)
        batch["task"] = tasks[questions.rows] * known
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        predicted_BHQ, _ = network(batch)
        loss = pinball_loss(predicted_BHQ, torch.from_numpy(values), levels_Q)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        if step >= min(config.average_from * config.steps, config.steps - 1):
            average.update_parameters(network)
        if tick is not None:
            tick(step, loss.item())
    network.load_state_dict(average.module.state_dict())
    return network.eval()


def pinball_loss(predicted_BHQ: Tensor, values_BH: Tensor, levels_Q: Tensor) -> Tensor:
    """Mean over levels, then over the targets of a question, then over questions."""
    known = values_BH.isfinite()
    loss_BH = pinball_torch(predicted_BHQ, values_BH.nan_to_num(), levels_Q).mean(-1) * known
    return (loss_BH.sum(1) / known.sum(1).clamp(min=1)).mean()


def _schedule(step: int, config: FitConfig) -> float:
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1.0 + np.cos(np.pi * (step - warm) / (config.steps - warm)))
