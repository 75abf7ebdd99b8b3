"""Which checkpoints may share an engine, from their configs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import HubServer
from test_hf_olmo import save_olmo
from tiny_checkpoints import change_config, copy_of, make_ref, save_models

from neuneu.core.errors import CheckpointError
from neuneu.scoring.checkpoints.grouping import Groups, group, with_tokenizers
from neuneu.scoring.checkpoints.hf_olmo import convert
from neuneu.scoring.checkpoints.preflight import check_tokenizer, inspect

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


def other_tokenizer(folder: Path) -> None:
    """The same tokens with other ids: the vocabulary in reverse."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    vocab = raw["model"]["vocab"]
    # The special token stays 0: it stands among the added ones, too.
    raw["model"]["vocab"] = {t: len(vocab) - i if i else 0 for t, i in vocab.items()}
    path.write_text(json.dumps(raw))


def hashes(groups: Groups) -> dict[tuple[str, int], str | None]:
    return {(item.ref.run, item.ref.step): item.tokenizer_hash for item in groups.pending}


def test_tokenizer_of_a_run_is_that_of_its_earliest_checkpoint(
    models: Path, tmp_path: Path
) -> None:
    odd = copy_of(models / "later", tmp_path / "odd")
    other_tokenizer(odd)
    refs = [
        make_ref(odd, run="a", step=20),
        make_ref(models / "untied", run="a", step=3),
        make_ref(odd, run="b", step=1),
        make_ref(models / "untied", run="b", step=2),
    ]
    usual, other = (inspect(make_ref(folder)) for folder in (models / "untied", odd))
    found = hashes(with_tokenizers(group(refs)))
    assert usual.tokenizer_hash != other.tokenizer_hash
    assert found == {
        ("a", 3): usual.tokenizer_hash,
        ("a", 20): usual.tokenizer_hash,
        ("b", 1): other.tokenizer_hash,
        ("b", 2): other.tokenizer_hash,
    }
    check_tokenizer(usual, found["a", 20])
    check_tokenizer(other, None)
    with pytest.raises(
        CheckpointError,
        match=rf"\(hash {other.tokenizer_hash}, expected {usual.tokenizer_hash}\).*"
        r"mixed_tokenizers=\[a\]",
    ):
        check_tokenizer(other, found["a", 20])


def test_tokenizer_of_a_run_is_that_of_its_done_checkpoints(models: Path) -> None:
    groups = group([make_ref(models / "untied", run=run) for run in ("a", "b")])
    found = hashes(with_tokenizers(groups, known={("tiny", "a"): ["x", "y", "y"]}))
    assert found["a", 1] == "y"
    assert found["b", 1] == inspect(make_ref(models / "untied")).tokenizer_hash


@pytest.mark.parametrize("name", ["a", "tiny/a"])
def test_tokenizers_may_differ_in_a_run_that_is_named(models: Path, name: str) -> None:
    groups = group([make_ref(models / "untied", run=run) for run in ("a", "b")])
    found = hashes(with_tokenizers(groups, known={("tiny", "a"): ["x"]}, mixed=(name,)))
    assert found["a", 1] is None
    assert found["b", 1] is not None


@pytest.mark.parametrize("content", [None, b"[]", b'{"model": {"vocab": {"a": 320}}}'])
def test_unusable_tokenizer_does_not_speak_for_its_run(
    models: Path, tmp_path: Path, content: bytes | None
) -> None:
    """The first checkpoint of the run will be quarantined; the others must not be."""
    odd = copy_of(models / "untied", tmp_path / "odd")
    (odd / "tokenizer.json").unlink()
    if content is not None:
        (odd / "tokenizer.json").write_bytes(content)
    groups = with_tokenizers(group([make_ref(odd, step=1), make_ref(models / "untied", step=2)]))
    expected = inspect(make_ref(models / "untied")).tokenizer_hash
    assert hashes(groups) == {("a", 1): expected, ("a", 2): expected}
    alone = with_tokenizers(group([make_ref(odd, step=1)]))
    assert hashes(alone) == {("a", 1): None}


def test_source_that_does_not_answer_leaves_the_tokenizer_open(
    models: Path, hub: HubServer
) -> None:
    files = {path.name: path.read_bytes() for path in (models / "untied").iterdir()}
    revision = hub.add("org/m", "step1", files)
    ref = replace(make_ref(models), uri="hf://org/m@step1", revision=revision)
    groups = group([ref])
    expected = inspect(make_ref(models / "untied")).tokenizer_hash
    assert hashes(with_tokenizers(groups)) == {("a", 1): expected}
    hub.fail_with(408, 100)
    assert hashes(with_tokenizers(groups)) == {("a", 1): None}


def test_tokenizer_is_read_once_a_run(models: Path, hub: HubServer) -> None:
    files = {path.name: path.read_bytes() for path in (models / "untied").iterdir()}
    refs = []
    for step in (1, 2, 3):
        revision = hub.add("org/m", f"step{step}", files)
        uri = f"hf://org/m@step{step}"
        refs.append(replace(make_ref(models, step=step), uri=uri, revision=revision))
    with_tokenizers(group(refs))
    assert hub.count("GET", "tokenizer_config.json") == 1


@pytest.mark.parametrize("settings", [True, False])
def test_tokenizer_of_an_old_format_is_hashed_as_it_is_converted(
    tmp_path: Path, settings: bool
) -> None:
    save_olmo(tmp_path / "in")
    if not settings:
        (tmp_path / "in" / "tokenizer_config.json").unlink()
    (tmp_path / "in" / "merges.txt").write_text("no part of what is converted")
    (expected,) = hashes(with_tokenizers(group([make_ref(tmp_path / "in")]))).values()
    convert(tmp_path / "in", tmp_path / "out")
    assert inspect(make_ref(tmp_path / "out")).tokenizer_hash == expected
