"""Listing a folder of checkpoints: only finished ones, each once."""

import json
import os
from pathlib import Path

import pytest
from s3_server import S3Server

from neuneu.core.errors import DataError
from neuneu.core.storage import Folder
from neuneu.data.checkpoints import CheckpointRef, list_folder, list_local, write_metadata


def make(folder: Path, step: int, run: str = "r") -> None:
    folder.mkdir(parents=True)
    ref = CheckpointRef(
        family="f", suite="s", run=run, params=1e6, step=step, tokens=step * 1e3,
        flops=6e9 * step, planned_tokens=None, uri="elsewhere",
    )  # fmt: skip
    write_metadata(folder, ref)


def test_list_local_sorts_by_step_and_skips_unfinished(tmp_path: Path) -> None:
    make(tmp_path / "r" / "step-20", 20)
    make(tmp_path / "r" / "step-3", 3)
    (tmp_path / "r" / "step-40").mkdir()
    make(tmp_path / "r" / ".step-50.tmp", 50)
    refs = list_local(tmp_path)
    assert [ref.step for ref in refs] == [3, 20]
    assert refs[0].uri == str(tmp_path / "r" / "step-3")
    assert refs[0].key == ("s", "r", 3)


def test_list_local_same_checkpoint_twice_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", 3)
    make(tmp_path / "b", 3)
    with pytest.raises(DataError, match=r"is in both .*a and .*b"):
        list_local(tmp_path)


def test_list_local_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neuneu suite"):
        list_local(tmp_path / "none")


def test_list_local_broken_metadata_names_file(tmp_path: Path) -> None:
    make(tmp_path / "a", 3)
    (tmp_path / "a" / "neuneu.json").write_text('{"run": "r"}')
    with pytest.raises(DataError, match=r"a/neuneu\.json: family is missing"):
        list_local(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -5}, "step = -5; expected a whole number from 0 to 999999999999"),
        ({"step": 1.5}, "step = 1.5; expected a whole number"),
        ({"step": "7"}, "step = '7'; expected a whole number"),
        ({"step": True}, "step = True; expected a whole number"),
        ({"step": 10**12}, "step = 1000000000000; expected a whole number"),
        ({"tokens": "3e3"}, "tokens = '3e3'; expected a positive number"),
        ({"tokens": 0}, "tokens = 0; expected a positive number"),
        ({"tokens": 10**400}, r"tokens = 10+\.\.\.; expected a positive number of at most 1e\+30"),
        ({"flops": -1.0}, r"flops = -1\.0; expected a positive number"),
        ({"params": -1e6}, r"params = -1000000\.0; expected a positive number"),
        ({"params": None}, "params = None; expected a positive number"),
        ({"planned_tokens": 0}, "planned_tokens = 0; expected a positive number .*, or null"),
        ({"planned_tokens": []}, r"planned_tokens = \[\]; expected a positive number"),
        ({"run": ""}, "run = ''; expected a name"),
        ({"run": 7}, "run = 7; expected a name"),
        ({"suite": " "}, "suite = ' '; expected a name"),
        ({"family": "a\nb"}, r"family = 'a\\nb'; expected a name"),
        ({"famly": "f"}, r"unknown key 'famly'; did you mean family\?"),
        ({"uri": "elsewhere"}, "unknown key 'uri'; "),
    ],
)
def test_list_local_value_that_cannot_be_names_file_and_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    make(tmp_path / "a", 3)
    path = tmp_path / "a" / "neuneu.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=rf"a/neuneu\.json: {message}") as caught:
        list_local(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "expected a mapping, found list"),
        (b'{"step": 1, "step": 2}', "key 'step' appears twice"),
        (b'{"tokens": NaN}', "it holds NaN"),
        (b'{"tokens": 1e999}', "'tokens' is inf; expected a finite number"),
        (b'{"run": "\xff"}', "cannot be read as JSON"),
        (b"[" * 10**5, "cannot be read as JSON"),
    ],
)
def test_list_local_malformed_metadata_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    make(tmp_path / "a", 3)
    (tmp_path / "a" / "neuneu.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a/neuneu\.json: .*{message}"):
        list_local(tmp_path)


def test_list_local_step_zero_has_seen_no_tokens(tmp_path: Path) -> None:
    make(tmp_path / "a", 0)
    (ref,) = list_local(tmp_path)
    assert (ref.step, ref.tokens, ref.flops) == (0, 0, 0)


def test_list_local_pipes_and_broken_links_are_no_files(tmp_path: Path) -> None:
    make(tmp_path / "a", 3)
    os.mkfifo(tmp_path / "neuneu.json")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    assert [ref.step for ref in list_local(tmp_path)] == [3]


def test_list_folder_reads_s3_in_one_listing(s3: S3Server) -> None:
    folder = Folder(f"s3://{s3.bucket}/suite")
    for step in (20, 3):
        record = {
            "family": "f", "suite": "s", "run": "r", "params": 1e6, "step": step,
            "tokens": step * 1e3, "flops": 6e9 * step, "planned_tokens": None,
        }  # fmt: skip
        folder.write(f"r/step-{step}/neuneu.json", json.dumps(record).encode())
        folder.write(f"r/step-{step}/config.json", b"{}")
    folder.write("r/step-40/config.json", b"{}")
    before = s3.count("GET", "list-type")
    refs = list_folder(folder)
    assert [ref.step for ref in refs] == [3, 20]
    assert refs[0].uri == f"s3://{s3.bucket}/suite/r/step-3"
    assert s3.count("GET", "list-type") == before + 1
