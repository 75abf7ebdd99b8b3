"""Checkpoints that hold nonsense: each is refused with its reason, beside three that are not."""

import json
import os
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import WINDOW, change_config, copy_of, make_ref, save_models, write_inputs

from neuneu.core.errors import CheckpointError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.grouping import Groups, group
from neuneu.scoring.checkpoints.preflight import inspect
from neuneu.scoring.checkpoints.staging import Stager
from neuneu.scoring.corpus import load_corpus
from neuneu.scoring.engines.engine import EngineConfig
from neuneu.scoring.plan import Plan, make_plan
from neuneu.scoring.tasks import load_tasks
from neuneu.scoring.wanted import Wanted

pytest.importorskip("transformers")

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = save_models(tmp_path_factory.mktemp("models"))
    write_inputs(root)
    return root


@pytest.fixture
def broken(models: Path, tmp_path: Path) -> Path:
    return copy_of(models / "untied", tmp_path / "broken")


def config(**changes: object) -> Damage:
    return lambda folder: change_config(folder, **changes)


def text(name: str, content: str | bytes) -> Damage:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def edited(name: str, edit: Callable[[Any], object]) -> Damage:
    """JSON of a file, changed in place by `edit`."""

    def damage(folder: Path) -> None:
        raw = json.loads((folder / name).read_text())
        edit(raw)
        (folder / name).write_text(json.dumps(raw))

    return damage


def header(edit: Callable[[dict[str, Any]], object]) -> Damage:
    """The header of the weights, changed in place by `edit`."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        raw = json.loads(content[8 : 8 + length])
        edit(raw)
        new = json.dumps(raw).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])

    return damage


def raw_header(content: bytes) -> Damage:
    whole = struct.pack("<Q", len(content)) + content
    return lambda folder: (folder / "model.safetensors").write_bytes(whole)


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else in place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def to_itself(path: Path) -> None:
    path.symlink_to(path)


def to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "none")


def index(content: object) -> Damage:
    return text("model.safetensors.index.json", json.dumps(content))


NORM = "model.norm.weight"
DEEP = "[" * 100_000 + "]" * 100_000
OF_CONFIG: dict[str, tuple[Damage, str]] = {
    "vocabulary is a text": (config(vocab_size="abc"), "vocab_size = 'abc'; expected a whole"),
    "vocabulary is negative": (config(vocab_size=-1), "vocab_size = -1; expected"),
    "vocabulary is true": (config(vocab_size=True), "vocab_size = True; expected"),
    "vocabulary is huge": (config(vocab_size=10**40), "vocab_size = a huge number; expected"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads = 0; expected"),
    "heads are a fraction": (config(num_attention_heads=1.5), "num_attention_heads = 1.5; exp"),
    "heads are 1e30": (config(num_attention_heads=1e30), r"num_attention_heads = 1e\+30; expec"),
    "heads are a mapping": (config(num_key_value_heads={"a": 1}), "num_key_value_heads = {"),
    "a million layers": (config(num_hidden_layers=10**6), "num_hidden_layers = 1000000; expected"),
    "layers inside": (config(text_config={"num_hidden_layers": 10**6}), "num_hidden_layers = 10"),
    "width is a list": (config(hidden_size=[64]), r"hidden_size = \[64\]; expected"),
    "positions are a text": (config(max_position_embeddings="128"), "embeddings = '128'; exp"),
    "head size is negative": (config(head_dim=-32), "head_dim = -32; expected"),
    "model type is a list": (config(model_type=["llama"]), r"model_type, found \['llama'\]"),
    "model type is null": (config(model_type=None), "model_type, found none"),
    "architectures are a number": (config(architectures=7), "architectures = 7; expected a list"),
    "type is a number": (config(dtype=16), "dtype = 16; expected a name"),
    "nested": (text("config.json", DEEP), "config.json: cannot be read as JSON"),
    "nested a little": (config(x=json.loads("[" * 50 + "]" * 50)), "nested deeper than 32"),
    "NaN": (text("config.json", '{"model_type": "llama", "x": NaN}'), "it holds NaN"),
    "infinite": (text("config.json", '{"model_type": "llama", "x": 1e999}'), "'x' is inf"),
    "key twice": (text("config.json", '{"model_type": "a", "model_type": "b"}'), "appears twice"),
    "a list": (text("config.json", "[1]"), "expected a mapping, found list"),
    "empty": (text("config.json", ""), "cannot be read as JSON"),
    "not UTF-8": (text("config.json", b'{"model_type": "\xff"}'), "cannot be read as JSON"),
    "UTF-16": (text("config.json", '{"model_type": "x"}'.encode("utf-16")), "cannot be read as"),
    "a folder": (replaced("config.json", Path.mkdir), "expected a regular file"),
    "a pipe": (replaced("config.json", os.mkfifo), "expected a regular file"),
    "a link to itself": (replaced("config.json", to_itself), "expected a regular file"),
    "a link to nothing": (replaced("config.json", to_nothing), "expected a regular file"),
}
OF_FILES: dict[str, tuple[Damage, str]] = {
    "pad token beyond the vocabulary": (config(pad_token_id=10**6), "no causal language model"),
    "epsilon is a list": (config(rms_norm_eps=[1]), "no causal language model"),
    "heads that do not divide": (config(num_attention_heads=7, head_dim=None), "no causal|shape"),
    "activation is unknown": (config(hidden_act="nonsense"), "no causal language model"),
    "rotary is a text": (config(rope_parameters="x"), "no causal language model"),
    "needs a package": (config(model_type="timm_wrapper"), "config.json: "),
    "offsets are texts": (
        header(lambda raw: raw[NORM].update(data_offsets=["0", "256"])),
        r'safetensors \(.*invalid type: string "0"',
    ),
    "offsets are mixed": (
        header(lambda raw: raw[NORM].update(data_offsets=[0, "x"])),
        r'safetensors \(.*invalid type: string "x"',
    ),
    "offset is missing": (
        header(lambda raw: raw[NORM].update(data_offsets=[0])),
        r"safetensors \(.*invalid length 1",
    ),
    "offsets overlap": (
        header(lambda raw: raw[NORM].update(data_offsets=[0, 256])),
        r"safetensors \(.*invalid offset for tensor",
    ),
    "shape is negative": (
        header(lambda raw: raw[NORM].update(shape=[-64])),
        r"safetensors \(.*invalid value: integer `-64`",
    ),
    "shape is huge": (
        header(lambda raw: raw[NORM].update(shape=[2**62, 2**62])),
        r"safetensors \(.*overflow",
    ),
    "type is null": (
        header(lambda raw: raw[NORM].update(dtype=None)),
        r"safetensors \(.*invalid type: null",
    ),
    "tensor is a list": (
        header(lambda raw: raw.update({NORM: []})),
        r"safetensors \(.*invalid length 0",
    ),
    "header is a list": (raw_header(b"[]"), r"safetensors \(.*invalid type: sequence"),
    "header is nested": (raw_header(DEEP.encode()), r"safetensors \(.*invalid type: sequence"),
    "header is not UTF-8": (raw_header(b'{"\xff": 1}'), r"safetensors \(.*invalid UTF-8"),
    "weights are a folder": (replaced("model.safetensors", Path.mkdir), "expected a regular file"),
    "weights are a pipe": (replaced("model.safetensors", os.mkfifo), "expected a regular file"),
    "weights link to themselves": (replaced("model.safetensors", to_itself), "a regular file"),
    "weights link to nothing": (replaced("model.safetensors", to_nothing), "a regular file"),
    "index holds numbers": (index({"weight_map": {NORM: 1}}), "expected a weight_map"),
    "index is a list": (index([]), "expected a mapping, found list"),
    "index is a pipe": (
        replaced("model.safetensors.index.json", os.mkfifo),
        "expected a regular file",
    ),
    "index is empty": (index({"weight_map": {}}), "expected the weight files"),
}
OF_TOKENIZER: dict[str, tuple[Damage, str]] = {
    "tokenizer is a list": (
        text("tokenizer.json", "[]"),
        r"tokenizer.json: cannot be loaded \(.*invalid type: sequence",
    ),
    "tokenizer is nested": (text("tokenizer.json", DEEP), "tokenizer.json: cannot be read as JSON"),
    "merges are broken": (
        edited("tokenizer.json", lambda raw: raw["model"].update(merges=[["q", "zz"]])),
        "tokenizer.json: cannot be loaded",
    ),
    "merges are numbers": (
        edited("tokenizer.json", lambda raw: raw["model"].update(merges=[1, 2])),
        "tokenizer.json: cannot be loaded",
    ),
    "id is a text": (
        edited("tokenizer.json", lambda raw: raw["model"]["vocab"].update(a="1")),
        r'tokenizer.json: cannot be loaded \(.*invalid type: string "1"',
    ),
    "id is infinite": (
        edited("tokenizer.json", lambda raw: raw["model"]["vocab"].update(a=float("inf"))),
        "tokenizer.json: cannot be loaded",
    ),
    "id is negative": (
        edited("tokenizer.json", lambda raw: raw["model"]["vocab"].update(a=-1)),
        r"tokenizer.json: cannot be loaded \(.*invalid value: integer `-1`",
    ),
    "vocabulary of numbers": (
        edited("tokenizer.json", lambda raw: raw["model"].update(vocab=[1, 2])),
        r"tokenizer.json: cannot be loaded \(.*invalid type: sequence, expected a map",
    ),
    "pre-tokenizer is unknown": (
        edited("tokenizer.json", lambda raw: raw["pre_tokenizer"].update(type="Nonsense")),
        "tokenizer.json: cannot be loaded",
    ),
    "first token is beyond the vocabulary": (
        edited("tokenizer_config.json", lambda raw: raw.update(bos_token="<new>")),
        "token id 320, the model a vocabulary of 320",
    ),
    "tokenizer is a pipe": (replaced("tokenizer.json", os.mkfifo), "expected a regular file"),
    "tokenizer links to nothing": (replaced("tokenizer.json", to_nothing), "a regular file"),
    "first token is a number": (
        edited("tokenizer_config.json", lambda raw: raw.update(bos_token=7)),
        "bos_token = 7; expected a token or null",
    ),
    "longest text is a list": (
        edited("tokenizer_config.json", lambda raw: raw.update(model_max_length=[])),
        r"model_max_length = \[\]; expected a number or null",
    ),
    "class is a number": (
        edited("tokenizer_config.json", lambda raw: raw.update(tokenizer_class=7)),
        "tokenizer_class = 7; expected a name or null",
    ),
    "settings are a list": (text("tokenizer_config.json", "[]"), "expected a mapping, found list"),
    "settings are not UTF-8": (text("tokenizer_config.json", b"\xff"), "cannot be read as JSON"),
}


def grouped(models: Path, broken: Path) -> Groups:
    """The broken checkpoint beside three good ones, as the driver groups them."""
    good = [make_ref(models / name, run=name) for name in ("tied", "untied", "later")]
    return group([*good, make_ref(broken, run="broken")])


def runs(groups: Groups) -> list[str]:
    return sorted(item.ref.run for item in groups.pending)


def planned(models: Path, groups: Groups) -> Plan:
    tasks = load_tasks((f"blimp:{models / 'pairs.parquet'}",), limit=2, seed=0, text=None)
    return make_plan(
        [],
        groups,
        wanted=Wanted(tasks=tasks, corpora=[load_corpus(models / "corpus.parquet", max_words=50)]),
        engine=EngineConfig(kind="packed", max_model_len=WINDOW),
        status=Counter(),
        profile=None,
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", OF_CONFIG)
def test_group_malformed_config_fails_alone(models: Path, broken: Path, case: str) -> None:
    damage, message = OF_CONFIG[case]
    damage(broken)
    result = grouped(models, broken)
    assert runs(result) == ["later", "tied", "untied"]
    ((ref, error),) = result.failed
    assert ref.run == "broken"
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(error)
    assert len(error.splitlines()) == 1
    with pytest.raises(CheckpointError, match=message):
        inspect(make_ref(broken))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", OF_FILES | OF_TOKENIZER)
def test_inspect_malformed_files_are_refused(models: Path, broken: Path, case: str) -> None:
    damage, message = (OF_FILES | OF_TOKENIZER)[case]
    damage(broken)
    assert set(runs(grouped(models, broken))) >= {"later", "tied", "untied"}
    with pytest.raises(CheckpointError, match=message) as caught:
        inspect(make_ref(broken))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", OF_TOKENIZER)
def test_plan_counts_a_malformed_tokenizer_as_unusable(
    models: Path, broken: Path, case: str
) -> None:
    OF_TOKENIZER[case][0](broken)
    change_config(broken, rms_norm_eps=1e-4)  # an architecture of its own, whose tokenizer is read
    plan = planned(models, grouped(models, broken))
    assert (plan.to_score, plan.unusable, plan.unreached) == (3, 1, 0)
    assert plan.corpus_tokens > 0


def test_inspect_settings_as_others_write_them_pass(models: Path, broken: Path) -> None:
    edited(
        "tokenizer_config.json",
        lambda raw: raw.update(
            add_bos_token=False,
            bos_token={"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False},
            pad_token=None,
            model_max_length=1000000000000000019884624838656,
        ),
    )(broken)
    assert inspect(make_ref(broken)).vocab_size == 320
    assert planned(models, grouped(models, broken)).to_score == 4


def test_config_of_a_state_space_model_may_hold_infinities_in_lists(broken: Path) -> None:
    change_config(broken, time_step_limit=[0.0, float("inf")])
    assert inspect(make_ref(broken)).architecture == "LlamaForCausalLM"


def test_plan_takes_the_tokenizer_of_the_next_checkpoint(models: Path, broken: Path) -> None:
    """The broken one is of the architecture of two good ones, and the first of it."""
    (broken / "tokenizer.json").write_text("[]")
    groups = group([make_ref(broken, run="a"), make_ref(models / "untied", run="b")])
    plan = planned(models, groups)
    assert (plan.to_score, plan.unusable, plan.architectures) == (1, 1, 1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("make", [os.mkfifo, to_itself, to_nothing, Path.mkdir])
def test_stage_what_is_no_regular_file_is_refused(
    broken: Path, tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    """Staging uses a local folder where it is; a tokenizer that is none is left to preflight."""
    replaced(name, make)(broken)
    ref: CheckpointRef = make_ref(broken)
    with (
        pytest.raises(CheckpointError, match="expected"),
        Stager(tmp_path / "staging", budget_bytes=10**9).stage(ref) as staged,
    ):
        inspect(ref, staged.folder)


def test_group_error_of_no_known_type_fails_alone(
    models: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a config ends in: the last resort."""
    from neuneu.scoring.checkpoints import grouping

    known = grouping.config_hash

    def fails(content: dict[str, Any]) -> str:
        if content.get("x") == "trap":
            raise ZeroDivisionError("division\nby zero")
        return known(content)

    monkeypatch.setattr(grouping, "config_hash", fails)
    change_config(broken, x="trap")
    result = grouped(models, broken)
    assert runs(result) == ["later", "tied", "untied"]
    assert result.failed[0][1] == "its config.json cannot be used: division by zero."
