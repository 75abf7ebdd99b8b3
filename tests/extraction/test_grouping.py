"""Which checkpoints may share an engine, from their configs."""

import json
from pathlib import Path

import pytest
from tiny_checkpoints import change_config, copy_of, make_ref, save_models

from neuneu.extraction.grouping import group
from neuneu.extraction.preflight import inspect

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


def test_group_other_config_in_a_run_is_failed_by_majority(models: Path, tmp_path: Path) -> None:
    odd = copy_of(models / "untied", tmp_path / "odd")
    change_config(odd, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    refs = [
        make_ref(odd, step=1),
        make_ref(models / "untied", step=2),
        make_ref(models / "later", step=3),
        make_ref(odd, run="b", step=1),
    ]
    result = group(refs)
    assert sorted(item.ref.key for item in result.pending) == [
        ("tiny", "a", 2),
        ("tiny", "a", 3),
        ("tiny", "b", 1),
    ]
    ((ref, error),) = result.failed
    assert ref.key == ("tiny", "a", 1)
    assert "config.json differs from that of the run's other checkpoints" in error


def test_group_tie_goes_to_the_earliest_and_known_ones_vote(models: Path, tmp_path: Path) -> None:
    odd = copy_of(models / "untied", tmp_path / "odd")
    change_config(odd, rms_norm_eps=1e-3)
    refs = [make_ref(models / "untied", step=1), make_ref(odd, step=2)]
    assert [item.ref.step for item in group(refs).pending] == [1]
    odd_hash = inspect(make_ref(odd)).config_hash
    result = group(refs, known={("tiny", "a"): [odd_hash]})
    assert [item.ref.step for item in result.pending] == [2]


def test_group_one_bad_checkpoint_does_not_stop_the_others(models: Path) -> None:
    refs = [make_ref(models / "untied", step=1), make_ref(models / "nowhere", step=2)]
    result = group(refs)
    assert [item.ref.step for item in result.pending] == [1]
    assert [(ref.step, "config.json" in error) for ref, error in result.failed] == [(2, True)]


def test_group_knows_what_a_token_takes_of_the_cache(models: Path, tmp_path: Path) -> None:
    grouped = copy_of(models / "untied", tmp_path / "grouped")
    content = json.loads((grouped / "config.json").read_text())
    layers, heads = content["num_hidden_layers"], content["num_attention_heads"]
    change_config(grouped, num_key_value_heads=1, head_dim=24)
    refs = [make_ref(models / "untied", run="a"), make_ref(grouped, run="b")]
    found = {item.ref.run: item.cache_values for item in group(refs).pending}
    size = content.get("head_dim") or content["hidden_size"] // heads
    assert found == {"a": 2 * layers * content["num_key_value_heads"] * size, "b": 2 * layers * 24}
