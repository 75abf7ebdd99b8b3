"""The training loop without Ray: learning, determinism, resuming, divergence."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from curves import family

from neuneu.config import build_config
from neuneu.model.network import Network
from neuneu.training import TrainConfig
from neuneu.training_data import TrainingData, prepare
from neuneu.training_loop import (
    DivergedError,
    FitState,
    evaluate,
    fit,
    learning_rate,
    make_optimizer,
    total_steps,
)

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
    return network, make_optimizer(settings, network)


def run(settings: TrainConfig, data: TrainingData) -> tuple[Network, FitState]:
    network, optimizer = start(settings, data)
    state = FitState()
    fit(network, optimizer, data, settings, state, save=lambda _: None, tick=lambda *_: None)
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


@pytest.mark.parametrize("stop", [3, 10])
def test_resuming_gives_the_same_weights_and_history(stop: int) -> None:
    settings = config(model={"dropout": 0.1}, checkpoint_steps=stop, keep="best")
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

    def tick(*_: Any) -> None:
        pass

    with pytest.raises(StopError):
        fit(network, optimizer, data, settings, FitState(), save=save, tick=tick)
    torch.manual_seed(987)  # another process: nothing may hang on the global generator
    network = Network(data.model)
    optimizer = make_optimizer(settings, network)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    state = FitState(**saved["state"])
    fit(network, optimizer, data, settings, state, save=lambda _: None, tick=tick)
    for one, other in zip(whole.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert state.history == whole_state.history
    assert state.best is not None
    assert whole_state.best is not None
    assert state.best["step"] == whole_state.best["step"]


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
    assert state.step == total_steps(settings, data) == 3
    assert [row["step"] for row in state.history] == [3]


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    settings = config(optim={"learning_rate": 1.0, "warmup_fraction": 0.1})
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
    # All levels alike and symmetric about 0.5: the mean weight of an error is a half.
    over = values[at + data.validation.target] - values[at + data.validation.end]
    levels = np.array(data.model.levels)
    pinball = np.maximum(levels * over[:, None], (levels - 1) * over[:, None]).mean()
    assert metrics["pinball"] == pytest.approx(pinball, rel=1e-5)
    assert metrics["coverage_80"] < 0.05
