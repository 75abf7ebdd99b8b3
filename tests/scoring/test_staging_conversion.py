"""Checkpoints that are converted while they are staged: pickled weights and the old OLMo format."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from staging_cases import contents, ref_of, stager
from test_hf_olmo import save_olmo
from tiny_checkpoints import save_model

from neuneu.core.errors import CheckpointError
from neuneu.scoring.checkpoints.hf_olmo import padding_bytes
from neuneu.scoring.checkpoints.preflight import inspect

pytest.importorskip("transformers")


def save_pickled(folder: Path, *, files: int) -> None:
    """A Llama with its weights pickled in place of safetensors."""
    from safetensors.torch import load_file

    save_model(folder, tied=False, seed=3)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "expected.safetensors")
    names = sorted(weights)
    for i in range(files):
        name = "pytorch_model.bin" if files == 1 else f"pytorch_model-{i + 1:05}-of-{files:05}.bin"
        torch.save({key: weights[key] for key in names[i::files]}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text("{}")


@pytest.mark.parametrize("files", [1, 2])
def test_pickled_weights_are_converted_when_allowed(tmp_path: Path, files: int) -> None:
    from safetensors.torch import load_file

    save_pickled(tmp_path / "c", files=files)
    ref = ref_of(tmp_path / "c")
    with pytest.raises(CheckpointError, match="set allow_pickle"), stager(tmp_path).stage(ref):
        pass
    with stager(tmp_path, allow_pickle=True).stage(ref) as staged:
        assert staged.folder != tmp_path / "c"
        assert not list(staged.folder.glob("*.bin*"))
        checked = inspect(ref, staged.folder)
        found = {}
        for path in staged.folder.glob("*.safetensors"):
            found |= load_file(path)
    assert checked.architecture == "LlamaForCausalLM"
    expected = load_file(tmp_path / "expected.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list((tmp_path / "c").glob("*.bin"))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch harmed",))


@pytest.mark.parametrize("harmful", [True, False])
def test_pickle_of_more_than_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmful: bool
) -> None:
    save_pickled(tmp_path / "c", files=1)
    path = tmp_path / "c" / "pytorch_model.bin"
    if harmful:
        path.write_bytes(pickle.dumps(Harmful()))
    else:
        path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(CheckpointError, match=r"pytorch_model.bin: not a plain file of tensors"),
        stager(tmp_path, allow_pickle=True).stage(ref_of(tmp_path / "c")),
    ):
        pass
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("kind", ["local", "hub"])
def test_old_olmo_checkpoint_is_converted(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    save_olmo(tmp_path / "c", files=2)
    size = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    ref = ref_of(tmp_path / "c")
    if kind == "hub":
        hub: HubServer = request.getfixturevalue("hub")
        ref = ref_of("hf://org/olmo@step1", hub.add("org/olmo", "step1", contents(tmp_path / "c")))
    need = 2 * size + padding_bytes(json.loads((tmp_path / "c" / "config.json").read_text()))
    assert need > 2 * size
    with stager(tmp_path, budget_bytes=need).stage(ref) as staged:
        assert staged.bytes_moved == size
        assert json.loads((staged.folder / "config.json").read_text())["model_type"] == "llama"
        assert inspect(ref, staged.folder).architecture == "LlamaForCausalLM"
        assert size + sum(path.stat().st_size for path in staged.folder.iterdir()) <= need
    with (
        pytest.raises(CheckpointError, match="staging space"),
        stager(tmp_path, budget_bytes=need - 1).stage(ref),
    ):
        pass


def test_old_olmo_checkpoint_that_is_no_llama_is_refused_before_it_is_copied(
    hub: HubServer, tmp_path: Path
) -> None:
    save_olmo(tmp_path / "c", clip_qkv=8.0)
    ref = ref_of("hf://org/olmo@step1", hub.add("org/olmo", "step1", contents(tmp_path / "c")))
    with pytest.raises(CheckpointError, match=r"clip_qkv = 8\.0"), stager(tmp_path).stage(ref):
        pass
    assert hub.count("GET", "safetensors") == 0


def test_converted_leftover_is_made_anew(tmp_path: Path) -> None:
    save_olmo(tmp_path / "c")
    ref = ref_of(tmp_path / "c")
    with stager(tmp_path).stage(ref) as staged:
        entry = staged.folder.parent
        shutil.copytree(entry, tmp_path / "copy")
        expected = contents(staged.folder)
    (tmp_path / "copy").rename(entry)
    (entry / "whole" / "model.safetensors").write_bytes(b"old")
    with stager(tmp_path).stage(ref) as staged:
        assert contents(staged.folder) == expected
