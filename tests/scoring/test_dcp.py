"""Distributed checkpoints (DCP): equal log-probabilities once staged, refusals in one line."""

import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from staging_cases import contents, ref_of, stager

pytest.importorskip("transformers")

from dcp_cases import (
    LAYOUTS,
    as_titan,
    save_dcp,
    save_from_rank,
    save_layout,
    save_safetensors,
    set_config,
    training_state,
)
from in_process import attempt
from test_packed_scorer import asked, make, plainly
from tiny_checkpoints import extract_config, make_ref, write_inputs

from neuneu.core.errors import CheckpointError
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import write_metadata
from neuneu.data.store.store import Store
from neuneu.scoring.checkpoints import dcp
from neuneu.scoring.checkpoints.dcp_layouts import to_half_split
from neuneu.scoring.checkpoints.dcp_metadata import Metadata
from neuneu.scoring.checkpoints.preflight import inspect

NATS = 1e-5


def staged_logprobs(root: Path, folder: Path) -> np.ndarray:
    with stager(root).stage(ref_of(folder)) as staged:
        assert staged.folder != folder
        assert not [path for path in staged.folder.iterdir() if "distcp" in path.name]
        inspect(ref_of(folder), staged.folder)
        return make(staged.folder).score(asked())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_staged_checkpoint_has_the_log_probabilities_of_transformers(
    layout: str, tmp_path: Path
) -> None:
    plain = save_layout(tmp_path / "c", layout)
    before = contents(tmp_path / "c")
    expected = plainly(plain, asked())
    assert expected.std() > 0.5
    np.testing.assert_allclose(staged_logprobs(tmp_path, tmp_path / "c"), expected, atol=NATS)
    assert contents(tmp_path / "c") == before


def test_one_on_local_disk_is_not_copied(tmp_path: Path) -> None:
    save_layout(tmp_path / "c", "OLMo-core")
    need = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    with stager(tmp_path, budget_bytes=need).stage(ref_of(tmp_path / "c")) as staged:
        assert staged.bytes_moved == 0
        assert not any(path.is_symlink() for path in staged.folder.iterdir())
        # Without the moment of the optimizer.
        assert 3 * (staged.folder / "model.safetensors").stat().st_size < 2 * need


def test_pieces_that_ranks_saved_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    save_safetensors(plain, "llama")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "c"
    torch.multiprocessing.spawn(save_from_rank, (2, port, str(folder), str(plain)), nprocs=2)
    assert {path.name for path in folder.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    for path in plain.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    pieces = Metadata((folder / ".metadata").read_bytes()).tensor("layers.0.attention.wq.weight")
    assert [chunk.sizes for chunk in pieces.chunks] == [(32, 16), (32, 16)]
    monkeypatch.setattr(dcp, "SHARD_BYTES", 20_000)  # several safetensors files
    found = staged_logprobs(tmp_path, folder)
    np.testing.assert_allclose(found, plainly(plain, asked()), atol=NATS)


def test_rotary_rows_interleaved_and_half_split_give_the_same_scores() -> None:
    heads, size, positions = 2, 8, 5
    q, k = torch.randn(2, heads * size, 16, dtype=torch.float64)
    x = torch.randn(positions, 16, dtype=torch.float64)
    frequency = 10_000.0 ** (-torch.arange(size // 2, dtype=torch.float64) * 2 / size)
    angle = torch.outer(torch.arange(positions, dtype=torch.float64), frequency)[:, None]
    turned = torch.polar(torch.ones_like(angle), angle)

    def interleaved(weight: torch.Tensor) -> torch.Tensor:
        pairs = (x @ weight.T).view(positions, heads, size // 2, 2)
        return torch.view_as_real(torch.view_as_complex(pairs) * turned).flatten(2)

    def half_split(weight: torch.Tensor) -> torch.Tensor:
        first, second = (x @ weight.T).view(positions, heads, 2, size // 2).unbind(2)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    config = {"num_attention_heads": heads, "hidden_size": heads * size}
    expected = torch.einsum("phd,qhd->hpq", interleaved(q), interleaved(k))
    new = [half_split(to_half_split("q_proj.weight", weight, config)) for weight in (q, k)]
    torch.testing.assert_close(torch.einsum("phd,qhd->hpq", *new), expected)
    old = torch.einsum("phd,qhd->hpq", half_split(q), half_split(k))
    assert not torch.allclose(old, expected)


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


class Calls:
    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.args


def truncate(folder: Path) -> None:
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:20_000])


def damage(folder: Path) -> None:
    path = folder / "__0_0.distcp"
    path.write_bytes(bytes(path.stat().st_size))


def harm(folder: Path) -> None:
    content = pickle.dumps(Harm(folder / "harmed"))
    (folder / ".metadata").write_bytes(content)


def harm_in_a_piece(folder: Path) -> None:
    content = (folder / "__0_0.distcp").read_bytes()
    payload = pickle.dumps(Harm(folder / "harmed"))
    (folder / "__0_0.distcp").write_bytes(payload.ljust(len(content), b"."))


def another_name(folder: Path) -> None:
    model = {
        "tok_embeddings.weight": torch.ones(4, 2),
        "layers.0.attention.wqkv.weight": torch.ones(6, 2),
    }
    save_dcp(folder, model)


def megatron(folder: Path) -> None:
    save_dcp(folder, {"decoder.layers.self_attention.linear_qkv.weight": torch.ones(4, 2)})


def two_models(folder: Path) -> None:
    model = {"tok_embeddings.weight": torch.ones(4, 2)}
    save_dcp(folder, {"model": model, "ema": model})


def whole_numbers(folder: Path) -> None:
    save_dcp(folder, {"tok_embeddings.weight": torch.ones(4, 2, dtype=torch.int8)})


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"__0_0\.distcp: truncated: expected at least .* found 20000; copy"),
    "damaged": (damage, r"__0_0\.distcp: tensor '\S+' cannot be read .*; copy or save it again"),
    "missing file": (
        lambda folder: (folder / "__0_0.distcp").rename(folder / "__1_0.distcp"),
        r"expected __0_0\.distcp in .*, found none",
    ),
    "unfinished": (
        lambda folder: (folder / ".metadata").unlink(),
        r"expected \.metadata beside __0_0\.distcp, found none: its saving has not ended",
    ),
    "half a metadata": (
        lambda folder: (folder / ".metadata").write_bytes(
            (folder / ".metadata").read_bytes()[:-700]
        ),
        r"\.metadata: expected the metadata of a torch distributed checkpoint, found",
    ),
    "no pickle": (
        lambda folder: (folder / ".metadata").write_bytes(b"{}"),
        r"\.metadata: expected the metadata of a torch distributed checkpoint, found",
    ),
    "payload": (harm, r"it asks for \S+, which is not metadata; save"),
    "payload in a piece": (harm_in_a_piece, r"__0_0\.distcp: tensor '\S+' cannot be read"),
    "other heads": (
        lambda folder: set_config(folder, num_attention_heads=8, head_dim=8),
        r"q_proj\.weight' has shape \[32, 32\]; expected 8 heads of 8 \(even\) rows by config",
    ),
    "other width": (
        lambda folder: set_config(folder, intermediate_size=64),
        r"tensor 'model\.layers\.0\.mlp\.down_proj\.weight' has shape \[32, 48\]; exp.*\[32, 64\]",
    ),
    "more layers": (
        lambda folder: set_config(folder, num_hidden_layers=3),
        r"tensor 'model\.layers\.2\.\S+' is missing",
    ),
    "another architecture": (
        lambda folder: set_config(folder, model_type="gemma", architectures=["GemmaForCausalLM"]),
        r"model_type = 'gemma'; expected one of \['llama', 'qwen3'\], whose names in torchtitan",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "expected config.json"),
    "unknown tensor": (another_name, r"tensor 'layers\.0\.attention\.wqkv\.weight' is unknown"),
    "unknown trainer": (megatron, r"no known embedding among its 1 tensors: expected one of"),
    "two models": (two_models, r"expected one model, found 2 \(ema\., model\.\)"),
    "quantised": (whole_numbers, r"'tok_embeddings\.weight' is of type int8; expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    save_layout(tmp_path / "c", "torchtitan llama")
    change, message = FAULTS[fault]
    change(tmp_path / "c")
    ref = ref_of(tmp_path / "c")
    with (
        pytest.raises(CheckpointError, match=message) as refused,
        stager(tmp_path).stage(ref) as staged,
    ):
        inspect(ref, staged.folder)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "c" / "harmed").exists()
    left = [path for path in (tmp_path / "staging").rglob("*") if path.name != ".lock"]
    assert left == []


@pytest.mark.parametrize(
    "payload",
    [
        Calls(eval, "1/0"),
        Calls(torch.load, "x"),
        Calls(torch.serialization.load, "x"),
        Calls(getattr, "text", "upper"),
        Calls(pickle.loads, b"N."),
    ],
)
def test_metadata_that_asks_for_anything_else_is_refused(payload: object) -> None:
    with pytest.raises(CheckpointError, match="which is not metadata") as refused:
        Metadata(pickle.dumps({"a": payload}))
    assert str(refused.value).startswith(".metadata: expected the metadata")


def metadata_with(folder: Path, **changes: object) -> bytes:
    """The metadata of a checkpoint whose places in files have other fields."""
    with (folder / ".metadata").open("rb") as file:
        found: Any = pickle.load(file)  # our own
    for place in found.storage_data.values():
        place.__dict__.update(changes)
    return pickle.dumps(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_path": "../secret"}, r"is in '\.\./secret'; expected a file such as __0_0"),
        ({"relative_path": "/etc/passwd"}, r"is in '/etc/passwd'; expected a file such as"),
        ({"offset": -1}, r"found \(-1, \d+\) in place of sizes"),
        ({"length": 60}, r"has 60 bytes; expected those of shape \[32\] in float32"),
        ({"length": 10**15}, r"found \(\d+, 10{15}\) in place of sizes"),
        ({"transform_descriptors": ["zstd"]}, "is compressed; expected plain tensors"),
    ],
)
def test_places_outside_of_the_files_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_layout(tmp_path / "c", "torchtitan llama")
    metadata = Metadata(metadata_with(tmp_path / "c", **changes))
    with pytest.raises(CheckpointError, match=message):
        metadata.tensor("norm.weight")


def test_damaged_metadata_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    save_dcp(tmp_path, {"model": {"a": torch.ones(4, 2)}, "step": 3})
    content = (tmp_path / ".metadata").read_bytes()
    messages = []
    for seed in range(2000):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 4)):
            # Opcodes of later protocols only: others may ask for gigabytes.
            damaged[place] = random.choice(list(b"\x80\x85\x8c\x93\x94\x95NRbehstu}(K\x00\x01ab"))
        try:
            metadata = Metadata(bytes(damaged))
            for name in metadata.names:
                metadata.tensor(name)
        except CheckpointError as error:
            messages.append(str(error))
    assert 1000 < len(messages) < 2000
    assert not [message for message in messages if "\n" in message]


def test_pieces_that_do_not_cover_a_tensor_are_refused(tmp_path: Path) -> None:
    save_layout(tmp_path / "c", "torchtitan llama")
    with (tmp_path / "c" / ".metadata").open("rb") as file:
        found: Any = pickle.load(file)  # our own
    found.state_dict_metadata["norm.weight"].size = torch.Size([33])
    with pytest.raises(CheckpointError, match=r"hold 32 values; expected those of shape \[33\]"):
        Metadata(pickle.dumps(found)).tensor("norm.weight")


def test_a_head_of_its_own_is_refused_where_the_config_ties_it(tmp_path: Path) -> None:
    save_layout(tmp_path / "c", "torchtitan llama")
    set_config(tmp_path / "c", tie_word_embeddings=True)
    with (
        pytest.raises(CheckpointError, match=r"'output\.weight' differs from the embedding"),
        stager(tmp_path).stage(ref_of(tmp_path / "c")),
    ):
        pass


def test_wrappers_in_names_are_left_out(tmp_path: Path) -> None:
    plain = save_layout(tmp_path / "c", "torchtitan llama")
    from safetensors.torch import load_file

    tensors = as_titan(load_file(plain / "model.safetensors"))
    wrapped = {
        f"_orig_mod.{name}".replace(".attention.", "._checkpoint_wrapped_module.attention."): t
        for name, t in tensors.items()
    }
    (tmp_path / "c" / "__0_0.distcp").unlink()
    (tmp_path / "c" / ".metadata").unlink()
    save_dcp(tmp_path / "c", training_state(wrapped, ("state_dict",)))
    found = staged_logprobs(tmp_path, tmp_path / "c")
    np.testing.assert_allclose(found, plainly(plain, asked()), atol=NATS)


def test_extraction_scores_them_and_quarantines_a_truncated_one(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / "a" / f"step-{step}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_layout(folder, "OLMo-core", seed=step)
        folder.with_name(f"step-{step}-plain").rename(tmp_path / f"plain-{step}")
        write_metadata(folder, make_ref(folder, step=step))
    truncate(folder)
    write_inputs(tmp_path)
    outcomes = attempt(extract_config(tmp_path))
    assert [outcome.status for outcome in outcomes] == ["done", "quarantined"]
    assert outcomes[0].proof == "all weights copied"
    assert outcomes[1].error.startswith("__0_0.distcp: truncated: expected at least")
    rows = Store(tmp_path / "store").checkpoints().to_pylist()
    assert [row["status"] for row in rows] == ["done", "quarantined"]
    assert not list((tmp_path / "staging").glob("*/*"))


@pytest.mark.parametrize("kind", ["s3", "hub"])
def test_they_are_staged_from_stores(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    plain = save_layout(tmp_path / "c", "torchtitan llama")
    files = contents(tmp_path / "c")
    if kind == "hub":
        ref = ref_of(
            "hf://org/m@step1", request.getfixturevalue("hub").add("org/m", "step1", files)
        )
    else:
        folder = Folder(f"s3://{request.getfixturevalue('s3').bucket}/c")
        for name, content in files.items():
            folder.write(name, content)
        ref = ref_of(str(folder))
    with stager(tmp_path).stage(ref) as staged:
        assert staged.bytes_moved == sum(map(len, files.values()))
        found = make(staged.folder).score(asked())
    np.testing.assert_allclose(found, plainly(plain, asked()), atol=NATS)
