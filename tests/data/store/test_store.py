"""The trajectory store: whole units, resume, fingerprint."""

import io
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import accuracy, checkpoint_rows

from neuneu.core.errors import DataError, StoreError
from neuneu.core.storage import Folder
from neuneu.data.store.names import safe_name
from neuneu.data.store.store import CheckpointRows, Store
from neuneu.data.trajectories import TokenLossTable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.bind({"corpus": "abc", "limit": 100})
    return store


def test_store_commit_then_read_returns_the_tidy_tables(store: Store) -> None:
    store.commit(checkpoint_rows(20))
    store.commit(checkpoint_rows(10))
    store.commit(checkpoint_rows(30, status="quarantined"))
    assert store.accuracies().column("step").to_pylist() == [10, 20]
    assert store.accuracies().column("value").to_pylist() == [0.25, 0.25]
    assert store.losses().num_rows == 2
    assert store.status() == {
        ("s", "r", 10): "done", ("s", "r", 20): "done", ("s", "r", 30): "quarantined",
    }  # fmt: skip
    losses = TokenLossTable.from_table(store.token_losses())
    assert losses is not None
    assert losses.matrix[losses.rows["s", "r", 20]].tolist() == [1.0, 2.5, 20.0]


def test_store_commit_again_replaces_never_duplicates(store: Store) -> None:
    store.commit(checkpoint_rows(10, status="quarantined"))
    store.commit(checkpoint_rows(10))
    assert store.status() == {("s", "r", 10): "done"}
    assert store.accuracies().num_rows == 1


def test_store_done_beats_quarantined_then_attempts_count(store: Store) -> None:
    store.commit(checkpoint_rows(10))
    store.commit(checkpoint_rows(10, status="quarantined"))
    for attempts in (3, 1, 2):
        failed = checkpoint_rows(20, status="quarantined")
        failed.checkpoint.update(attempts=attempts, error=f"try {attempts}")
        store.commit(failed)
    assert store.status() == {("s", "r", 10): "done", ("s", "r", 20): "quarantined"}
    assert store.accuracies().num_rows == 1
    assert store.checkpoints().column("error").to_pylist() == [None, "try 3"]


def test_store_has_gives_one_status(store: Store) -> None:
    store.commit(checkpoint_rows(10))
    store.commit(checkpoint_rows(100, status="quarantined"))
    assert store.has(("s", "r", 10)) == "done"
    assert store.has(("s", "r", 100)) == "quarantined"
    assert store.has(("s", "r", 1)) is None
    assert store.has(("s", "other", 10)) is None


def test_store_tables_are_in_order_of_keys(store: Store) -> None:
    for run, step in (("b", 20), ("a", 100), ("b", 3), ("a", 9)):
        store.commit(checkpoint_rows(step, run=run))
    keys = [("a", 9), ("a", 100), ("b", 3), ("b", 20)]
    for table in (store.checkpoints(), store.losses(), store.token_losses()):
        found = table.select(["run", "step"]).to_pylist()
        assert [(row["run"], row["step"]) for row in found] == keys


def test_store_status_reads_no_token_losses(store: Store) -> None:
    long = checkpoint_rows(10)
    long.token_losses[0]["losses"] = random.Random(0).choices(range(2000), k=200_000)
    store.commit(long)
    (size,) = store.folder.files(".parquet").values()

    class CountingFolder(Folder):
        n_bytes = 0

        @contextmanager
        def open(self, name: str) -> Iterator[BinaryIO]:
            with super().open(name) as file:

                class Counted(io.BytesIO):
                    def read(self, size: int | None = -1) -> bytes:
                        content = super().read(size)
                        CountingFolder.n_bytes += len(content)
                        return content

                yield Counted(file.read())

    folder = CountingFolder(store.folder)
    assert Store(folder).status() == {("s", "r", 10): "done"}
    assert 0 < CountingFolder.n_bytes < 70_000 < size


def test_store_new_store_is_empty_tables(store: Store) -> None:
    assert store.accuracies().num_rows == store.losses().num_rows == 0
    assert store.checkpoints().num_rows == store.tasks().num_rows == 0
    assert TokenLossTable.from_table(store.token_losses()) is None


def test_store_bind_other_fingerprint_names_the_difference(store: Store) -> None:
    store.bind({"corpus": "abc", "limit": 100})
    with pytest.raises(StoreError, match="limit: store has 100, this run 50"):
        store.bind({"corpus": "abc", "limit": 50})


def test_store_bind_by_two_at_once_never_mixes(tmp_path: Path) -> None:
    for attempt in range(20):
        barrier, refused = threading.Barrier(2), []

        def bind(corpus: str, path: Path, barrier: threading.Barrier, out: list[str]) -> None:
            barrier.wait()
            try:
                Store(path).bind({"corpus": corpus})
            except StoreError:
                out.append(corpus)

        path = tmp_path / str(attempt)
        threads = [
            threading.Thread(target=bind, args=(name, path, barrier, refused)) for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = {"a", "b"} - set(refused)
        assert Store(path).fingerprint() == {"corpus": winner}
        assert [file.name for file in path.iterdir()] == ["store.json"]


def test_store_bind_loser_between_look_and_write_is_refused(tmp_path: Path) -> None:
    class Overtaken(Folder):
        def create(self, name: str, content: bytes) -> bool:
            Store(Folder(self.address)).bind({"corpus": "first"})
            return super().create(name, content)

    with pytest.raises(StoreError, match="corpus: store has 'first', this run 'second'"):
        Store(Overtaken(tmp_path)).bind({"corpus": "second"})


def test_store_not_a_store_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected a trajectory store"):
        Store(tmp_path).accuracies()
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="not readable"):
        Store(tmp_path).fingerprint()


def test_store_truncated_unit_names_file_and_cure(store: Store) -> None:
    store.commit(checkpoint_rows(10))
    (path,) = (Path(store.folder.address) / "units").glob("*/*/*.parquet")

    def read_all(store: Store) -> None:
        for table in (store.accuracies, store.losses, store.token_losses):
            table()

    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 4] ^= 0xFF
    for damaged in (content[:200], content[:-50], b"", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"000000000010.parquet.*Delete this file"):
            read_all(store)


def test_store_commit_rows_of_another_checkpoint_writes_nothing(store: Store) -> None:
    good = checkpoint_rows(10)
    mixed = CheckpointRows(
        checkpoint=good.checkpoint, accuracies=[accuracy(step=11)], losses=[], token_losses=[]
    )
    with pytest.raises(DataError, match="does not belong"):
        store.commit(mixed)
    assert store.status() == {}


def test_store_commit_invalid_accuracy_writes_nothing(store: Store) -> None:
    good = checkpoint_rows(10)
    bad = CheckpointRows(
        checkpoint=good.checkpoint, accuracies=[accuracy(value=1.5)], losses=[], token_losses=[]
    )
    with pytest.raises(DataError, match=r"value is 1\.5"):
        store.commit(bad)
    assert store.status() == {}


@given(st.text(min_size=1, max_size=80))
def test_safe_name_is_one_harmless_path_part(name: str) -> None:
    safe = safe_name(name)
    assert "/" not in safe
    assert safe not in {"", ".", ".."}
    assert not safe.startswith(".")
    assert (Path("units") / safe).parent == Path("units")


def test_store_names_that_clean_alike_stay_apart(store: Store) -> None:
    for run in ("a/b", "a b", "../a", "A:b"):
        store.commit(checkpoint_rows(10, run=run))
    assert {run for _, run, _ in store.status()} == {"a/b", "a b", "../a", "A:b"}
    assert not list(Path(store.folder.address).parent.glob("a*"))
