"""Stores of version 1: read as they are, refused for writing, upgraded without a loss."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from old_store import FINGERPRINT, make_old_store, write
from rows import checkpoint_rows
from s3_server import S3Server
from test_compaction import FaultyFolder, Killed
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core.errors import StoreError
from neuneu.core.storage import Folder
from neuneu.data.load import load_dataset
from neuneu.data.store.check import check, summarize
from neuneu.data.store.compaction import compact
from neuneu.data.store.parts import Part, PartRecord
from neuneu.data.store.store import Store
from neuneu.data.store.upgrade import upgrade

TABLES = ("checkpoints", "accuracies", "losses", "token_losses", "tasks")


def tables(store: Store) -> list[list[dict[str, object]]]:
    return [getattr(store, name)().to_pylist() for name in TABLES]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_old_store(tmp_path / "store")


def test_old_store_reads_as_its_tidy_tables(store: Store) -> None:
    checkpoints, accuracies, losses, token_losses, tasks = tables(store)
    assert [(row["run"], row["step"], row["status"], row["ties"]) for row in checkpoints] == [
        *(("a/b", step, "done", None) for step in range(1, 11)),
        ("r", 10, "done", 10), ("r", 20, "done", 20), ("r", 30, "quarantined", None),
    ]  # fmt: skip
    of_r = [(r["step"], r["task"], r["metric"], r["value"]) for r in accuracies if r["run"] == "r"]
    assert of_r == [
        (10, "t", "acc", 0.25), (20, "t", "acc", 0.25),
        (10, "t", "acc_norm", 0.75), (20, "t", "acc_norm", 0.75),
        (10, "u", "acc", 0.5), (20, "u", "acc", 0.5),
    ]  # fmt: skip
    assert len(losses) == len(token_losses) == 12
    assert [row["losses"][2] for row in token_losses] == [*range(1, 11), 10.0, 20.0]
    assert [row["task"] for row in tasks] == ["t"]
    assert list(store.choices()) == []
    assert store.status()["s", "r", 30] == store.has(("s", "r", 30)) == "quarantined"
    assert {run.run: run.done for run in summarize(store)} == {"a/b": 10, "r": 2}
    report = check(store)
    assert (report.version, report.damaged, report.foreign) == ("1", {}, [])
    assert report.checkpoints == {"done": 12, "quarantined": 1}
    data = load_dataset(store, log_notes=False)
    assert data.token_losses is not None
    assert data.token_losses.matrix.shape == (12, 3)


def test_old_store_is_not_written_to(store: Store) -> None:
    line = r"schema version 1.*run `neuneu store upgrade .*store` once"
    with pytest.raises(StoreError, match=line):
        store.bind({})
    with pytest.raises(StoreError, match=line):
        compact(store)
    done = CliRunner().invoke(app, ["store", "compact", str(store.folder)])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_upgrade_keeps_everything_and_a_second_does_nothing(store: Store) -> None:
    before = tables(store)
    done = CliRunner().invoke(app, ["store", "upgrade", str(store.folder), "--json"])
    summary = json.loads(done.stdout)
    assert (summary["found_version"], summary["version"]) == ("1", "2")
    assert (summary["runs_upgraded"], summary["checkpoints_upgraded"]) == (2, 13)
    assert tables(store) == before
    assert store.fingerprint() == {"dtype": "float32"}
    assert store.meta()["version_1"] == {k: v for k, v in FINGERPRINT.items() if k != "dtype"}
    report = check(store)
    assert (report.version, report.damaged, report.foreign) == ("2", {}, [])
    assert len(store.folder.files(".parquet")) == 3
    found = store.progress()["s", "r", 10]
    assert found.parts == {
        Part("task", "t"): 0, Part("task", "u"): 0, Part("corpus", "v", 0, "k"): 0,
    }  # fmt: skip
    files = store.folder.files()
    assert upgrade(store).runs_upgraded == 0
    assert store.folder.files() == files
    store.bind({"dtype": "float32"})
    store.claim([PartRecord(part=Part("corpus", "v", 0, "k"))])
    with pytest.raises(StoreError, match=r"another text 'v' \(content k, this run other\)"):
        store.claim([PartRecord(part=Part("corpus", "v", 0, "other"))])


def test_upgraded_store_takes_what_an_old_job_still_commits(store: Store) -> None:
    upgrade(store)
    write(store.folder, "s/r/000000000030", checkpoint_rows(30))
    assert store.status()["s", "r", 30] == "done"
    compact(store)
    assert store.status()["s", "r", 30] == "done"
    assert check(store).damaged == {}
    assert store.accuracies().num_rows == 10 + 2 * 3 + 1


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_upgrade_killed_anywhere_loses_nothing_and_resumes(tmp_path: Path, after: bool) -> None:
    whole = make_old_store(tmp_path / "whole")
    before = tables(whole)
    n_killed = 0
    for k in itertools.count(1):
        store = Store(shutil.copytree(whole.folder.address, tmp_path / str(k)))
        try:
            upgrade(Store(FaultyFolder(store.folder.address, k=k, after=after)))
        except Killed:
            n_killed += 1
        else:
            break
        assert tables(store) == before
        upgrade(store)
        assert tables(store) == before
        assert store.meta()["schema_version"] == "2"
        assert check(store).damaged == {}
        shutil.rmtree(tmp_path / str(k))
    # Five files read and deleted, two written and read back, and the record.
    assert n_killed >= 2 * 5 + 2 * 2 + 1


def test_upgrade_of_a_damaged_file_leaves_its_run_and_names_it(store: Store) -> None:
    name = "units/s/r/000000000010.parquet"
    store.folder.write(name, store.folder.read(name)[:-40])
    with pytest.raises(StoreError, match=r"000000000010\.parquet"):
        upgrade(store)
    assert store.meta()["schema_version"] == "1"
    store.folder.delete(name)
    upgrade(store)
    assert len(store.status()) == 12


def test_upgrade_on_s3_through_cuts_loses_nothing(s3: S3Server, tmp_path: Path) -> None:
    local = make_old_store(tmp_path / "store")
    store = make_old_store(f"s3://{s3.bucket}/old")
    before = tables(local)
    assert tables(store) == before
    s3.cut_after(60, times=4)
    s3.fail_with_503(2)
    upgrade(store)
    assert tables(store) == before
    upgrade(local)
    assert store.meta() == local.meta()
    assert {name for name in Folder(store.folder).files() if "compact" not in name} == {
        name for name in local.folder.files() if "compact" not in name
    }
