import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from filelock import FileLock

from neuneu.core.config import build_config, load_config
from neuneu.core.errors import NeuneuError, UserError
from neuneu.core.ray_session import ray_session
from neuneu.data.checkpoints import list_local
from neuneu.ladder.config import SuiteConfig
from neuneu.ladder.folders import SuiteFolder
from neuneu.ladder.ladder import train_suite
from neuneu.ladder.runs import balanced_shares, plan_runs
from neuneu.ladder.trainer import RunTrainer

from .conftest import weight_hashes

ROOT = Path(__file__).parents[2]


def test_default_config_is_the_example() -> None:
    assert load_config(SuiteConfig, ROOT / "jobs/configs/suite.yaml") == SuiteConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": {"a": {"width": 30, "layers": 1, "heads": 4, "tokens": 9}}}, "multiple of 2 x"),
        (
            {"sizes": {"a": {"width": 32, "layers": 1, "heads": 2, "tokens": 9}}},
            "1 training steps cannot hold 14 checkpoints",
        ),
        ({"context_length": 300}, "expected a multiple of context_length 300"),
        ({"early_checkpoints": 14}, "early_checkpoints: expected 0 to"),
        ({"sizes": {}}, "sizes"),
        ({"vocab_siz": 3}, "did you mean 'vocab_size'"),
    ],
)
def test_config_that_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(SuiteConfig, change)


def test_plans_are_sizes_times_recipes_times_seeds(tmp_path: Path) -> None:
    config = build_config(SuiteConfig, {"seeds": [0, 1]})
    plans = plan_runs(config, ["code", "prose"], SuiteFolder(tmp_path))
    assert len({plan.name for plan in plans}) == 3 * 2 * 2
    assert plans[0].name == "xs-code-s0"


def test_shares_hold_every_run_once_and_are_balanced(tmp_path: Path) -> None:
    plans = plan_runs(SuiteConfig(), ["code", "prose"], SuiteFolder(tmp_path))
    shares = balanced_shares(plans, 2)
    assert sorted(plan.name for share in shares for plan in share) == sorted(
        plan.name for plan in plans
    )
    costs = [sum(plan.cost_flops for plan in share) for share in shares]
    assert costs[0] == pytest.approx(costs[1])


def test_folder_in_use_is_refused(tiny_suite: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(SuiteConfig, tiny_suite | {"output": str(tmp_path / "out")})
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out/.lock"),
        pytest.raises(UserError, match="another process is making a suite here"),
    ):
        train_suite(config)


def _undisturbed_hashes(config: SuiteConfig, folder: SuiteFolder, root: Path) -> dict[str, str]:
    """The weights of a plain loop without Ray, on the text and tokens of a trained suite."""
    root.mkdir()
    for name in ("text", "tokenizer", "train/tokens"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(folder.root / name)
    for plan in plan_runs(config, ["all"], SuiteFolder(root)):
        RunTrainer(plan, torch.device("cpu")).train()
    return weight_hashes(root / "checkpoints")


@contextlib.contextmanager
def _driver(config_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The job in a process of its own."""
    driver = subprocess.Popen(
        [sys.executable, ROOT / "jobs/suite.py", "--config", config_path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def _wait_for(path: Path, driver: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert driver.poll() is None, driver.communicate()[1].decode()
        time.sleep(0.01)


def _training_workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(driver.pid).children(recursive=True)
        if any("RayTrainWorker" in part for part in process.cmdline())
    ]


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("one_thread")
def test_suite_survives_the_death_of_driver_and_worker_bit_for_bit(
    tiny_suite: dict[str, Any], tmp_path: Path
) -> None:
    for size in tiny_suite["sizes"].values():
        size["tokens"] = 200_000
    raw = tiny_suite | {"output": str(tmp_path / "out")}
    config_path = tmp_path / "suite.yaml"
    config_path.write_text(yaml.safe_dump(raw))
    config = build_config(SuiteConfig, raw)
    folder = SuiteFolder(tmp_path / "out")
    # The dearer run comes first.
    second, first = plan_runs(config, ["all"], folder)

    with _driver(config_path) as driver:
        _wait_for(first.checkpoint(first.checkpoint_steps[2]), driver)
        orphans = _training_workers(driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert orphans
    assert psutil.wait_procs(orphans, timeout=180)[1] == []
    before = {path: path.stat().st_mtime_ns for path in folder.root.glob("checkpoints/*/*/*")}
    assert before
    assert not second.finished

    with _driver(config_path) as driver:
        _wait_for(second.checkpoint(second.checkpoint_steps[2]), driver)
        (worker,) = _training_workers(driver)
        worker.kill()
        stderr = driver.communicate()[1].decode()
        assert driver.returncode == 0, stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert weight_hashes(folder.checkpoints) == _undisturbed_hashes(
        config, folder, tmp_path / "plain"
    )
    assert len(list_local(folder.checkpoints)) == 2 * 6

    rows = np.genfromtxt(
        folder.training_losses, delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    for plan in (first, second):
        losses = rows["loss_nats"][rows["run"] == plan.name]
        assert len(losses) == plan.size.total_steps
        assert losses[-20:].mean() < losses[:5].mean() - 1


@pytest.mark.slow
@pytest.mark.ray
def test_suite_with_a_failing_run_finishes_the_others_then_grows_and_needs_no_ray(
    tiny_suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = tiny_suite["sizes"]
    sizes["wild"] = sizes["tied"] | {"lr": 1e30}
    raw = tiny_suite | {"output": str(tmp_path / "out")}
    with ray_session(num_cpus=2):
        with pytest.raises(NeuneuError, match=r"1 of 3 runs failed: run wild-all-s0: .* lower"):
            train_suite(build_config(SuiteConfig, raw))
        del sizes["wild"]
        raw["seeds"] = [0, 1]
        # Side by side: transformers' own save writes nothing on a rank other than 0.
        raw["resources"] = {"max_concurrent_runs": 2}
        refs = train_suite(build_config(SuiteConfig, raw))
    assert len(weight_hashes(tmp_path / "out" / "checkpoints")) == len(refs)
    trained = {ref.run for ref in refs if ref.tokens == ref.planned_tokens}
    assert trained == {f"{size}-all-s{seed}" for size in ("tied", "untied") for seed in (0, 1)}

    def no_ray(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished suite must not start Ray")

    monkeypatch.setattr("neuneu.core.ray_session.ray_session", no_ray)
    config = build_config(SuiteConfig, raw)
    assert train_suite(config) == refs
    with pytest.raises(UserError, match=r"suite of another config \(vocab_size was 300 and is 310"):
        train_suite(dataclasses.replace(config, vocab_size=310))
    sizes["tied"]["lr"] = 0.5
    with pytest.raises(UserError, match=r"run tied-all-s0: size was"):
        train_suite(build_config(SuiteConfig, raw))
