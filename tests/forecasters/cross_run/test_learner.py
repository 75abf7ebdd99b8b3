"""The cross-run network as a learner: ranks, accumulation, resuming, metrics on held-out runs."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from curves import ladder
from test_cross_run import SMALL

from neuneu.data.splits import Anchored
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.queries import make_queries
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.validation import validate
from neuneu.training.learner import Ranks
from neuneu.training.loop import FitState, Loop, fit
from neuneu.training.objective import ObjectiveConfig
from neuneu.training.optimisation import make_optimizer

RUNS = ladder(5, n=12)


WEIGHED = ObjectiveConfig(horizon=0.5, noise=0.7)


def learner(objective: ObjectiveConfig | None = None, **optim: Any) -> CrossRunLearner:
    settings = CrossRunOptim(**({"max_steps": 12, "batch_size": 11} | optim))
    config = FitConfig(
        network=SMALL, optim=settings, report_steps=5, objective=objective or ObjectiveConfig()
    )
    held = [t for t in RUNS if t.run == "r4"]
    return CrossRunLearner(learn=[t for t in RUNS if t.run != "r4"], config=config, validation=held)


def fresh(of: CrossRunLearner) -> tuple[CrossRunNetwork, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = of.build()
    assert isinstance(network, CrossRunNetwork)
    return network, make_optimizer(of.config.optim, network)


def gradients(of: CrossRunLearner, ranks: list[Ranks]) -> list[torch.Tensor]:
    network, _ = fresh(of)
    network.double()
    for rank in ranks:
        parts, size = of.draw(1, 2, rank)
        for part in parts:
            inputs = {k: v.double() if v.is_floating_point() else v for k, v in part.inputs.items()}
            losses, _ = of.losses(network, inputs)
            (losses[: part.count].sum() / size).backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("objective", [ObjectiveConfig(), WEIGHED], ids=["plain", "weighed"])
@pytest.mark.parametrize("ranks", [2, 3, 16])
def test_ranks_and_passes_together_give_the_gradient_of_one(
    ranks: int, objective: ObjectiveConfig
) -> None:
    whole = gradients(learner(objective), [Ranks()])
    shared = gradients(learner(objective), [Ranks(rank=r, world=ranks) for r in range(ranks)])
    passes = gradients(learner(objective, micro_batch=4), [Ranks()])
    for one, other, third in zip(whole, shared, passes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-5)
        torch.testing.assert_close(one, third, atol=1e-8, rtol=1e-5)


def test_resumed_training_equals_an_undisturbed_one() -> None:
    of = learner(average_from=0.3)
    loop = Loop(optim=of.config.optim, checkpoint_steps=4)
    whole, optimizer = fresh(of)
    whole_state, saved = FitState(), {}

    def save(state: FitState) -> None:
        if state.step == 8:
            contents = (vars(state), whole.state_dict(), optimizer.state_dict())
            saved["state"], saved["network"], saved["optimizer"] = copy.deepcopy(contents)

    fit(whole, optimizer, of, loop, whole_state, save=save)
    again, optimizer = fresh(learner(average_from=0.3))
    again.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    state = FitState(**saved["state"])
    fit(again, optimizer, learner(average_from=0.3), loop, state)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert state.history == whole_state.history
    assert [row["step"] for row in state.history] == [5, 10, 12]
    assert state.average is not None
    assert whole_state.average is not None
    assert all(torch.equal(value, whole_state.average[k]) for k, value in state.average.items())


def test_metrics_are_those_of_the_forecasts() -> None:
    of = learner()
    network, _ = fresh(of)
    metrics = validate(network.eval(), of.validation, of.learn)
    forecaster = CrossRunForecaster([network])
    forecaster.fit(of.learn)
    queries, truths = make_queries(list(of.validation), Anchored(fraction=0.2), None)
    answers = forecaster.predict(queries)
    errors = [np.abs(a[:, 3] - t.values).mean() for a, t in zip(answers, truths, strict=True)]
    assert metrics["mae"] == pytest.approx(np.mean(errors))
    inside = [
        ((a[:, 1] <= t.values) & (t.values <= a[:, 5])).mean()
        for a, t in zip(answers, truths, strict=True)
    ]
    assert metrics["coverage_80"] == pytest.approx(np.mean(inside))
    assert metrics["own_mae"] != metrics["mae"]
    assert set(metrics) == {
        f"{prefix}{name}" for prefix in ("", "own_") for name in ("mae", "pinball", "coverage_80")
    }
    assert validate(network, [], of.learn) == {}


def test_levels_are_compared_at_the_published_ones() -> None:
    of = learner()
    dense = replace(of, config=replace(of.config, network=replace(SMALL, levels=(0.25, 0.5, 0.9))))
    network, _ = fresh(dense)
    metrics = validate(network.eval(), dense.validation, dense.learn)
    assert "coverage_80" not in metrics
    assert metrics["pinball"] > 0


def test_evaluation_takes_its_inputs_to_where_the_network_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`meta` stands for a GPU: torch refuses operands of two devices there just the same."""
    of = learner()
    network, _ = fresh(of)
    parts, _ = of.draw(0, 0, Ranks())
    network.to("meta")
    losses, _ = of.losses(network, parts[0].inputs)
    assert losses.device.type == "meta"
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.full(self.shape, 0.5))
    assert of.evaluate(network, Ranks())["mae"] > 0
