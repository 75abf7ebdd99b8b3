import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import (
    change_config,
    copy_of,
    make_ref,
    rewrite_weights,
    save_models,
    truncate,
)

from neuneu.core.errors import CheckpointError
from neuneu.scoring.checkpoints.preflight import inspect
from neuneu.scoring.checkpoints.weights import read_headers

pytest.importorskip("transformers")

QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def broken(models: Path, tmp_path: Path) -> Path:
    return copy_of(models / "untied", tmp_path / "broken")


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_inspect_good_checkpoint_describes_it(models: Path, name: str) -> None:
    found = inspect(make_ref(models / name))
    assert (found.architecture, found.vocab_size, found.max_positions) == (
        "LlamaForCausalLM",
        320,
        128,
    )
    assert all(
        re.fullmatch("[0-9a-f]{16}", value)
        for value in (found.config_hash, found.tokenizer_hash, found.weights_hash)
    )


def test_hashes_of_two_steps_differ_in_weights_only(models: Path) -> None:
    first, later = (inspect(make_ref(models / name)) for name in ("untied", "later"))
    assert first.config_hash == later.config_hash
    assert first.tokenizer_hash == later.tokenizer_hash
    assert first.weights_hash != later.weights_hash


def test_config_hash_ignores_provenance_and_saved_type(models: Path, broken: Path) -> None:
    change_config(broken, dtype="bfloat16", transformers_version="4.57", _name_or_path="x")
    expected = inspect(make_ref(models / "untied")).config_hash
    assert inspect(make_ref(broken)).config_hash == expected
    change_config(broken, rms_norm_eps=1e-5)
    assert inspect(make_ref(broken)).config_hash != expected


def test_tied_checkpoint_may_store_its_head_too(models: Path, tmp_path: Path) -> None:
    folder = copy_of(models / "tied", tmp_path / "tied")
    assert "lm_head.weight" not in read_headers(folder)
    rewrite_weights(folder, {"lm_head.weight": torch.zeros(320, 64)})
    assert inspect(make_ref(folder)).architecture == "LlamaForCausalLM"


def test_constants_of_old_checkpoints_are_not_tensors(broken: Path) -> None:
    rewrite_weights(broken, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    inspect(make_ref(broken))


def test_sharded_checkpoint_passes_and_a_lost_shard_fails(models: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    folder = copy_of(models / "untied", tmp_path / "sharded")
    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    inspect(make_ref(folder))
    min(folder.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="expected the weight files"):
        inspect(make_ref(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({QUERY: None}, rf"tensor '{QUERY}' is missing \(1 of 21 are\).*save the checkpoint again"),
        ({"model.extra.weight": torch.ones(2)}, "tensor 'model.extra.weight' is unknown"),
        ({QUERY: torch.ones(64, 32)}, rf"'{QUERY}' has shape \[64, 32\]; expected \[64, 64\]"),
        ({QUERY: torch.ones(64, 64, dtype=torch.int8)}, "is of type I8.*quantised"),
    ],
)
def test_inspect_wrong_tensor_is_refused(
    broken: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    rewrite_weights(broken, changes)
    with pytest.raises(CheckpointError, match=message):
        inspect(make_ref(broken))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"bits": 4}}, "quantised weights cannot be swapped"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, "code from the checkpoint, which is never run"),
        ({"is_encoder_decoder": True}, "expected a decoder"),
        ({"model_type": "no-such"}, "model_type 'no-such' is not an architecture"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "expected LlamaForCausalLM"),
        ({"vocab_size": 300}, "shape"),
        ({"num_hidden_layers": 3}, "tensor 'model.layers.2.* is missing"),
    ],
)
def test_inspect_wrong_config_is_refused(
    broken: Path, changes: dict[str, object], message: str
) -> None:
    change_config(broken, **changes)
    with pytest.raises(CheckpointError, match=message):
        inspect(make_ref(broken))


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def second_file(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "old.safetensors")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model.safetensors: truncated, damaged or not safetensors \(\d+ bytes: "),
        (cut_header, r"damaged or not safetensors \(.*header too (large|small)"),
        (empty_weights, r"damaged or not safetensors \(.*header too (large|small)"),
        (no_config, "expected config.json in .* found none"),
        (half_config, "config.json: cannot be read as JSON"),
        (no_weights, "found no weights"),
        (pickle_only, r"found pickled weights \(pytorch_model.bin\).*safe_serialization"),
        (second_file, r"expected the weight files \['model.safetensors'\]"),
        (no_tokenizer, "expected tokenizer.json"),
    ],
)
def test_inspect_damaged_files_are_refused(
    broken: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(broken)
    with pytest.raises(CheckpointError, match=message):
        inspect(make_ref(broken))


def test_inspect_tokenizer_larger_than_vocabulary_is_refused(broken: Path) -> None:
    path = broken / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zzz"] = 320
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="token id 320, the model a vocabulary of 320"):
        inspect(make_ref(broken))


def test_inspect_tokenizer_with_code_of_its_own_is_refused(broken: Path) -> None:
    path = broken / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": "x"}}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: auto_map asks for code"):
        inspect(make_ref(broken))
