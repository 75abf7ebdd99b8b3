"""Step `training`: samples/s of the published network, of ours, and of a plain loop."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from training import run as training

from gpu.report import Context, Row
from neuneu.forecasters.window.network import Network
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.window_learner import WindowLearner

_TINY: Final[dict[str, Any]] = {
    "width": 32,
    "layers": 1,
    "heads": 2,
    "feed_forward": 32,
    "encoder": {"units": 16_384},
}


def measure_training(context: Context) -> None:
    """Measure the same as benchmarks/training/run.py, on synthetic curves."""
    device = torch.device(context.device)
    seconds = 0.2 if context.dry_run else 3.0
    runs, config, data = training.published_data(**(_TINY if context.dry_run else {}))
    if context.dry_run:
        config = replace(config, optim=replace(config.optim, batch_size=2))

    def network() -> Network:
        torch.manual_seed(0)
        return Network(data.model).to(device)

    def ours(group: int) -> WindowLearner:
        return WindowLearner(data=data, config=replace(config, checkpoint_group=group))

    fit = FitConfig(optim=CrossRunOptim(batch_size=4 if context.dry_run else 128))
    own = CrossRunLearner(learn=runs, config=fit)
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "paper preset, straightforward loop": lambda: training.straight_steps(
            network(), data, config
        ),
        "paper preset, ours": lambda: training.our_steps(network(), ours(1), config.optim),
        "paper preset, ours, grouped by checkpoint": lambda: training.our_steps(
            network(), ours(16), config.optim
        ),
        "paper preset, ours, grouped, bf16": lambda: training.our_steps(
            network(), ours(16), config.optim, bf16=True
        ),
        "our forecaster": lambda: training.our_steps(own.build().to(device), own, fit.optim),
        "our forecaster, bf16": lambda: training.our_steps(
            own.build().to(device), own, fit.optim, bf16=True
        ),
    }
    for name, steps in ways.items():
        with context.report.case(name):
            found = training.rate(steps(), seconds)
            context.report.add(
                Row(what=name, rate=found["pairs_a_second"], unit="samples/s",
                    seconds=found["seconds"],
                    note=f"{found['steps'] / found['seconds']:.1f} steps/s")
            )  # fmt: skip
