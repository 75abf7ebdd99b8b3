"""The demo: its split, its sections, and that interruptions change nothing."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from neuneu.cli.demo import DemoConfig, resolve_stages, split_runs
from neuneu.core.config import load_config
from neuneu.core.errors import UserError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.store import Store

ROOT = Path(__file__).parents[2]


def ref(run: str, params: float) -> CheckpointRef:
    return CheckpointRef(
        family="f", suite="s", run=run, params=params, step=1, tokens=1.0, flops=1.0,
        planned_tokens=None, uri="x",
    )  # fmt: skip


LADDER = [
    ref(f"{size}-{recipe}", n) for size, n in (("s", 1), ("m", 2), ("l", 3)) for recipe in "ab"
]


def test_split_runs_default_holds_out_a_largest_and_watches_the_next_size() -> None:
    assert split_runs(DemoConfig(), LADDER) == (("l-b",), ("m-a",))


def test_split_runs_named_runs_are_taken() -> None:
    config = DemoConfig(held_out_runs=("s-a",), validation_runs=("s-b",))
    assert split_runs(config, LADDER) == (("s-a",), ("s-b",))


def test_split_runs_unknown_or_double_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"\['z'\] are not in the ladder"):
        split_runs(DemoConfig(held_out_runs=("z",)), LADDER)
    with pytest.raises(UserError, match=r"\['s-a'\] are both"):
        split_runs(DemoConfig(held_out_runs=("s-a",), validation_runs=("s-a",)), LADDER)


@pytest.mark.parametrize("name", ["demo-ci.yaml", "demo-english.yaml"])
def test_example_configs_resolve(name: str) -> None:
    stages = resolve_stages(load_config(DemoConfig, ROOT / "jobs" / "configs" / name))
    assert stages.extract.store == str(stages.train(("a",), ("b",)).store)
    assert len({size.tied_embeddings for size in stages.suite.sizes.values()}) == 2


def test_nested_settings_keep_the_other_defaults_of_their_section() -> None:
    config = DemoConfig(train={"optim": {"epochs": 2}, "model": {"width": 32}})
    train = resolve_stages(config).train(("a",), ())
    assert (train.optim.epochs, train.optim.batch_size) == (2, 64)
    assert (train.model.width, train.model.encoder.kind) == (32, "histogram")


def _interrupt(command: list[str], when: Callable[[], bool], how: signal.Signals) -> None:
    """Starts the demo and signals it as soon as `when` holds."""
    demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not when():
            assert demo.poll() is None, f"ended too early: {demo.communicate()[1].decode()}"
            time.sleep(0.02)
        demo.send_signal(how)
        assert demo.wait(120) in {-how, 130}
    finally:
        demo.kill()
        demo.wait()


def _complete(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_demo_interrupted_in_every_stage_gives_the_tables_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    # The scorer here is plain transformers: the same pipeline, and it starts in a moment.
    # tests/vllm kills and resumes an extraction on the real engine.
    config = yaml.safe_load((ROOT / "jobs" / "configs" / "demo-ci.yaml").read_text())
    for size in config["suite"]["sizes"].values():
        size["tokens"] = 40_000
    config["extract"] |= {"engine": {"kind": "packed"}, "limit": 8, "corpus_words": 300}
    config["backtest"] = {"figures": False}
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(config))

    def command(output: Path) -> list[str]:
        settings = ["--config", str(tmp_path / "demo.yaml"), "--output", str(output)]
        return [sys.executable, "-m", "neuneu.cli.app", "demo", *settings]

    plain, broken = tmp_path / "plain", tmp_path / "broken"
    _complete(command(plain))

    checkpoints = broken / "suite" / "checkpoints"
    units = broken / "store" / "units"
    _interrupt(command(broken), lambda: len(list(checkpoints.glob("*/*"))) >= 3, signal.SIGKILL)
    _interrupt(command(broken), lambda: len(list(checkpoints.glob("*/*"))) >= 9, signal.SIGINT)
    saved = {path: path.stat().st_mtime_ns for path in checkpoints.glob("*/*/*")}
    _interrupt(command(broken), lambda: len(list(units.glob("*/*/*.parquet"))) >= 2, signal.SIGKILL)
    _interrupt(command(broken), lambda: len(list(units.glob("*/*/*.parquet"))) >= 6, signal.SIGINT)
    scored = {path: path.stat().st_mtime_ns for path in units.glob("*/*/*.parquet")}
    assert scored
    _interrupt(command(broken), (broken / "forecaster" / "identity.txt").exists, signal.SIGKILL)
    _interrupt(command(broken), (broken / "forecaster" / "config.json").exists, signal.SIGKILL)
    _complete(command(broken))

    for path, modified in (saved | scored).items():
        assert path.stat().st_mtime_ns == modified, f"{path} was done again"
    for table in ("accuracies", "losses", "token_losses"):
        assert getattr(Store(plain / "store"), table)() == getattr(Store(broken / "store"), table)()
    one, other = (pq.read_table(root / "forecasts.parquet") for root in (plain, broken))
    assert one == other
    assert one.num_rows > 0
    assert (broken / "summary.json").exists()
