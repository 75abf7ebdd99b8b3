"""The whole extraction under Ray with the transformers engine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoints import (
    VOCAB_SIZE,
    WINDOW,
    change_config,
    extract_config,
    rewrite_weights,
    save_checkpoint,
    save_two_runs,
    truncate,
)

from neuneu.core.config import save_config
from neuneu.core.errors import StoreError, UserError
from neuneu.core.ray_session import ray_session
from neuneu.data.checkpoints import list_local
from neuneu.data.store.recomputation import recompute
from neuneu.data.store.store import Store
from neuneu.scoring import pipeline
from neuneu.scoring.engines.engine import read_tokenizer, scheduled_tokens
from neuneu.scoring.engines.packing import packed_tokens
from neuneu.scoring.evaluation import make_workload
from neuneu.scoring.pipeline import extract
from neuneu.scoring.plan import extraction_status
from neuneu.scoring.wanted import load_wanted

pytest.importorskip("transformers")
pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save_two_runs(tmp_path)


def test_extract_scores_all_and_a_rerun_starts_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = extract_config(root)
    summary = extract(config)
    assert (summary.listed, summary.done, summary.quarantined) == (4, 4, 0)
    assert (summary.actors, summary.architectures, summary.engines_started) == (1, 2, 2)
    assert summary.swaps == 2
    assert summary.tokens > 4 * 400
    store = Store(config.store)
    # 2 tasks x 3 accuracies and 4 continuous metrics, and 3 corpus metrics a checkpoint.
    assert store.accuracies().num_rows == 24
    assert store.losses().num_rows == 4 * (2 * 4 + 3)
    assert store.token_losses().column("count").to_pylist() == [400] * 4
    assert store.tasks().num_rows == 6
    losses = store.losses().to_pylist()
    # Random weights: near the loss of a uniform guess, and another for every checkpoint.
    means = [row["value"] for row in losses if row["metric"] == "cross_entropy_loss"]
    assert len(set(means)) == 4
    assert all(4 < mean < 9 for mean in means), VOCAB_SIZE

    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("a finished extraction reached the engines")

    monkeypatch.setattr(pipeline, "fan_out", unreachable)
    monkeypatch.setattr(pipeline, "group", unreachable)
    again = extract(config)
    assert (again.skipped_done, again.done, again.engines_started) == (4, 0, 0)
    history = json.loads((root / "store" / "extraction.json").read_text())
    assert [entry["done"] for entry in history] == [4, 0]
    assert history[0]["config"]["engine"]["kind"] == "packed"
    assert history[0]["config"]["engine"]["dtype"] == "float32"
    assert history[0]["proofs"] == {"all weights copied": 4}


def test_extract_a_further_task_scores_only_that_task(root: Path) -> None:
    pairs = root / "pairs.parquet"
    first = extract(extract_config(root, tasks=(f"blimp/blimp_first:{pairs}",)))
    store = Store(root / "store")
    before = store.accuracies().to_pylist()
    both = extract_config(root)
    assert extraction_status(both).left == 4
    second = extract(both)
    assert (second.done, second.skipped_done, second.done_elsewhere) == (4, 0, 0)
    wanted = load_wanted(both)
    tokenizer = read_tokenizer(root / "checkpoints/a/step-1")
    only = wanted.only([part for part in wanted.parts if part.name == "blimp_second"])
    workload = make_workload(only, tokenizer, max_tokens=WINDOW - 1)
    assert second.tokens == 4 * workload.n_tokens
    batch_tokens = scheduled_tokens(both.engine, gpu=False)
    assert second.computed_tokens == 4 * packed_tokens(workload.prompts, batch_tokens=batch_tokens)
    assert first.computed_tokens > second.computed_tokens
    after = store.accuracies().to_pylist()
    assert [row for row in after if row["task"] == "blimp_first"] == before
    assert store.checkpoints().column("attempts").to_pylist() == [2] * 4
    assert recompute(store).differing == 0
    assert extract(both).skipped_done == 4


def test_extract_bad_checkpoints_are_quarantined_and_can_be_retried(root: Path) -> None:
    import torch

    config = extract_config(root, actors=2)
    truncate(root / "checkpoints/a/step-1")
    nan = torch.full((64,), float("nan"))
    rewrite_weights(root / "checkpoints/b/step-2", {"model.norm.weight": nan})
    summary = extract(config)
    assert (summary.done, summary.quarantined, summary.actors) == (2, 2, 2)
    assert "truncated" in summary.errors["tiny/a step 1"]
    assert "'model.norm.weight' holds NaN" in summary.errors["tiny/b step 2"]
    rows = {(r["run"], r["step"]): r for r in Store(config.store).checkpoints().to_pylist()}
    assert rows["a", 1]["status"] == "quarantined"
    assert rows["b", 2]["config_hash"] == rows["b", 1]["config_hash"]

    assert extract(config).skipped_quarantined == 2
    rewrite_weights(root / "checkpoints/b/step-2", {"model.norm.weight": torch.ones(64)})
    retried = extract(extract_config(root, retry_quarantined=True))
    assert (retried.skipped_done, retried.done, retried.quarantined) == (2, 1, 1)
    rows = {(r["run"], r["step"]): r for r in Store(config.store).checkpoints().to_pylist()}
    assert (rows["a", 1]["attempts"], rows["b", 2]["status"]) == (2, "done")


def test_extract_malformed_checkpoints_cost_themselves_only(root: Path) -> None:
    folders = [
        save_checkpoint(root / "checkpoints", run="a", step=step, tied=True) for step in range(3, 9)
    ]
    change_config(folders[0], vocab_size="abc")
    change_config(folders[1], pad_token_id=10**9)
    (folders[2] / "tokenizer.json").write_text("[]")
    tokenizer = json.loads((folders[3] / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["no such", "pair"]]
    (folders[3] / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = folders[4] / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"data_offsets":[', b'"data_offsets":{', 1))
    (folders[5] / "model.safetensors").unlink()
    os.mkfifo(folders[5] / "model.safetensors")
    summary = extract(extract_config(root))
    assert (summary.done, summary.quarantined, summary.left) == (4, 6, 0)
    steps = sorted(int(key.rpartition(" ")[2]) for key in summary.errors)
    assert steps == [3, 4, 5, 6, 7, 8]
    status = Store(root / "store").status()
    assert sorted(status.values()) == ["done"] * 4 + ["quarantined"] * 6


def test_extract_hanging_checkpoint_is_stopped_and_quarantined(root: Path) -> None:
    # No engine starts within 10 ms: the process is ended, and ended again, then given up.
    for run in ("b",):
        for step in (1, 2):
            (root / f"checkpoints/{run}/step-{step}/neuneu.json").unlink()
    (root / "checkpoints/a/step-2/neuneu.json").unlink()
    summary = extract(extract_config(root, checkpoint_timeout_s=0.01))
    assert (summary.listed, summary.quarantined) == (1, 1)
    assert "longer than the limit of 0.01 s" in summary.errors["tiny/a step 1"]


def test_extract_stops_when_more_fail_than_may(root: Path) -> None:
    for step in range(3, 9):
        save_checkpoint(root / "checkpoints", run="a", step=step, tied=True)
    for step in (1, 2, 3, 4):
        truncate(root / f"checkpoints/a/step-{step}")
    summary = extract(extract_config(root, max_failures=1))
    assert summary.quarantined >= 2
    assert summary.left >= 1
    assert summary.stopped is not None
    assert "max_failures is 1" in summary.stopped
    status = extraction_status(extract_config(root))
    assert status.done + status.quarantined + status.left == 10
    assert sum(status.reasons.values()) == status.quarantined
    # Without the limit the rest is scored.
    rest = extract(extract_config(root, max_failures=None))
    assert (rest.left, rest.stopped) == (0, None)
    assert sum(value == "done" for value in Store(root / "store").status().values()) == 6


def test_extract_configs_that_cannot_be_used_do_not_count_as_failures(root: Path) -> None:
    for step in (3, 4, 5):
        folder = save_checkpoint(root / "checkpoints", run="a", step=step, tied=True)
        (folder / "config.json").write_text("{")
    for settings in ({"max_failures": None}, {"max_failures": 0, "store": root / "other"}):
        summary = extract(extract_config(root, **settings))
        assert (summary.done, summary.quarantined, summary.stopped) == (4, 3, None)


def test_extract_killed_driver_loses_only_what_was_in_flight(root: Path) -> None:
    import ray

    for step in range(3, 9):
        save_checkpoint(root / "checkpoints", run="a", step=step, tied=True)
    config = extract_config(root)
    save_config(config, root / "extract.yaml")
    script = Path(__file__).parents[2] / "jobs/extract.py"
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, script, "--config", root / "extract.yaml", "--address", address]
    )
    deadline = time.monotonic() + 120
    while not list(root.glob("store/units/*/*/*.parquet")):
        assert driver.poll() is None, "the driver ended before it committed anything"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    resumed = extract(config)
    assert resumed.skipped_done >= 1
    assert resumed.done == 10 - resumed.skipped_done
    assert resumed.done >= 1, "the driver was not killed in time to leave work"
    assert resumed.quarantined == 0
    assert Store(config.store).accuracies().num_rows == 10 * 6


def test_extract_other_setting_is_refused_before_scoring(root: Path) -> None:
    Store(root / "store").bind({"max_model_len": 100})
    with pytest.raises(StoreError, match="max_model_len: store has 100, this run 128"):
        extract(extract_config(root))


def test_extract_more_than_the_cluster_has_is_a_user_error(root: Path) -> None:
    with pytest.raises(UserError, match="expected 64 CPUs"):
        extract(extract_config(root, cpus_per_actor=64))
    assert Store(root / "store").status() == {}
    assert len(list_local(root / "checkpoints")) == 4
