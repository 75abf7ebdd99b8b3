"""Compaction: fewer files, the same tables, whatever happens on the way."""

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import checkpoint_rows

from neuneu.core.errors import StorageError, StoreError
from neuneu.core.storage import Folder
from neuneu.data.store.compaction import compact
from neuneu.data.store.store import CheckpointRows, Store

Tables = tuple[list[dict[str, object]], ...]


class Killed(BaseException):
    """What a kill looks like to the code: nothing catches it."""


class FaultyFolder(Folder):
    """Stops for good before or after its k-th call that compaction makes."""

    def __init__(self, address: str | Path, *, k: int, after: bool = False) -> None:
        super().__init__(address)
        self.k, self.after, self.calls = k, after, 0

    def _step(self, when_after: bool) -> None:
        if when_after == self.after:
            self.calls += 1
            if self.calls >= self.k:
                raise Killed

    def read(self, name: str) -> bytes:
        self._step(False)
        content = super().read(name)
        self._step(True)
        return content

    def write(self, name: str, content: bytes) -> None:
        self._step(False)
        super().write(name, content)
        self._step(True)

    def files(self, suffix: str = "") -> dict[str, int]:
        self._step(False)
        return super().files(suffix)

    def delete(self, name: str) -> None:
        self._step(False)
        super().delete(name)
        self._step(True)


class MeetingFolder(Folder):
    """Calls `meet` before each call that changes or reads a file."""

    def __init__(self, address: str | Path, meet: Callable[[str, str], None]) -> None:
        super().__init__(address)
        self.meet = meet

    def read(self, name: str) -> bytes:
        self.meet("read", name)
        return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        self.meet("write", name)
        super().write(name, content)

    def delete(self, name: str) -> None:
        self.meet("delete", name)
        super().delete(name)


def quarantined(step: int, *, run: str = "r", attempts: int = 1) -> CheckpointRows:
    failed = checkpoint_rows(step, run=run, status="quarantined")
    failed.checkpoint["attempts"] = attempts
    return failed


def make_store(path: Path, *, n: int = 11) -> Store:
    store = Store(path)
    store.bind({"corpus": "abc"})
    for run, steps in (("a/b", range(1, n + 1)), ("r", (10, 20, 30))):
        for step in steps:
            store.commit(checkpoint_rows(step, run=run))
    store.commit(quarantined(20))
    store.commit(quarantined(40))
    store.commit(quarantined(40, attempts=2))
    return store


def tables(store: Store) -> Tables:
    return tuple(
        table.to_pylist()
        for table in (
            store.checkpoints(), store.accuracies(), store.losses(), store.token_losses(),
        )
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store")


def test_compact_leaves_one_file_a_run_and_the_same_tables(store: Store) -> None:
    before = tables(store)
    summary = compact(store)
    assert (summary.runs, summary.runs_compacted, summary.checkpoints_compacted) == (2, 2, 15)
    assert (summary.files_before, summary.files_after) == (17, 2)
    assert tables(store) == before
    assert len(store.folder.files(".parquet")) == 2
    assert store.has(("s", "r", 10)) == "done"
    assert store.has(("s", "r", 40)) == "quarantined"
    assert store.has(("s", "r", 50)) is None
    again = compact(store)
    assert (again.runs_compacted, again.files_after) == (0, 2)


def test_compact_again_takes_in_what_was_committed_since(store: Store) -> None:
    compact(store)
    store.commit(checkpoint_rows(40))
    store.commit(checkpoint_rows(50))
    store.commit(quarantined(10, attempts=5))
    before = tables(store)
    assert store.has(("s", "r", 40)) == "done"
    compact(store)
    assert tables(store) == before
    assert store.status()["s", "r", 40] == store.status()["s", "r", 10] == "done"
    assert len(store.folder.files(".parquet")) == 2


def test_compact_puts_the_checkpoints_of_a_text_together_in_row_groups(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.bind({})
    for step in range(1, 12):
        rows = checkpoint_rows(step)
        # 1 MiB of losses each: four checkpoints to a row group.
        rows.token_losses[0]["losses"] = np.full(2**19, step, np.float16)
        store.commit(rows)
    compact(store)
    (path,) = (tmp_path / "store" / "units").glob("s/r/*.parquet")
    file = pq.ParquetFile(path)
    kinds = file.read(columns=["kind"]).column("kind").to_pylist()
    assert kinds == ["corpus"] * 11 + ["done"] * 11 + ["task"] * 11
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 25]
    last = file.read_row_group(1, columns=["token_losses"]).column(0).to_pylist()
    assert [row[0]["losses"][2] for row in last] == [5.0, 6.0, 7.0, 8.0]


def test_compact_keeps_nan_and_null(store: Store) -> None:
    odd = checkpoint_rows(60)
    odd.accuracies[0]["stderr"] = float("nan")
    odd.losses[0]["flops"] = None
    store.commit(odd)
    compact(store)
    (found,) = [row for row in store.accuracies().to_pylist() if row["step"] == 60]
    assert found["stderr"] != found["stderr"]
    assert store.losses().column("flops").null_count == 1


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compact_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path, after: bool) -> None:
    n_killed = 0
    whole = make_store(tmp_path / "whole", n=2)
    before = tables(whole)
    for k in itertools.count(1):
        store = Store(shutil.copytree(whole.folder.address, tmp_path / str(k)))
        try:
            compact(Store(FaultyFolder(store.folder.address, k=k, after=after)))
        except Killed:
            n_killed += 1
        else:
            break
        assert tables(store) == before
        compact(store)
        assert tables(store) == before
        assert len(store.folder.files(".parquet")) == 2
    # Reads and deletes of 8 files, two new ones written and read.
    assert n_killed >= 2 * 8 + 2 * 2


@pytest.mark.parametrize("call", ["read", "write", "delete"])
@pytest.mark.parametrize("at", [1, 2, 5, 14])
def test_compact_overtaken_by_another_loses_nothing(store: Store, call: str, at: int) -> None:
    before, calls = tables(store), 0

    def meet(name: str, _: str) -> None:
        nonlocal calls
        calls += name == call
        if name == call and calls == at:
            compact(Store(store.folder))

    compact(Store(MeetingFolder(Path(store.folder.address), meet)))
    assert tables(store) == before
    compact(store)
    assert tables(store) == before
    assert len(store.folder.files(".parquet")) == 2


def test_compact_by_several_at_once_loses_nothing(store: Store) -> None:
    before = tables(store)
    barrier, errors = threading.Barrier(3), []

    def run() -> None:
        barrier.wait()
        try:
            compact(Store(store.folder))
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = [tables(store) for _ in range(5)]
    for thread in threads:
        thread.join()
    assert not errors
    assert all(found == before for found in seen)
    assert tables(store) == before


@pytest.mark.parametrize("at", range(1, 20))
def test_compact_while_an_extraction_commits_loses_nothing(store: Store, at: int) -> None:
    calls = itertools.count(1)

    def meet(_: str, name: str) -> None:
        if next(calls) == at:
            store.commit(checkpoint_rows(40))  # was quarantined
            store.commit(checkpoint_rows(10))  # once more
            store.commit(checkpoint_rows(70))
            store.commit(quarantined(80))

    compact(Store(MeetingFolder(Path(store.folder.address), meet)))
    status = store.status()
    assert status["s", "r", 40] == status["s", "r", 70] == status["s", "r", 10] == "done"
    assert status["s", "r", 80] == "quarantined"
    assert len(status) == 17
    compact(store)
    assert store.status() == status


def test_read_while_a_compaction_replaces_files_misses_nothing(store: Store) -> None:
    before = tables(store)

    class Overtaken(Folder):
        """The listing is old: a compaction has run since, but for the deletion of some."""

        done = False

        def __truediv__(self, name: str) -> Folder:
            listed = Folder(self.address) / name
            if not Overtaken.done:
                Overtaken.done = True
                old = listed.files()
                compact(store)
                listed.files = lambda _: old  # type: ignore[method-assign]
            return listed

    assert Store(Overtaken(Path(store.folder.address))).checkpoints().to_pylist() == before[0]
    assert Overtaken.done


def test_compact_damaged_unit_is_left_alone(store: Store) -> None:
    name = "units/s/r/000000000020.parquet"
    (Path(store.folder.address) / name).write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(StoreError, match=r"000000000020\.parquet.*Delete this file"):
        compact(store)
    assert (Path(store.folder.address) / name).exists()
    (Path(store.folder.address) / name).unlink()
    compact(store)
    assert store.has(("s", "r", 20)) == "quarantined"


def test_compact_storage_that_returns_something_else_deletes_nothing(store: Store) -> None:
    before = tables(store)

    class Forgetful(Folder):
        def write(self, name: str, content: bytes) -> None:
            super().write(name, content[:-1] + b"x")

    with pytest.raises(StorageError, match="did not return"):
        compact(Store(Forgetful(Path(store.folder.address))))
    for path in (Path(store.folder.address) / "units").glob("*/*/compact-*"):
        path.unlink()
    assert tables(store) == before


def test_compact_not_a_store_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a trajectory store"):
        compact(Store(tmp_path))


_OPERATIONS = st.lists(
    st.one_of(
        st.just(None),
        st.tuples(st.integers(0, 3), st.sampled_from(["done", "quarantined"]), st.integers(1, 3)),
    ),
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(_OPERATIONS)
def test_compact_at_any_times_changes_no_table(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[int, str, int] | None]
) -> None:
    compacted, plain = (Store(tmp_path_factory.mktemp("store")) for _ in range(2))
    compacted.bind({})
    plain.bind({})
    for operation in operations:
        if operation is None:
            compact(compacted)
            continue
        step, status, attempts = operation
        one = checkpoint_rows(step, status=status)
        one.checkpoint["attempts"] = attempts if status != "done" else 1
        compacted.commit(one)
        plain.commit(one)
    assert tables(compacted) == tables(plain)
