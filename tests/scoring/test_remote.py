"""Extraction from a hub and from S3 into a store on S3, with faults on the way."""

from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from s3_server import S3Server
from tiny_checkpoints import extract_config, save_checkpoint, truncate, write_inputs

from neuneu.core.ray_session import ray_session
from neuneu.data.store.store import Store
from neuneu.scoring.pipeline import extract

pytest.importorskip("transformers")
pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

TABLES = ("accuracies", "losses", "token_losses")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three good checkpoints and a truncated one, on local disk."""
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path / "checkpoints", run="a", step=step, tied=True)
    truncate(tmp_path / "checkpoints/a/step-4")
    write_inputs(tmp_path)
    return tmp_path


def test_s3_to_s3_through_faults_gives_the_rows_of_local_disk(s3: S3Server, root: Path) -> None:
    local = root / "checkpoints"
    for path in sorted(local.rglob("*")):
        if path.is_file():
            s3.put(f"models/{path.relative_to(local).as_posix()}", path.read_bytes())
    store = f"s3://{s3.bucket}/runs/store"
    config = extract_config(
        root, checkpoints=f"s3://{s3.bucket}/models", store=store, staging=root / "staging"
    )
    with ray_session(num_cpus=2):
        reference = extract(extract_config(root))
        s3.cut_after(50_000, 2)
        s3.fail_for(5)
        summary = extract(config)
    assert (reference.done, reference.quarantined) == (3, 1)
    assert (summary.done, summary.quarantined, summary.left) == (3, 1, 0)
    assert summary.bytes_staged > 3 * 50_000
    found, expected = Store(store), Store(root / "store")
    assert found.status() == expected.status()
    for table in TABLES:
        assert getattr(found, table)() == getattr(expected, table)()
    assert not [path for path in (root / "staging").rglob("*") if path.suffix == ".safetensors"]


@pytest.mark.soak  # the client of the hub waits two minutes before it gives up
def test_hub_that_is_down_for_one_checkpoint_leaves_it_for_the_next_run(
    hub: HubServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # for the workers; the hub is on loopback
    commits = []
    for step in (1, 2):
        folder = root / f"checkpoints/a/step-{step}"
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        commits.append(hub.add("lab/tiny", f"step{step}", files))
    suite = {
        "source": "hub",
        "family": "tiny",
        "suite": "tiny",
        "location": "lab/tiny",
        "pattern": r"step(?P<step>\d+)",
        "run": "a",
        "params": 1e5,
        "tokens_per_step": 1000.0,
        "planned_tokens": 1e4,
    }
    (root / "suite.yaml").write_text(yaml.safe_dump(suite))
    config = extract_config(root, checkpoints=root / "suite.yaml", staging=root / "staging")
    with ray_session(num_cpus=2):
        hub.fail_with_503(10_000, f"{commits[1]}/model.safetensors")
        first = extract(config)
        hub.fail_with_503(0)
        second = extract(config)
    assert (first.done, first.quarantined, first.left) == (1, 0, 1)
    assert "503" in first.errors["tiny/a step 2"]
    assert (second.skipped_done, second.done, second.left) == (1, 1, 0)
    assert Store(root / "store").status() == {("tiny", "a", 1): "done", ("tiny", "a", 2): "done"}
