"""The optimisation itself: deterministic, resumable at any step, data-parallel by sharding.

Nothing here knows Ray, nor what is trained (see `neuneu.training.learner`). Every random draw is a
function of (seed, epoch, batch), so a state needs no generator, and n ranks take the same
samples a step as one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from neuneu.training.learner import Learner, Part, Ranks
from neuneu.training.optimisation import (
    OptimConfig,
    add_to_average,
    averages_at,
    learning_rate,
    total_steps,
)

Tick = Callable[[int, int, float, int], None]
"""Told after each step: steps done, steps in all, and of this rank's samples the pinball loss and
how many they were."""


class DivergedError(ArithmeticError):
    """The loss or its gradient became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a loop runs. `patience`: it stops after so many epochs without a better pinball loss on
    held-out runs (None: never); `keep`, `checkpoint_steps`, `precision`: see `TrainConfig`."""

    optim: OptimConfig
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    keep: Literal["last", "best"] = "last"
    checkpoint_steps: int | None = None
    patience: int | None = None


@dataclass
class FitState:
    """How far a fit has come, besides weights and optimiser.

    `history` has one row an epoch. `epoch_loss` is the pinball loss summed over the `epoch_count`
    samples of the unfinished epoch. `best` holds score, step and weights of the best epoch so
    far; `average` the mean of `averaged` weights. `stopped`: the fit ended before its time.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_loss: float = 0.0
    epoch_count: int = 0
    best: dict[str, Any] | None = None
    average: dict[str, Tensor] | None = None
    averaged: int = 0
    stopped: bool = False

    @property
    def weights(self) -> dict[str, Tensor] | None:
        """Weights to keep in place of the last ones, if there are such."""
        return self.best["weights"] if self.best is not None else self.average


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    loop: Loop,
    state: FitState,
    *,
    save: Callable[[FitState], None] = lambda _: None,
    tick: Tick = lambda *_: None,
    ranks: Ranks | None = None,
) -> None:
    """Trains `network` in place from `state` to the end.

    Args:
        network: the learner's, or it wrapped for data-parallel training.
        optimizer: of its parameters.
        learner: gives batches and judges.
        loop: how.
        state: updated in place.
        save: called at the end of each epoch and every `checkpoint_steps` steps.
        tick: called after each step.
        ranks: this process among several.

    Raises:
        DivergedError: on every rank in the same step, when the gradient is not finite.
    """
    ranks = ranks or Ranks()
    device = next(network.parameters()).device
    per_epoch = learner.steps_per_epoch(loop.optim.batch_size)
    total = total_steps(loop.optim, per_epoch)
    unreduced = torch.zeros(2, dtype=torch.float64)
    while state.step < total and not state.stopped:
        epoch, index = divmod(state.step, per_epoch)
        parts, size = learner.draw(epoch, index, ranks)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(loop.optim, state.step, total)
        torch.manual_seed(hash((loop.seed, state.step, ranks.rank)) % 2**63)  # dropout's
        network.train()
        optimizer.zero_grad(set_to_none=True)
        done = torch.zeros(2, dtype=torch.float64)
        for part, last in _with_last(parts):
            # Gradients are summed over ranks once, in the last pass.
            with nullcontext() if last else _without_sync(network):
                with torch.autocast(device.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                    loss_B, pinball_B = learner.losses(network, part.inputs)
                loss = loss_B[: part.count].sum() if part.count else loss_B.sum() * 0.0
                # Data-parallel training averages gradients over ranks; shares can differ in size.
                (loss * (ranks.world / size)).backward()
            done += torch.tensor([float(pinball_B[: part.count].sum()), part.count])
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), loop.optim.clip_norm)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"training diverged at step {state.step}: the gradient's norm is {norm.item()}. "
                "Lower optim.learning_rate or look for extreme losses in the data."
            )
        optimizer.step()
        unreduced += done
        state.step += 1
        if averages_at(loop.optim, state.step, total):
            state.average = add_to_average(state.average, state.averaged, bare_network(network))
            state.averaged += 1
        tick(state.step, total, float(done[0]) / max(float(done[1]), 1.0), round(float(done[1])))
        ends_epoch = state.step % per_epoch == 0 or state.step == total
        every = loop.checkpoint_steps
        if ends_epoch or (every is not None and state.step % every == 0):
            loss_sum, count = ranks.sum(unreduced).tolist()
            state.epoch_loss += loss_sum
            state.epoch_count += round(count)
            unreduced = torch.zeros_like(unreduced)
            if ends_epoch:
                _end_epoch(network, learner, loop, state, ranks)
            save(state)


def bare_network(network: nn.Module) -> nn.Module:
    """The network inside a data-parallel wrapper, or itself."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return cast(nn.Module, network.module)
    return network


def _with_last(parts: list[Part]) -> Iterator[tuple[Part, bool]]:
    for place, part in enumerate(parts):
        yield part, place == len(parts) - 1


@contextmanager
def _without_sync(network: nn.Module) -> Iterator[None]:
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        with network.no_sync():
            yield
    else:
        yield


def _end_epoch(
    network: nn.Module, learner: Learner, loop: Loop, state: FitState, ranks: Ranks
) -> None:
    total = total_steps(loop.optim, learner.steps_per_epoch(loop.optim.batch_size))
    row = {
        "epoch": float(len(state.history) + 1),
        "step": float(state.step),
        "learning_rate": learning_rate(loop.optim, state.step - 1, total),
        "train_pinball": state.epoch_loss / max(state.epoch_count, 1),
    }
    bare = bare_network(network)
    with _averaged(bare, state):
        metrics = learner.evaluate(bare, ranks)
        row |= {f"validation_{name}": value for name, value in metrics.items()}
        state.history.append(row)
        state.epoch_loss, state.epoch_count = 0.0, 0
        better = metrics and (state.best is None or metrics["pinball"] < state.best["score"])
        if better and (loop.keep == "best" or loop.patience is not None):
            weights = {k: v.detach().cpu().clone() for k, v in bare.state_dict().items()}
            state.best = {"score": metrics["pinball"], "step": state.step, "weights": weights}
    if loop.patience is not None and state.best is not None:
        steps = [entry["step"] for entry in state.history]
        since = sum(step > state.best["step"] for step in steps)
        state.stopped = since >= loop.patience


@contextmanager
def _averaged(bare: nn.Module, state: FitState) -> Iterator[None]:
    """The network with the averaged weights, if there are any: those would be kept now."""
    if state.average is None:
        yield
        return
    own = {name: value.clone() for name, value in bare.state_dict().items()}
    bare.load_state_dict(state.average)
    try:
        yield
    finally:
        bare.load_state_dict(own)
