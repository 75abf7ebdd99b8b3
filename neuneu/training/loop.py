"""Training loop: deterministic, resumable at any step, data-parallel by sharding.

It depends neither on Ray nor on the model (see `neuneu.training.learner`). Every random draw is a
function of (seed, epoch, batch), so a state holds no generator, and n ranks together take the same
samples per step as one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from neuneu.training.learner import Learner, Ranks
from neuneu.training.optimisation import (
    OptimConfig,
    add_to_average,
    averages_at,
    learning_rate,
    load_optimizer,
    make_optimizer,
    total_steps,
)

Tick = Callable[[int, int, float, int], None]
"""Called after each step with steps done, total steps, and this rank's pinball loss and number of
samples."""


class DivergedError(ArithmeticError):
    """The loss or its gradient became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of the loop; see `TrainConfig`."""

    optim: OptimConfig
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    keep: Literal["last", "best"] = "last"
    checkpoint_steps: int | None = None
    patience: int | None = None


@dataclass
class FitState:
    """Progress of a fit, besides weights and optimiser.

    `history` has one row per epoch. `epoch_loss` is the pinball loss summed over the `epoch_count`
    samples of the unfinished epoch. `best` holds score, step and weights of the best epoch so
    far, `average` the mean of `averaged` weights. `stopped`: the fit ended early.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_loss: float = 0.0
    epoch_count: int = 0
    best: dict[str, Any] | None = None
    average: dict[str, Tensor] | None = None
    averaged: int = 0
    stopped: bool = False


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
    """Train `network` in place from `state` to the end.

    Args:
        network: the learner's network, possibly wrapped for data-parallel training.
        optimizer: optimiser of its parameters.
        learner: draws batches and evaluates.
        loop: settings.
        state: where to start; updated in place.
        save: called at the end of each epoch and every `checkpoint_steps` steps.
        tick: called after each step.
        ranks: rank of this process; None: it is the only one.

    Raises:
        DivergedError: the gradient is not finite; raised on every rank in the same step.
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
        for part in parts:
            # Gradients are summed over ranks once, in the last pass.
            with nullcontext() if part is parts[-1] else _without_sync(network):
                with torch.autocast(device.type, torch.bfloat16, enabled=loop.precision == "bf16"):
                    loss_B, pinball_B = learner.losses(network, part.inputs)
                loss = loss_B[: part.count].sum() if part.count else loss_B.sum() * 0.0
                # Data-parallel training averages gradients over ranks; shares differ in size.
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


def train_from(
    saved: Mapping[str, Any] | None,
    learner: Learner,
    loop: Loop,
    *,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
    tick: Tick = lambda *_: None,
    ranks: Ranks | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> dict[str, Any]:
    """Train a learner's network, from a saved state if there is one.

    Args:
        saved: a state that `save` was given; None starts a training.
        learner: the learner.
        loop: settings.
        save: called with a state at the end of each epoch and every `checkpoint_steps` steps.
        tick: called after each step.
        ranks: rank of this process; None: it is the only one.
        wrap: moves a network to its device, and wraps it for data-parallel training.

    Returns:
        The final state: the fields of `FitState`, `total` steps, `model` and `optimizer`.

    Raises:
        DivergedError: see `fit`.
    """
    torch.manual_seed(loop.seed)
    bare = learner.build()
    if saved is not None:
        bare.load_state_dict(saved["model"])
    network = wrap(bare)
    optimizer = make_optimizer(loop.optim, network)
    state = FitState()
    if saved is not None:
        load_optimizer(optimizer, saved["optimizer"])
        state = FitState(**{field.name: saved[field.name] for field in fields(FitState)})
    total = total_steps(loop.optim, learner.steps_per_epoch(loop.optim.batch_size))

    def contents() -> dict[str, Any]:
        return vars(state) | {
            "total": total,
            "model": bare_network(network).state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    fit(
        network, optimizer, learner, loop, state,
        save=lambda _: save(contents()), tick=tick, ranks=ranks,
    )  # fmt: skip
    return contents()


def train_here(learner: Learner, loop: Loop, *, tick: Tick = lambda *_: None) -> nn.Module:
    """Train a network in this process, without Ray.

    Returns:
        The network in evaluation mode, with averaged weights if the optimiser averages.
    """
    state = train_from(None, learner, loop, tick=tick)
    network = learner.build()
    network.load_state_dict(state["average"] or state["model"])
    return network.eval()


def bare_network(network: nn.Module) -> nn.Module:
    """Return the network inside a data-parallel wrapper, or itself."""
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return cast(nn.Module, network.module)
    return network


def _without_sync(network: nn.Module) -> AbstractContextManager[None]:
    if isinstance(network, torch.nn.parallel.DistributedDataParallel):
        return cast(AbstractContextManager[None], network.no_sync())
    return nullcontext()


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
    """Give the network its averaged weights, if there are any, while the block runs."""
    if state.average is None:
        yield
        return
    own = {name: value.clone() for name, value in bare.state_dict().items()}
    bare.load_state_dict(state.average)
    try:
        yield
    finally:
        bare.load_state_dict(own)
