"""The training loop without Ray: learning, determinism, resuming, divergence."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from curves import family

from neuneu.core.config import build_config
from neuneu.forecasters.window.network import Network
from neuneu.training.config import TrainConfig
from neuneu.training.data import TrainingData, prepare
from neuneu.training.learner import Ranks
from neuneu.training.loop import DivergedError, FitState, fit
from neuneu.training.optimisation import (
    OptimConfig,
    add_to_average,
    learning_rate,
    load_optimizer,
    make_optimizer,
    total_steps,
)
from neuneu.training.window_learner import WindowLearner, evaluate

TINY: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 32}


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "output": "x",
        "store": "s",
        "model": TINY | changes.pop("model", {}),
        "optim": {"batch_size": 32, "epochs": 2} | changes.pop("optim", {}),
        "validation_runs": ["v"],
    }
    return build_config(TrainConfig, base | changes)


def start(settings: TrainConfig, data: TrainingData) -> tuple[Network, torch.optim.AdamW]:
    torch.manual_seed(settings.seed)
    network = Network(data.model)
    return network, make_optimizer(settings.optim, network)


def run(settings: TrainConfig, data: TrainingData) -> tuple[Network, FitState]:
    network, optimizer = start(settings, data)
    state = FitState()
    fit(network, optimizer, WindowLearner(data=data, config=settings), settings.loop, state)
    return network, state


def test_training_beats_persistence_on_curves_it_has_not_seen() -> None:
    settings = config(
        model={"width": 32, "layers": 2},
        optim={"epochs": 8, "learning_rate": 4e-3},
        max_ahead=None,
    )
    data = prepare(settings, family(["a", "b", "v"], seed=1), None)
    _, state = run(settings, data)
    at = data.series.starts[data.validation.trajectory]
    values = data.series.values
    persistence = np.abs(values[at + data.validation.target] - values[at + data.validation.end])
    assert state.history[-1]["validation_mae"] < 0.7 * persistence.mean()
    assert 0.5 < state.history[-1]["validation_coverage_80"] <= 1.0
    assert state.history[-1]["train_pinball"] < 0.5 * state.history[0]["train_pinball"]


@pytest.mark.parametrize("optim", [{}, {"average_from": 0.1, "micro_batch": 10}])
@pytest.mark.parametrize("stop", [3, 10])
def test_resuming_gives_the_same_weights_and_history(stop: int, optim: dict[str, Any]) -> None:
    settings = config(
        model={"dropout": 0.1}, optim=optim, checkpoint_steps=stop, keep="best", patience=9
    )
    data = prepare(settings, family(["a", "v"]), None)
    whole, whole_state = run(settings, data)

    class StopError(Exception):
        pass

    saved: dict[str, Any] = {}
    network, optimizer = start(settings, data)

    def save(state: FitState) -> None:
        if state.step == stop:
            contents = (vars(state), network.state_dict(), optimizer.state_dict())
            saved["state"], saved["network"], saved["optimizer"] = copy.deepcopy(contents)
            raise StopError

    learner = WindowLearner(data=data, config=settings)
    with pytest.raises(StopError):
        fit(network, optimizer, learner, settings.loop, FitState(), save=save)
    torch.manual_seed(987)  # another process: nothing may hang on the global generator
    network = Network(data.model)
    optimizer = make_optimizer(settings.optim, network)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    state = FitState(**saved["state"])
    fit(network, optimizer, learner, settings.loop, state)
    for one, other in zip(whole.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert state.history == whole_state.history
    assert state.best is not None
    assert whole_state.best is not None
    assert state.best["step"] == whole_state.best["step"]
    assert (state.average is None) == (not optim)
    if state.average is not None and whole_state.average is not None:
        for name, value in whole_state.average.items():
            assert torch.equal(state.average[name], value)


def test_divergence_stops_with_a_message() -> None:
    settings = config()
    data = prepare(settings, family(["a", "v"]), None)
    data.series.values[:] = np.nan
    with pytest.raises(DivergedError, match=r"step 0.*learning_rate"):
        run(settings, data)


def test_max_steps_ends_early_and_still_writes_history() -> None:
    settings = config(optim={"max_steps": 3})
    data = prepare(settings, family(["a", "v"]), None)
    _, state = run(settings, data)
    assert state.step == total_steps(settings.optim, 100) == 3
    assert [row["step"] for row in state.history] == [3]


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    settings = OptimConfig(learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[99] < 1e-3


def test_evaluation_hand_worked() -> None:
    settings = config(model={"target": "delta"})
    data = prepare(settings, family(["a", "v"]), None)
    network, _ = start(settings, data)
    with torch.no_grad():  # quantiles = last observation -+ softplus(-60) = persistence
        network.head.linear.weight.zero_()
        network.head.linear.bias.fill_(-60.0)
        network.head.linear.bias[3] = 0.0
    at = data.series.starts[data.validation.trajectory]
    values = data.series.values
    error = np.abs(values[at + data.validation.target] - values[at + data.validation.end])
    metrics = evaluate(network, data)
    assert metrics["mae"] == pytest.approx(error.mean(), rel=1e-5)
    over = values[at + data.validation.target] - values[at + data.validation.end]
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    pinball = np.maximum(levels * over[:, None], (levels - 1) * over[:, None]).mean()
    assert metrics["pinball"] == pytest.approx(pinball, rel=1e-5)
    assert metrics["coverage_80"] < 0.05


@pytest.mark.parametrize("objective", [{}, {"horizon": 0.5, "noise": 0.7}])
def test_accumulated_gradients_are_those_of_the_whole_batch(objective: dict[str, float]) -> None:
    found = []
    for changes in ({}, {"micro_batch": 7}):
        optim = changes | {"batch_size": 40, "max_steps": 1, "clip_norm": 1e9}
        settings = config(optim=optim, objective=objective)
        data = prepare(settings, family(["a", "b", "v"]), None)
        network, optimizer = start(settings, data)
        network.double()
        learner = WindowLearner(data=data, config=settings)
        parts, size = learner.draw(0, 0, Ranks())
        assert sum(part.count for part in parts) == size == 40
        assert len(parts) == (6 if changes else 1)
        for part in parts:
            inputs = {k: v.double() if v.is_floating_point() else v for k, v in part.inputs.items()}
            loss_B, _ = learner.losses(network, inputs)  # type: ignore[arg-type]
            (loss_B.sum() / size).backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        del optimizer
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


def test_ranks_share_a_batch_without_overlap() -> None:
    settings = config(optim={"batch_size": 11})
    data = prepare(settings, family(["a", "v"]), None)
    learner = WindowLearner(data=data, config=settings)
    whole, _ = learner.draw(0, 2, Ranks())
    targets = []
    for rank in range(3):
        parts, size = learner.draw(0, 2, Ranks(rank=rank, world=3))
        assert size == 11
        targets += [part.inputs["target_B"][: part.count] for part in parts]
    assert torch.equal(torch.cat(targets), whole[0].inputs["target_B"])
    last = math.ceil(len(data.train) / 11) - 1
    rest = len(data.train) - last * 11
    counts = [
        sum(p.count for p in learner.draw(0, last, Ranks(rank=rank, world=16))[0])
        for rank in range(16)
    ]
    assert sum(counts) == rest
    assert 0 in counts, "16 ranks and at most 11 samples"


def test_patience_stops_when_validation_no_longer_improves() -> None:
    settings = config(optim={"epochs": 60, "learning_rate": 2e-2}, patience=2)
    data = prepare(settings, family(["a", "v"]), None)
    _, state = run(settings, data)
    assert state.stopped
    assert state.best is not None
    scores = [row["validation_pinball"] for row in state.history]
    assert len(scores) < 60
    assert min(scores) == state.best["score"] == scores[-3]


def test_average_is_the_mean_of_the_last_weights() -> None:
    settings = config(optim={"max_steps": 5, "average_from": 0.4})
    data = prepare(settings, family(["a", "v"]), None)
    network, optimizer = start(settings, data)
    learner, state, seen = WindowLearner(data=data, config=settings), FitState(), []
    fit(
        network, optimizer, learner, settings.loop, state,
        tick=lambda *_: seen.append(copy.deepcopy(network.state_dict())),
    )  # fmt: skip
    assert state.averaged == 3
    assert state.average is not None
    for name, value in state.average.items():
        torch.testing.assert_close(value, torch.stack([w[name] for w in seen[2:]]).mean(0))


def test_another_optimisers_moments_come_without_its_settings() -> None:
    donor, taker = (torch.nn.Linear(2, 1) for _ in range(2))
    taker.load_state_dict(donor.state_dict())
    first = make_optimizer(OptimConfig(weight_decay=0.5), donor)
    donor(torch.ones(1, 2)).sum().backward()
    first.step()
    second = make_optimizer(OptimConfig(weight_decay=0.1), taker)
    load_optimizer(second, first.state_dict())
    (group,) = second.param_groups
    assert group["weight_decay"] == 0.1
    moments = [second.state[p]["exp_avg"] for p in taker.parameters()]
    for left, p in zip(moments, donor.parameters(), strict=True):
        torch.testing.assert_close(left, first.state[p]["exp_avg"])


def test_average_goes_on_where_the_network_is() -> None:
    """A state is resumed in main memory; `meta` stands for the GPU that the network is on."""
    network = torch.nn.Linear(2, 2, device="meta")
    resumed = {name: torch.zeros(value.shape) for name, value in network.state_dict().items()}
    average = add_to_average(resumed, 3, network)
    assert {value.device.type for value in average.values()} == {"meta"}
