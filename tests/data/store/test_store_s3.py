"""A store on S3: the same as on disk, through refusals, cut connections and lost answers."""

import os
import threading
from pathlib import Path

import pytest
from rows import checkpoint_rows
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_USER_ERROR
from neuneu.core.errors import StorageError, StoreError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.attempts import AttemptLedger
from neuneu.data.store.check import check, summarize
from neuneu.data.store.compaction import compact
from neuneu.data.store.store import Store

TABLES = ("checkpoints", "accuracies", "losses", "token_losses")


def fill(store: Store) -> None:
    store.bind({"corpus": "abc"})
    for run in ("r", "a/b"):
        for step in (10, 20, 30):
            store.commit(checkpoint_rows(step, run=run))
    store.commit(checkpoint_rows(40, status="quarantined"))


@pytest.fixture
def store(s3: S3Server) -> Store:
    return Store(f"s3://{s3.bucket}/deep/store")


def test_store_on_s3_reads_as_on_disk(store: Store, tmp_path: Path) -> None:
    local = Store(tmp_path / "store")
    fill(local)
    fill(store)
    assert store.folder.files().keys() == local.folder.files().keys()
    for _ in range(2):
        for table in TABLES:
            assert getattr(store, table)() == getattr(local, table)()
        assert store.tasks() == local.tasks()
        assert store.has(("s", "a/b", 20)) == "done"
        assert store.has(("s", "r", 40)) == "quarantined"
        assert store.has(("s", "r", 50)) is None
        compact(store)
    assert len(store.folder.files(".parquet")) == 2
    report = check(store)
    assert report.checkpoints == {"done": 6, "quarantined": 1}
    assert (report.damaged, report.foreign, report.duplicates) == ({}, [], 0)


def test_store_on_s3_reads_parts_of_large_files(s3: S3Server, store: Store) -> None:
    store.bind({})
    long = checkpoint_rows(10)
    long.token_losses[0]["losses"] = list(os.urandom(400_000))
    store.commit(long)
    moved = s3.bytes_sent
    assert store.status() == {("s", "r", 10): "done"}
    assert s3.bytes_sent - moved < 80_000
    moved = s3.bytes_sent
    assert store.token_losses().num_rows == 1
    assert s3.bytes_sent - moved > 300_000


def test_store_on_s3_is_listed_once_for_all_runs(s3: S3Server, store: Store) -> None:
    store.bind({})
    for run in range(12):
        store.commit(checkpoint_rows(10, run=f"run{run}"))
    before = s3.count("GET", "list-type=2")
    assert len(store.status()) == 12
    assert s3.count("GET", "list-type=2") - before == 2  # before the reading and after


def test_store_on_s3_bound_by_two_at_once_never_mixes(store: Store) -> None:
    barrier, refused = threading.Barrier(2), []

    def bind(corpus: str) -> None:
        barrier.wait()
        try:
            Store(store.folder).bind({"corpus": corpus})
        except StoreError:
            refused.append(corpus)

    threads = [threading.Thread(target=bind, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = {"a", "b"} - set(refused)
    assert store.fingerprint() == {"corpus": winner}


def test_store_on_s3_bind_overtaken_after_its_look_is_refused(s3: S3Server, store: Store) -> None:
    s3.when("PUT", at=1, do=lambda: Store(store.folder).bind({"corpus": "first"}))
    with pytest.raises(StoreError, match="store has 'first', this run 'second'"):
        store.bind({"corpus": "second"})


def test_store_on_s3_through_503_and_cuts_loses_nothing(
    s3: S3Server, store: Store, tmp_path: Path
) -> None:
    local = Store(tmp_path / "store")
    fill(local)
    s3.fail_with_503(2)
    fill(store)
    s3.cut_after(50, times=4)
    s3.fail_with_503(2)
    compact(store)
    s3.cut_after(50, times=4)
    for table in TABLES:
        assert getattr(store, table)() == getattr(local, table)()
    assert not check(store).damaged


def test_store_on_s3_commit_whose_answer_was_lost_counts_once(s3: S3Server, store: Store) -> None:
    store.bind({})
    s3.lose_answers("PUT", times=1)
    store.commit(checkpoint_rows(10))
    assert store.status() == {("s", "r", 10): "done"}
    assert check(store).duplicates == 0


def test_store_on_s3_cut_off_for_good_is_no_damage(s3: S3Server, store: Store) -> None:
    store.bind({})
    store.commit(checkpoint_rows(10))
    s3.cut_after(10, times=10_000)
    with pytest.raises(StorageError):
        store.accuracies()
    with pytest.raises(StorageError):
        compact(store)
    s3.cut_after(0, times=0)
    assert store.status() == {("s", "r", 10): "done"}


def test_store_on_s3_truncated_unit_is_damage(s3: S3Server, store: Store) -> None:
    fill(store)
    name = "units/s/r/000000000010.parquet"
    store.folder.write(name, store.folder.read(name)[:-40])
    with pytest.raises(StoreError, match=rf"s3://{s3.bucket}/.*10.parquet.*Delete this file"):
        store.checkpoints()
    assert list(check(store).damaged) == [name]


def test_attempts_on_s3_outlive_their_ledger(store: Store) -> None:
    store.bind({})
    ref = CheckpointRef(
        family="f", suite="s", run="r", params=1.0, step=10, tokens=1.0, flops=6.0,
        planned_tokens=None, uri="x",
    )  # fmt: skip
    ledger = AttemptLedger(store.folder / "attempts", timeout_s=1e6)
    assert ledger.begin(ref).number == 1
    assert [run.in_flight for run in summarize(store)] == [1]
    again = AttemptLedger(store.folder / "attempts", timeout_s=1e6).begin(ref)
    assert again.number == 2
    assert "died" in (again.last_error or "")
    ledger.fail(ref, 2, "engine failed")
    assert ledger.begin(ref).last_error == "engine failed"
    ledger.end(ref)
    assert summarize(store) == []
    ledger.begin(ref)
    ledger.clear()
    assert (store.folder / "attempts").files() == {}


def test_store_on_s3_keeps_credentials_to_itself(s3: S3Server, store: Store) -> None:
    fill(store)
    compact(store)
    for name in store.folder.files():
        content = store.folder.read(name)
        assert ACCESS_KEY.encode() not in content
        assert SECRET_KEY.encode() not in content
    s3.refuse_access(f"no such key {ACCESS_KEY}")
    done = CliRunner().invoke(app, ["store", "check", str(store.folder)])
    assert done.exit_code == EXIT_USER_ERROR
    assert len(done.stderr.strip().splitlines()) == 1
    assert "S3 refuses access" in done.stderr
    assert ACCESS_KEY not in done.output
