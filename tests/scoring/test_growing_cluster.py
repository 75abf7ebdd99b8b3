"""What is asked of a cluster that has no node yet, and of one that will never have more."""

from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import extract_config, save_two_runs

from neuneu.core.errors import UserError
from neuneu.scoring import pipeline
from neuneu.scoring.pipeline import extract

pytest.importorskip("transformers")
ray = pytest.importorskip("ray")

ADDRESS = "ray://cluster:10001"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the workers were asked for, on a cluster that has nothing; nothing is scored."""
    calls: list[dict[str, Any]] = []

    def fan_out(items: Any, config: Any, **settings: Any) -> list[Any]:
        calls.append({"threads": config.cpus_per_actor, "dtype": config.engine.dtype, **settings})
        raise UserError("asked for enough.")

    monkeypatch.setattr(pipeline, "fan_out", fan_out)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}}])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def test_a_cluster_at_zero_is_asked_for_the_actors_of_the_config(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = extract_config(save_two_runs(tmp_path), actors=3, cpus_per_actor=2, gpus_per_actor=1)
    with pytest.raises(UserError, match="asked for enough"):
        extract(config, address=ADDRESS)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # as `ray job submit` starts jobs
    with pytest.raises(UserError, match="asked for enough"):
        extract(config)
    wanted = {"actors": 3, "gpus": 1.0, "threads": 2, "dtype": "bfloat16"}
    assert [{key: call[key] for key in wanted} for call in asked] == [wanted, wanted]


def test_a_cluster_at_zero_is_planned_from_its_autoscalers_config(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.state import GlobalState

    root = save_two_runs(tmp_path)
    most: dict[str, int] | None = {"CPU": 64, "GPU": 8}
    monkeypatch.setattr(GlobalState, "get_max_resources_from_cluster_config", lambda _: most)
    with pytest.raises(UserError, match="asked for enough"):
        extract(extract_config(root, actors=3), address=ADDRESS)
    # The tiny models share a GPU, eight of them; nothing is alive.
    assert [(call["gpus"], call["dtype"]) for call in asked] == [(0.125, "bfloat16")]
    for nothing in ({"CPU": 64}, None):
        most = nothing
        with pytest.raises(UserError, match="asked for enough"):
            extract(extract_config(root, actors=3, store=root / "cpu"), address=ADDRESS)
    assert [(call["gpus"], call["dtype"]) for call in asked[1:]] == [(0.0, "float32")] * 2


def test_dtype_of_a_store_is_kept(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    root = save_two_runs(tmp_path)
    for gpus in (1, 0):
        with pytest.raises(UserError, match="asked for enough"):
            extract(extract_config(root, actors=3, gpus_per_actor=gpus), address=ADDRESS)
    assert [call["dtype"] for call in asked] == ["bfloat16", "bfloat16"]


def test_a_cluster_at_zero_cannot_be_measured(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    root = save_two_runs(tmp_path)
    with pytest.raises(UserError, match=r"0 CPUs and 0 GPUs; expected 1 CPUs.* set actors if"):
        extract(extract_config(root, actors=None), address=ADDRESS)
    assert asked == []


def test_this_machine_does_not_grow(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    config = extract_config(save_two_runs(tmp_path), actors=3, gpus_per_actor=1)
    with pytest.raises(UserError, match="nodes have 0 CPUs"):
        extract(config)
    assert asked == []
