"""Training speed: our loop compared with a straightforward one that encodes every sample.

    .venv/bin/python benchmarks/training/run.py ../shared/trajectories

Four parts. `paper`: samples/s of the published network on checkpoints whose 66 tasks and 10
distances share a vector of 256,000 word losses; the straightforward loop makes one tensor per
sample (a torch Dataset and DataLoader) and encodes the losses of each. `pairs`: (context, target)
pairs/s of the cross-run forecaster and of the published transformer in the straightforward loop, at
equal width, depth and batch, on the public trajectories. `time`: seconds of each to an equal
pinball loss on the dev runs, forecast from a fifth of their checkpoints. `workers`: steps/s on Ray
Train with one and with two workers of one thread each. All other parts run in one process, warmed
up and seeded.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import ray
import ray.train.torch
import torch
from ray.train import UserCallback
from run_splits import SPLITS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neuneu.core.files import write_text_atomic
from neuneu.core.progress import stage
from neuneu.core.ray_session import ray_session
from neuneu.core.storage import Folder
from neuneu.data.load import load_dataset
from neuneu.data.quantiles import common_levels, pinball, pinball_torch
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.queries import make_queries
from neuneu.forecasters.window.batching import Batch, to_device
from neuneu.forecasters.window.config import preset
from neuneu.forecasters.window.export import Provenance
from neuneu.forecasters.window.forecaster import NeuralForecaster
from neuneu.forecasters.window.network import Network
from neuneu.forecasters.window.windows import Samples, build_series, enumerate_samples
from neuneu.training.config import TrainConfig
from neuneu.training.cross_run.fitting import CrossRunLearner, CrossRunOptim, FitConfig
from neuneu.training.cross_run.validation import validate
from neuneu.training.data import TrainingData, prepare
from neuneu.training.learner import Learner, Ranks
from neuneu.training.optimisation import OptimConfig, learning_rate, make_optimizer
from neuneu.training.window_learner import WindowLearner
from neuneu.training.worker import worker

WORDS: Final = 256_000
TASKS: Final = 66
CHECKPOINTS: Final = 20
RUNS: Final = 4
BATCH: Final = 64
JUDGED: Final = 6
EQUAL: Final = {"width": 96, "layers": 2, "heads": 4, "feed_forward": 192}
"""Width, depth and feed-forward size of our own forecaster."""


class Straight(Dataset):
    """One dictionary of tensors per sample, including its loss vector, as published."""

    def __init__(self, data: TrainingData, drop: float, seed: int) -> None:
        self.data, self.drop = data, drop
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        series, samples = self.data.series, self.data.train
        first = int(series.starts[samples.trajectory[index]])
        end, target = int(samples.end[index]), int(samples.target[index])
        kept = [
            place
            for place in range(end + 1)
            if place in (0, end) or self.generator.random() >= self.drop
        ]
        at = first + np.array([*kept, target])
        return {
            "accuracy": torch.from_numpy(series.values[at[:-1]]),
            "gap": torch.from_numpy(np.diff(series.positions[at]).astype(np.float32)),
            "losses": torch.from_numpy(
                series.losses[series.loss_rows[first + end]].astype(np.float32)
            ),
            "target": torch.tensor(series.values[first + target]),
        }


def collate(items: list[dict[str, Tensor]]) -> Batch:
    pad = torch.nn.utils.rnn.pad_sequence
    accuracy = [item["accuracy"] for item in items]
    return Batch(
        accuracy_BK=pad(accuracy, batch_first=True),
        gap_BK=pad([item["gap"] for item in items], batch_first=True),
        mask_BK=pad([torch.ones(len(a), dtype=torch.bool) for a in accuracy], batch_first=True),
        losses_CW=torch.stack([item["losses"] for item in items]),
        loss_index_B=torch.arange(len(items)),
        target_B=torch.stack([item["target"] for item in items]),
        weight_B=torch.ones(len(items)),
    )


def straight_steps(network: Network, data: TrainingData, config: TrainConfig) -> Iterator[int]:
    """Run the straightforward loop; yield the samples of each optimiser step."""
    optimizer = make_optimizer(config.optim, network)
    device = next(network.parameters()).device
    levels = torch.tensor(data.model.levels, device=device)
    total = config.optim.max_steps or 10**9
    step = 0
    while True:
        torch.manual_seed(step)
        loader = DataLoader(
            Straight(data, config.drop, config.seed + step), batch_size=config.optim.batch_size,
            shuffle=True, collate_fn=collate, drop_last=True,
        )  # fmt: skip
        for inputs in loader:
            batch = to_device(inputs, device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.optim, min(step, total - 1), total)
            optimizer.zero_grad(set_to_none=True)
            pinball_torch(_plain(network, batch), batch["target_B"], levels).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
            optimizer.step()
            step += 1
            yield len(batch["target_B"])


def _plain(network: Network, batch: Batch) -> Tensor:
    """Run one forward pass padded to the longest context, as a straightforward loop does."""
    state = network.transformer(
        network.encode(batch["losses_CW"]), batch["accuracy_BK"], batch["gap_BK"], batch["mask_BK"]
    )
    raw: Tensor = network.head(state)
    if network.config.target == "absolute":
        return raw
    last = batch["mask_BK"].sum(1, keepdim=True) - 1
    return raw + batch["accuracy_BK"].gather(1, last)


def our_steps(
    network: torch.nn.Module, learner: Any, optim: OptimConfig, *, bf16: bool = False
) -> Iterator[int]:
    """Run the inner part of our loop; yield the (context, target) pairs of each step."""
    optimizer = make_optimizer(optim, network)
    device = next(network.parameters()).device
    per_epoch = learner.steps_per_epoch(optim.batch_size)
    total = optim.max_steps or 10**9
    step = 0
    while True:
        epoch, index = divmod(step, per_epoch)
        parts, size = learner.draw(epoch, index, Ranks(device=device))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, min(step, total - 1), total)
        optimizer.zero_grad(set_to_none=True)
        pairs = 0
        for part in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss, _ = learner.losses(network, part.inputs)
            (loss.sum() / size).backward()
            known = part.inputs.get("values")
            pairs += part.count if known is None else int(known.isfinite().sum())
        torch.nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
        optimizer.step()
        step += 1
        yield pairs


def rate(steps: Iterator[int], seconds: float, warmup: int = 2) -> dict[str, float]:
    """Return pairs/s and steps of an iterator over pair counts."""
    for _ in range(warmup):
        next(steps)
    pairs = count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or count < 3:
        pairs += next(steps)
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    took = time.perf_counter() - start
    return {"pairs_a_second": pairs / took, "steps": count, "seconds": took}


def published_data(
    seed: int = 0, **changes: Any
) -> tuple[list[Trajectory], TrainConfig, TrainingData]:
    """Return synthetic curves of 66 tasks with random word losses for every checkpoint.

    `changes` are applied to the preset `paper`.
    """
    generator = np.random.default_rng(seed)
    at = np.arange(1, CHECKPOINTS + 1)
    tokens = at.astype(np.float64) * 1e9
    runs = [
        Trajectory(
            family="f",
            suite="s",
            run=f"r{run}",
            params=1e8,
            num_fewshot=0,
            task=f"t{task}",
            metric="acc",
            steps=at,
            tokens=tokens,
            flops=tokens * 6e8,
            values=(0.7 - 0.3 * at ** -generator.uniform(0.2, 0.6)).astype(np.float64),
            stderrs=np.full(CHECKPOINTS, np.nan),
            base_task=f"t{task}",
        )
        for run in range(RUNS)
        for task in range(TASKS)
    ]
    model = preset("paper", **changes)
    words = model.encoder.units
    assert words is not None
    losses = generator.exponential(4.0, (RUNS * CHECKPOINTS, words)).astype(np.float16)
    rows = [np.arange(CHECKPOINTS) + (i // TASKS) * CHECKPOINTS for i in range(len(runs))]
    config = TrainConfig(
        output="unused", model=model, optim=OptimConfig(batch_size=BATCH, epochs=100)
    )
    series = build_series(runs, gap_unit=model.gap_unit, losses=losses, loss_rows=rows)
    samples = enumerate_samples(series, config.max_ahead)
    empty = np.zeros(0, dtype=np.int64)
    none = Samples(trajectory=empty, end=empty, target=empty)
    data = TrainingData(
        series=series, train=samples, validation=none, model=model, runs={}, metrics=["acc"],
        corpus_hash="random", digest="",
    )  # fmt: skip
    return runs, config, data


def paper_part(seconds: float) -> dict[str, Any]:
    """Measure samples/s of the published network, from the straightforward loop to ours."""
    _, config, data = published_data()
    found: dict[str, Any] = {}
    with stage("paper preset", 5) as bar:
        torch.manual_seed(0)
        network = Network(data.model)
        found["straightforward"] = rate(straight_steps(network, data, config), seconds, 1)
        bar.advance()
        for name, group, bf16 in (
            ("ours, samples in random order", 1, False),
            ("ours, grouped by checkpoint", 16, False),
            ("ours, grouped, bf16", 16, True),
        ):
            learner = WindowLearner(data=data, config=replace(config, checkpoint_group=group))
            torch.manual_seed(0)
            network = Network(data.model)
            found[name] = rate(our_steps(network, learner, config.optim, bf16=bf16), seconds, 1)
            bar.advance()
        torch.manual_seed(0)
        network = Network(data.model)
        compiled = cast(torch.nn.Module, torch.compile(network, dynamic=True))
        learner = WindowLearner(data=data, config=config)
        found["ours, grouped, compiled"] = rate(
            our_steps(compiled, learner, config.optim), seconds, 6
        )
        bar.advance()
    return found


def equal_config() -> TrainConfig:
    """Return the published design at the width, depth and batch of our forecaster."""
    return TrainConfig(
        output="unused",
        model=preset("paper", **EQUAL, encoder={"kind": "none", "units": None}),
        optim=OptimConfig(learning_rate=2e-3, batch_size=128, epochs=1000, max_steps=100_000),
        max_ahead=None,
    )


def pairs_part(learn: list[Trajectory], seconds: float) -> dict[str, Any]:
    """Measure pairs/s on the public trajectories."""
    config = equal_config()
    data = prepare(config, learn, None)
    found: dict[str, Any] = {}
    with stage("pairs", 4) as bar:
        torch.manual_seed(0)
        found["straightforward"] = rate(straight_steps(Network(data.model), data, config), seconds)
        bar.advance()
        learner = WindowLearner(data=data, config=config)
        found["published design in our loop"] = rate(
            our_steps(Network(data.model), learner, config.optim), seconds
        )
        bar.advance()
        for targets in (6, 12, 48):
            fit = FitConfig(optim=CrossRunOptim())
            fit = replace(fit, sampling=replace(fit.sampling, targets=targets))
            own = CrossRunLearner(learn=learn, config=fit)
            torch.manual_seed(0)
            name = f"our forecaster, {targets} targets a question"
            found[name] = rate(our_steps(own.build(), own, fit.optim), seconds)
        bar.advance()
    return found


def judge_published(network: Network, test: list[Trajectory]) -> float:
    """Return the pinball loss on the dev runs, as `validate` does."""
    provenance = Provenance(
        identity="", training_runs={}, validation_runs=[], held_out_runs=[], metrics=[],
        corpus_hash=None, loss_names=[], selection="", evaluation={}, training={},
    )  # fmt: skip
    forecaster = NeuralForecaster(network=network.eval(), provenance=provenance)
    queries, truths = make_queries(test, Anchored(fraction=0.2), None)
    shared = common_levels(forecaster.levels)
    levels = np.array(forecaster.levels)[shared]
    losses = [
        pinball(answer[:, shared], truth.values, levels).mean()
        for answer, truth in zip(forecaster.predict(queries), truths, strict=True)
    ]
    network.train()
    return float(np.mean(losses))


def time_part(
    learn: list[Trajectory], references: list[Trajectory], test: list[Trajectory], budget: float
) -> dict[str, Any]:
    """Measure seconds of training (no evaluation) to the best loss of the straightforward loop."""
    config = equal_config()
    data = prepare(config, learn, None)
    measured = rate(straight_steps(Network(data.model), data, config), 10.0)
    steps_in_budget = round(budget * measured["steps"] / measured["seconds"])
    # The learning-rate schedule has to fit the budget.
    config = replace(config, optim=replace(config.optim, max_steps=steps_in_budget))
    torch.manual_seed(0)
    network = Network(data.model)
    straight: list[tuple[float, float]] = []
    steps = straight_steps(network, data, config)
    spent = 0.0
    with stage("straightforward, to its budget", budget) as bar:
        while spent < budget:
            start = time.perf_counter()
            while time.perf_counter() - start < budget / 8:
                next(steps)
            spent += time.perf_counter() - start
            straight.append((spent, judge_published(network, test)))
            bar.set(spent, message=f"pinball {straight[-1][1]:.5f}")
    best = min(loss for _, loss in straight)
    reached = next(seconds for seconds, loss in straight if loss == best)
    fit = FitConfig(optim=CrossRunOptim(max_steps=3000))
    learner = CrossRunLearner(learn=learn, config=fit)
    torch.manual_seed(0)
    own = learner.build()
    assert isinstance(own, CrossRunNetwork)
    ours: list[tuple[float, float, float]] = []
    steps, spent = our_steps(own, learner, fit.optim), 0.0
    with stage("ours, to the same loss", budget) as bar:
        while spent < budget:
            start = time.perf_counter()
            for _ in range(10):
                next(steps)
            spent += time.perf_counter() - start
            metrics = validate(own, test, references)
            own.train()
            ours.append((spent, metrics["pinball"], metrics["own_pinball"]))
            bar.set(spent, message=f"pinball {metrics['own_pinball']:.5f} alone")
            if metrics["own_pinball"] <= best and metrics["pinball"] <= best:
                break

    def first(place: int) -> float | None:
        return next((row[0] for row in ours if row[place] <= best), None)

    return {
        "budget": budget, "steps_in_budget": steps_in_budget,
        "best": best, "straightforward_seconds": reached,
        "straightforward": straight, "ours": ours,
        "ours_seconds": first(1), "ours_own_seconds": first(2),
    }  # fmt: skip


class Clock(UserCallback):
    """Record when the first worker reported which step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        del run_context, checkpoint
        with self.path.open("a") as file:
            print(metrics[0]["step"], time.monotonic(), file=file)


def on_workers(config: TrainConfig, learner: Learner, workers: int, every: int) -> float:
    """Return steps/s on Ray Train, without the first report."""
    loop = replace(config, checkpoint_steps=every)
    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=2):
        ray.train.torch.TorchTrainer(
            worker,
            train_loop_config={
                "config": loop,
                "learner": ray.put(learner),
                "output": Folder(folder),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 1}
            ),
            run_config=ray.train.RunConfig(
                storage_path=f"{folder}/ray", callbacks=[Clock(Path(folder, "clock"))]
            ),
        ).fit()
        rows = [line.split() for line in Path(folder, "clock").read_text().splitlines()]
    (first, start), (last, end) = rows[0], rows[-1]
    return (int(last) - int(first)) / (float(end) - float(start))


def workers_part(learn: list[Trajectory]) -> dict[str, Any]:
    """Measure steps/s of one and two workers for both designs."""
    _, config, data = published_data()
    paper = replace(config, optim=replace(config.optim, max_steps=30))
    fit = FitConfig(optim=CrossRunOptim(max_steps=150))
    own = TrainConfig(output="unused", cross_run=fit)
    found: dict[str, Any] = {}
    with stage("workers", 4) as bar:
        for name, settings, learner, every in (
            ("paper preset", paper, WindowLearner(data=data, config=paper), 10),
            ("our forecaster", own, CrossRunLearner(learn=learn, config=fit), 50),
        ):
            for workers in (1, 2):
                found[f"{name}, {workers}"] = on_workers(settings, learner, workers, every)
                bar.advance()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the public trajectories")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each rate")
    parser.add_argument("--budget", type=float, default=240.0, help="of the straightforward loop")
    parser.add_argument("--parts", default="paper,pairs,time,workers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("docs/results/training.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data: Path = arguments.data
    observed = load_dataset(
        data / "accuracies.parquet", losses=data / "losses.parquet", tasks=data / "tasks.csv"
    )
    dev = SPLITS["dev"].apply(observed.trajectories)
    record: dict[str, Any] = {}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text(encoding="utf-8"))
    record |= {
        "threads": arguments.threads, "torch": torch.__version__,
        "python": platform.python_version(), "cpus": os.cpu_count(),
        "equal": EQUAL, "batch": BATCH, "words": WORDS, "data_digest": observed.digest,
    }  # fmt: skip
    test = dev.test[::JUDGED]  # evaluating all of them would take longer than training
    parts = {
        "paper": lambda: paper_part(arguments.seconds),
        "pairs": lambda: pairs_part(dev.learn, arguments.seconds),
        "time": lambda: time_part(dev.learn, dev.references, test, arguments.budget),
        "workers": lambda: workers_part(dev.learn),
    }
    for name in arguments.parts.split(","):
        record[name] = parts[name]()
        write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
