"""Listing a folder of checkpoints: only finished ones, each once."""

import json
from pathlib import Path

import pytest
from s3_server import S3Server

from neuneu.checkpoints import CheckpointRef, list_folder, list_local, write_metadata
from neuneu.errors import DataError
from neuneu.storage import Folder


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
    with pytest.raises(DataError, match=r"stands in .*a and in .*b"):
        list_local(tmp_path)


def test_list_local_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neuneu suite"):
        list_local(tmp_path / "none")


def test_list_local_broken_metadata_names_file(tmp_path: Path) -> None:
    make(tmp_path / "a", 3)
    (tmp_path / "a" / "neuneu.json").write_text('{"run": "r"}')
    with pytest.raises(DataError, match=r"a/neuneu.json: not a checkpoint"):
        list_local(tmp_path)


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
