"""The trajectory store: whole units, resume, fingerprint."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import accuracy, unit

from neuneu.errors import DataError, StoreError
from neuneu.store import Store, Unit, _safe_name
from neuneu.trajectories import TokenLossTable


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.bind({"corpus": "abc", "limit": 100})
    return store


def test_store_commit_then_read_returns_the_tidy_tables(store: Store) -> None:
    store.commit(unit(20))
    store.commit(unit(10))
    store.commit(unit(30, status="quarantined"))
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
    store.commit(unit(10, status="quarantined"))
    store.commit(unit(10))
    assert store.status() == {("s", "r", 10): "done"}
    assert store.accuracies().num_rows == 1


def test_store_new_store_is_empty_tables(store: Store) -> None:
    assert store.accuracies().num_rows == store.losses().num_rows == 0
    assert store.checkpoints().num_rows == store.tasks().num_rows == 0
    assert TokenLossTable.from_table(store.token_losses()) is None


def test_store_bind_other_fingerprint_names_the_difference(store: Store) -> None:
    store.bind({"corpus": "abc", "limit": 100})
    with pytest.raises(StoreError, match="limit: store has 100, this run 50"):
        store.bind({"corpus": "abc", "limit": 50})


def test_store_not_a_store_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"expected a trajectory store"):
        Store(tmp_path).accuracies()
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="not readable"):
        Store(tmp_path).fingerprint()


def test_store_truncated_unit_names_file_and_cure(store: Store) -> None:
    store.commit(unit(10))
    (path,) = (store.path / "units").glob("*/*/*.parquet")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match=r"000000000010.parquet.*Delete this file"):
        store.accuracies()


def test_store_commit_rows_of_another_checkpoint_writes_nothing(store: Store) -> None:
    good = unit(10)
    mixed = Unit(
        checkpoint=good.checkpoint, accuracies=[accuracy(step=11)], losses=[], token_losses=[]
    )
    with pytest.raises(DataError, match="does not belong"):
        store.commit(mixed)
    assert store.status() == {}


def test_store_commit_invalid_accuracy_writes_nothing(store: Store) -> None:
    good = unit(10)
    bad = Unit(
        checkpoint=good.checkpoint, accuracies=[accuracy(value=1.5)], losses=[], token_losses=[]
    )
    with pytest.raises(DataError, match=r"value is 1\.5"):
        store.commit(bad)
    assert store.status() == {}


@given(st.text(min_size=1, max_size=80))
def test_safe_name_is_one_harmless_path_part(name: str) -> None:
    safe = _safe_name(name)
    assert "/" not in safe
    assert safe not in {"", ".", ".."}
    assert not safe.startswith(".")
    assert (Path("units") / safe).parent == Path("units")


def test_store_names_that_clean_alike_stay_apart(store: Store) -> None:
    for run in ("a/b", "a b", "../a", "A:b"):
        store.commit(unit(10, run=run))
    assert {run for _, run, _ in store.status()} == {"a/b", "a b", "../a", "A:b"}
    assert not list(store.path.parent.glob("a*"))
