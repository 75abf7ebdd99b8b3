"""Sources of checkpoints: suite files, expanded and listed, and single files of a checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import HubServer, commit_of
from s3_server import S3Server

from neuneu.core.config import build_config, load_config
from neuneu.core.errors import CheckpointError, DataError, TransientError, UserError
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import CheckpointRef
from neuneu.scoring.checkpoints.sources import (
    fetch,
    list_checkpoints,
    list_files,
    list_suite,
    read_small,
)
from neuneu.scoring.checkpoints.suite_file import SuiteFile, locations

SUITES = Path(__file__).parents[2] / "jobs" / "configs" / "suites"
TINY: dict[str, Any] = {
    "source": "hub",
    "family": "f",
    "suite": "tiny",
    "location": "org/model-{size}",
    "variables": {"size": ["1m", "2m"]},
    "pattern": r"step(?P<step>\d+)",
    "run": "model-{size}",
    "params": {"by": "{size}", "values": {"1m": 1e6, "2m": 2e6}},
    "tokens_per_step": 1000,
    "planned_tokens": 20_000,
}


def suite(**changes: Any) -> SuiteFile:
    return build_config(SuiteFile, TINY | changes)


def fill(hub: HubServer, *branches: str) -> None:
    for size in ("1m", "2m"):
        for branch in ("main", *branches):
            hub.add(f"org/model-{size}", branch, {"config.json": b"{}"})


def ref_of(uri: str, revision: str | None = None) -> CheckpointRef:
    return CheckpointRef(
        family="f", suite="s", run="r", params=1.0, step=1, tokens=1.0, flops=6.0,
        planned_tokens=None, uri=uri, revision=revision,
    )  # fmt: skip


def test_list_suite_of_hub_gives_position_and_commit(hub: HubServer) -> None:
    fill(hub, "step2", "step10")
    refs = list_suite(suite())
    assert [(ref.run, ref.step) for ref in refs] == [
        ("model-1m", 2), ("model-1m", 10), ("model-2m", 2), ("model-2m", 10)
    ]  # fmt: skip
    assert refs[3] == CheckpointRef(
        family="f",
        suite="tiny",
        run="model-2m",
        params=2e6,
        step=10,
        tokens=10_000.0,
        flops=6 * 2e6 * 10_000,
        planned_tokens=20_000.0,
        uri="hf://org/model-2m@step10",
        revision=commit_of("org/model-2m", "step10"),
    )


def test_list_checkpoints_reads_suite_file(hub: HubServer, tmp_path: Path) -> None:
    fill(hub, "step2")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    assert [ref.key for ref in list_checkpoints(str(path))] == [
        ("tiny", "model-1m", 2), ("tiny", "model-2m", 2)
    ]  # fmt: skip


def test_groups_of_names_are_part_of_the_run(hub: HubServer) -> None:
    fill(hub, "step1-seed-a", "step1-seed-b", "step2-seed-a")
    refs = list_suite(
        suite(
            pattern=r"step(?P<step>\d+)-seed-(?P<seed>\w+)",
            run="{size}-{seed}",
            exclude=[{"size": ["1m"]}, {"size": ["2m"], "seed": ["b"]}],
        )
    )
    assert [(ref.run, ref.step) for ref in refs] == [("2m-a", 1), ("2m-a", 2)]
    assert hub.count("GET", "model-1m") == 0


def test_include_keeps_what_one_condition_names(hub: HubServer) -> None:
    fill(hub, "step1")
    assert [ref.run for ref in list_suite(suite(include=[{"size": ["2m"]}]))] == ["model-2m"]
    with pytest.raises(UserError, match="leave no location"):
        list_suite(suite(include=[{"size": ["3m"]}]))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({}, [0, 1, 2, 4, 8, 10]),
        ({"every": 4}, [0, 4, 8]),
        ({"first": 2}, [0, 1]),
        ({"last": 1, "at": [2, 3]}, [2, 10]),
        ({"every": 10, "first": 2}, [0, 1, 10]),
    ],
)
def test_steps_choose_checkpoints_of_each_run(
    hub: HubServer, steps: dict[str, Any], expected: list[int]
) -> None:
    fill(hub, *(f"step{step}" for step in (0, 1, 2, 4, 8, 10)))
    refs = list_suite(suite(steps=steps))
    assert [ref.step for ref in refs if ref.run == "model-1m"] == expected
    assert [ref.step for ref in refs if ref.run == "model-2m"] == expected


def test_tokens_come_from_names(hub: HubServer) -> None:
    fill(hub, "step150-tokens1B", "step1000-tokens2.5B")
    changes = {
        "pattern": r"step(?P<step>\d+)-tokens(?P<tokens>[\d.]+[KMBT]?)",
        "tokens_per_step": None,
        "planned_tokens": 1e12,
    }
    refs = list_suite(suite(**changes))
    assert [ref.tokens for ref in refs[:2]] == [1e9, 2.5e9]
    fill(hub, "step200-tokens1B")
    with pytest.raises(DataError, match=r"step 200 would have seen no more tokens than step 150"):
        list_suite(suite(**changes))


def test_tokens_beyond_the_plan_are_refused(hub: HubServer) -> None:
    fill(hub, "step20", "step22")
    with pytest.raises(
        UserError, match=r"step22: step 22 would be 2.2e\+04 tokens, of 2e\+04 plan"
    ):
        list_suite(suite())


def test_place_without_matching_names_says_what_it_found(hub: HubServer) -> None:
    fill(hub)
    with pytest.raises(UserError, match=r"org/model-1m: expected names that match.*found main"):
        list_suite(suite())


def test_missing_repository_is_the_users_error(hub: HubServer) -> None:
    hub.add("org/model-1m", "step1", {})
    with pytest.raises(UserError, match="org/model-2m: not found on the hub"):
        list_suite(suite())


def test_same_step_twice_is_refused(hub: HubServer) -> None:
    fill(hub, "step1", "step01")
    with pytest.raises(DataError, match=r"is in both hf://.*step0?1 and hf://.*step0?1"):
        list_suite(suite())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": r"step\d+"}, r"pattern needs a group \(\?P<step>"),
        ({"pattern": "step(?P<step>"}, "not a regular expression"),
        ({"tokens_per_step": None}, "either tokens_per_step or a group `tokens`"),
        ({"pattern": r"(?P<step>\d+)-(?P<tokens>\w+)"}, "either tokens_per_step or a group"),
        ({"location": "org/{recipe}"}, r"location names \['recipe'\]; known are \['size'\]"),
        ({"run": "{seed}"}, r"run names \['seed'\]; known are \['size', 'step'\]"),
        ({"run": "{size"}, "run is not a template"),
        ({"params": {"by": "{seed}", "values": {}}}, r"params.by names \['seed'\]"),
        ({"exclude": [{"seed": ["a"]}]}, r"include/exclude: \['seed'\] are not in"),
        ({"pattern": r"(?P<size>\w)(?P<step>\d+)"}, r"\['size'\] are variables and groups"),
        ({"steps": {"evry": 1}}, "unknown key 'steps.evry'"),
        ({"source": "web"}, "source: Input should be 'hub' or 'folder'"),
        ({"params": -1}, "greater than 0"),
    ],
)
def test_suite_file_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        suite(**changes)


def test_run_without_a_number_is_named(hub: HubServer) -> None:
    fill(hub, "step1")
    with pytest.raises(UserError, match=r"params: no value for '2m'.*found \['1m'\]"):
        list_suite(suite(params={"by": "{size}", "values": {"1m": 1e6}}))


def test_folder_of_checkpoints_without_metadata(tmp_path: Path) -> None:
    for name in ("a/iter-10", "a/iter-20", "b/iter-10", "b/notes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "b" / "iter-30").mkdir()
    described = suite(
        source="folder", location=str(tmp_path), variables={}, run="{run}", params=5e6,
        pattern=r"(?P<run>\w+)/iter-(?P<step>\d+)", planned_tokens=None,
    )  # fmt: skip
    refs = list_suite(described)
    assert [(ref.run, ref.step) for ref in refs] == [("a", 10), ("a", 20), ("b", 10)]
    assert refs[1].uri == str(tmp_path / "a" / "iter-20")
    assert refs[1].revision is None
    assert (refs[1].tokens, refs[1].flops, refs[1].planned_tokens) == (2e4, 6e11, None)


def test_folder_on_s3_without_metadata(s3: S3Server, tmp_path: Path) -> None:
    address = f"s3://{s3.bucket}/runs"
    Folder(address).write("a/10/config.json", b"{}")
    described = suite(
        source="folder", location=address, variables={}, run="{run}", params=5e6,
        pattern=r"(?P<run>\w+)/(?P<step>\d+)",
    )  # fmt: skip
    (ref,) = list_suite(described)
    assert ref.uri == f"{address}/a/10"
    assert read_small(ref, "config.json") == b"{}"


@pytest.mark.parametrize("kind", ["local", "s3", "hub"])
def test_files_of_a_checkpoint_wherever_it_lies(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files = {"config.json": b'{"a": 1}', "model.safetensors": bytes(5000)}
    if kind == "hub":
        hub: HubServer = request.getfixturevalue("hub")
        ref = ref_of("hf://org/m@step1", revision=hub.add("org/m", "step1", files))
    else:
        bucket = request.getfixturevalue("s3").bucket if kind == "s3" else ""
        address = f"s3://{bucket}/c" if kind == "s3" else str(tmp_path / "c")
        for name, content in (files | {"sub/other.bin": b"x"}).items():
            Folder(address).write(name, content)
        ref = ref_of(address)
    assert {name: file.size for name, file in list_files(ref).items()} == {
        "config.json": 8,
        "model.safetensors": 5000,
    }
    assert json.loads(read_small(ref, "config.json")) == {"a": 1}
    target = tmp_path / "target"
    target.mkdir()
    fetch(ref, "model.safetensors", target)
    assert (target / "model.safetensors").read_bytes() == bytes(5000)
    with pytest.raises(CheckpointError) as missing:
        read_small(ref, "none.json")
    assert "none.json" in str(missing.value)
    assert not isinstance(missing.value, TransientError)


def test_missing_checkpoint_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint, found no files"):
        list_files(ref_of(str(tmp_path / "none")))


def test_s3_that_does_not_answer_is_transient(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuneu.core.s3._ATTEMPTS", 1)
    s3.fail_for(60)
    with pytest.raises(TransientError, match="S3 failed although retried"):
        read_small(ref_of(f"s3://{s3.bucket}/c"), "config.json")


# Documented: ten sizes twice; 25 corpora in 14 sizes; four sizes. One Pythia run is left out.
@pytest.mark.parametrize(
    ("name", "repositories", "excluded"),
    [("pythia", 20, 1), ("datadecide", 350, 0), ("olmo2", 4, 0)],
)
def test_ready_suite_expands_to_its_documented_repositories(
    name: str, repositories: int, excluded: int
) -> None:
    described = load_config(SuiteFile, SUITES / f"{name}.yaml")
    found = {location.address for location in locations(described)}
    assert len(found) == repositories - excluded
    everything = build_config(
        SuiteFile, yaml.safe_load((SUITES / f"{name}.yaml").read_text()) | {"exclude": []}
    )
    assert len(locations(everything)) == repositories


def test_suite_file_of_the_documentation_is_one() -> None:
    text = (SUITES.parents[2] / "docs" / "checkpoints.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    described = build_config(SuiteFile, yaml.safe_load(example))
    assert len(locations(described)) == 4
    assert described.exclude == ()


def test_pythia_has_154_checkpoints_a_run(hub: HubServer) -> None:
    steps = [0, *(2**i for i in range(10)), *range(1000, 143_001, 1000)]
    described = load_config(SuiteFile, SUITES / "pythia.yaml")
    for location in locations(described):
        for branch in ("main", *(f"step{step}" for step in steps)):
            hub.add(location.address, branch, {})
    refs = list_suite(described)
    assert len(refs) == 19 * 154
    last = next(ref for ref in refs if ref.run == "pythia-12b-deduped" and ref.step == 143_000)
    assert last.tokens == last.planned_tokens == 299_892_736_000


def test_datadecide_runs_are_corpus_size_and_seed(hub: HubServer) -> None:
    described = load_config(SuiteFile, SUITES / "datadecide.yaml")
    for location in locations(described):
        kind = "large" if location.address.endswith("-1B") else "small"
        for seed in ("default", f"{kind}-aux-2", f"{kind}-aux-3"):
            hub.add(location.address, f"step1250-seed-{seed}", {})
    refs = list_suite(described)
    assert len({ref.run for ref in refs}) == 350 * 3 - 25 * 2
    ref = next(ref for ref in refs if ref.run == "c4-1B-large-aux-2")
    assert ref.uri == "hf://allenai/DataDecide-c4-1B@step1250-seed-large-aux-2"
    assert (ref.params, ref.tokens) == (1_279_854_592, 1250 * 704 * 2048)


@pytest.mark.parametrize(
    ("model", "step", "billions"),
    [
        ("OLMo-2-0425-1B", 1_907_359, 4001),
        ("OLMo-2-1124-7B", 928_646, 3896),
        ("OLMo-2-1124-13B", 596_057, 5001),
        ("OLMo-2-0325-32B", 721_901, 6056),
    ],
)
def test_olmo2_tokens_round_up_to_the_names(
    hub: HubServer, model: str, step: int, billions: int
) -> None:
    branch = f"stage1-step{step}-tokens{billions}B"
    for name in (branch, "stage2-ingredient1-step100-tokens1B"):
        hub.add(f"allenai/{model}", name, {})
    raw = yaml.safe_load((SUITES / "olmo2.yaml").read_text())
    (ref,) = list_suite(build_config(SuiteFile, raw | {"include": [{"model": [model]}]}))
    assert (billions - 1) * 1e9 < ref.tokens <= billions * 1e9
    assert ref.tokens == ref.planned_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": float("inf")}, "params"),
        ({"tokens_per_step": float("nan")}, "tokens_per_step"),
        ({"planned_tokens": -1}, "planned_tokens"),
    ],
)
def test_suite_file_number_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        suite(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": r"(?P<step>\w+)"}, "main: expected a step such as 1000, found 'main'"),
        ({"pattern": r"(step(?P<step>\d+)|main)"}, "main: expected a step such as 1000, found ''"),
        ({"run": " "}, r"org/model-1m@step2: run = ' '; expected a name"),
        ({"suite": ""}, r"org/model-1m@step2: suite = ''; expected a name"),
        (
            {"tokens_per_step": 1e30, "planned_tokens": None},
            r"tokens = 2e\+30; expected a positive",
        ),
    ],
)
def test_list_suite_checkpoint_that_cannot_be_is_refused(
    hub: HubServer, changes: dict[str, Any], message: str
) -> None:
    fill(hub, "step2")
    with pytest.raises(UserError, match=message) as caught:
        list_suite(suite(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_local_file_that_would_not_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    ref = ref_of(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"config\.json: expected a regular file"):
        read_small(ref, "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a regular file"):
        fetch(ref, "config.json", tmp_path / "out")
