"""Parts of checkpoints and the log-probabilities of choices: kept, merged, read back."""

import json
from pathlib import Path

import numpy as np
import pytest
from rows import accuracy, checkpoint_rows, loss
from s3_server import S3Server
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_PARTIAL
from neuneu.core.errors import StoreError, UserError
from neuneu.data.choice_metrics import task_metrics
from neuneu.data.choices import ItemSet
from neuneu.data.load import load_dataset
from neuneu.data.schemas import CHOICES, LOSSES
from neuneu.data.store.check import check
from neuneu.data.store.compaction import compact
from neuneu.data.store.parts import Part, PartRecord
from neuneu.data.store.store import CheckpointRows, Store, TaskEvidence

TEXT = Part("corpus", "v", 0, "k")


def items(task: str, n_items: int = 3) -> ItemSet:
    """Items of two choices of 4 and 2 characters; the first is right."""
    return ItemSet(
        task=task,
        task_hash=f"hash-{task}",
        format="rc",
        num_fewshot=0,
        docs=np.repeat(np.arange(n_items) * 5, 2),
        choices=np.tile([0, 1], n_items),
        labels=np.zeros(n_items, np.int64),
        n_tokens=np.full(2 * n_items, 2),
        n_chars=np.tile([4, 2], n_items),
        n_bytes=np.tile([4, 3], n_items),
    )


def part(task: str) -> Part:
    return Part("task", task, 0, f"hash-{task}")


def sums(task: str, step: int, n_items: int = 3) -> np.ndarray:
    rng = np.random.default_rng([len(task), ord(task[0]), step])
    return -rng.gamma(4, 1, 2 * n_items).astype(np.float32)


def scored(
    step: int, tasks: str, *, text: bool = False, alone: bool = False, attempts: int = 1
) -> CheckpointRows:
    """A commit of tasks named by single letters, and the text where wanted."""
    whole = checkpoint_rows(step)
    whole.checkpoint["attempts"] = attempts
    who = {"suite": "s", "run": "r", "step": step}
    accuracies = []
    evidence = {}
    for task in tasks:
        values = sums(task, step)
        found = task_metrics(items(task), values[None], metrics=["acc", "acc_norm"])
        accuracies += [
            accuracy(
                **who, task=task, metric=metric, value=float(series.values[0]),
                stderr=float(series.stderrs[0]),
            )
            for metric, series in found.items()
        ]  # fmt: skip
        evidence[part(task)] = TaskEvidence(
            logprobs=values, unconditional=values / 2 if alone else None, ties=1
        )
    return CheckpointRows(
        checkpoint=whole.checkpoint,
        accuracies=accuracies,
        losses=[
            *(whole.losses if text else []),
            *(loss(**who, name=t, metric="bpb") for t in tasks),
        ],
        token_losses=whole.token_losses if text else [],
        parts=[*map(part, tasks), *([TEXT] if text else [])],
        evidence=evidence,
    )


def fill(store: Store) -> Store:
    store.bind({"dtype": "float32"}, corpus="v")
    store.claim([PartRecord(part=p) for p in (part("a"), part("b"), TEXT)])
    for task in "ab":
        store.write_items(items(task), "t")
    for step in (10, 20):
        store.commit(scored(step, "a", text=True))
    for step in (10, 20, 30):
        store.commit(scored(step, "b", alone=True, attempts=2))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return fill(Store(tmp_path / "store"))


def test_parts_of_a_checkpoint_merge(store: Store) -> None:
    for _ in range(2):
        found = store.progress()
        assert found["s", "r", 10].parts == {part("a"): 6, part("b"): 6, TEXT: 0}
        assert found["s", "r", 30].missing([part("a"), part("b"), TEXT]) == [part("a"), TEXT]
        assert store.progress(("s", "r", 20)) == {("s", "r", 20): found["s", "r", 20]}
        rows = store.checkpoints().to_pylist()
        assert [(row["step"], row["attempts"], row["ties"]) for row in rows] == [
            (10, 2, 2), (20, 2, 2), (30, 2, 1),
        ]  # fmt: skip
        tasks = store.accuracies().select(["step", "task", "metric"]).to_pylist()
        assert len(tasks) == 2 * 2 + 3 * 2
        assert store.token_losses().column("step").to_pylist() == [10, 20]
        assert store.losses().num_rows == 2 * 2 + 3
        compact(store)
        assert len(store.folder.files(".parquet")) == 3  # the run, and two item sets
    assert check(store).duplicates == 0


def test_a_part_scored_again_replaces_that_part_only(store: Store) -> None:
    again = scored(10, "a", attempts=3)
    again.evidence[part("a")].logprobs[:] = -7
    store.commit(again)
    a, b = store.choices()
    assert (a.logprobs[0] == -7).all()
    assert (a.logprobs[1] == sums("a", 20)).all()
    assert (b.logprobs[0] == sums("b", 10)).all()
    assert store.progress()["s", "r", 10].parts[TEXT] == 0
    assert check(store).duplicates == 1


def test_quarantine_of_a_later_attempt_counts_until_the_parts_are_there(store: Store) -> None:
    failed = checkpoint_rows(30, status="quarantined")
    failed.checkpoint["attempts"] = 3
    store.commit(failed)
    key = ("s", "r", 30)
    for _ in range(2):
        found = store.progress()[key]
        assert (found.done, found.quarantined, found.attempts) == (True, True, 3)
        assert store.errors() == {key: "why"}
        assert store.status()[key] == store.has(key) == "done"
        assert store.accuracies().num_rows == 10
        compact(store)
    store.commit(scored(30, "a", text=True, attempts=4))
    assert not store.progress()[key].quarantined


def test_choices_are_matrices_of_a_run_and_task(store: Store) -> None:
    for _ in range(2):
        a, b = store.choices()
        assert (a.family, a.suite, a.run, a.params) == ("f", "s", "r", 1e6)
        assert (a.items.task, a.steps.tolist(), a.tokens.tolist()) == ("a", [10, 20], [1e4, 2e4])
        assert a.logprobs.dtype == np.float32
        assert (a.logprobs == np.stack([sums("a", step) for step in (10, 20)])).all()
        assert a.unconditional is None
        assert b.unconditional is not None
        assert (b.unconditional[2] == sums("b", 30) / 2).all()
        for name, values in vars(items("b")).items():
            found = getattr(b.items, name)
            assert np.array_equal(found, values), name
        compact(store)
    assert [c.items.task for c in store.choices(tasks=["b"])] == ["b"]
    assert list(store.choices(runs=["other"])) == []


def test_choices_of_one_task_skip_row_groups_of_others(tmp_path: Path, s3: S3Server) -> None:
    store = Store(f"s3://{s3.bucket}/store")
    store.bind({})
    for task in "ab":
        store.write_items(items(task, 400_000), "t")
    for step in (10, 20, 30):
        rows = scored(step, "ab")
        for task in "ab":
            rng = np.random.default_rng(step)
            rows.evidence[part(task)] = TaskEvidence(
                logprobs=rng.normal(size=800_000).astype(np.float32)
            )
        store.commit(rows)
    compact(store)
    before = s3.bytes_sent
    (a,) = store.choices(tasks=["a"])
    moved = s3.bytes_sent - before
    assert a.logprobs.shape == (3, 800_000)
    # Compressed values of task a (8 MB), none of task b, and items.
    assert 6e6 < moved < 10e6


def test_choices_as_a_tidy_table(store: Store) -> None:
    _, b = store.choices()
    table = b.table()
    assert table.schema.names == CHOICES.names
    assert table.num_rows == 3 * 6
    row = table.slice(7, 1).to_pylist()[0]
    assert (row["step"], row["doc"], row["choice"], row["label"]) == (20, 0, 1, 0)
    assert row["logprob"] == sums("b", 20)[1]
    assert row["unconditional_logprob"] == sums("b", 20)[1] / 2
    assert (row["n_tokens"], row["n_chars"], row["n_bytes"]) == (2, 2, 3)
    a, _ = store.choices()
    assert a.table().column("unconditional_logprob").null_count == 12


def test_evidence_without_its_items_is_damage(store: Store) -> None:
    (Path(store.folder.address) / "items/hash-a-t.parquet").unlink()
    (Path(store.folder.address) / "items/hash-b-t.parquet").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match=r"hash-a-t.parquet: expected an item set, found none"):
        list(store.choices())
    report = check(store)
    assert sorted(report.damaged) == ["items/hash-a-t.parquet", "items/hash-b-t.parquet"]
    assert store.accuracies().num_rows == 10


def test_evidence_costs_four_bytes_a_choice(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.bind({})
    rng = np.random.default_rng(0)
    rows = scored(10, "a")
    logprobs = -rng.gamma(8, 2, 81_000).astype(np.float32)
    rows.evidence[part("a")] = TaskEvidence(logprobs=logprobs)
    store.commit(rows)
    (size,) = store.folder.files(".parquet").values()
    assert size < 4 * 81_000 + 20_000
    items_of = items("a", 40_500)
    store.write_items(items_of, "t")
    (size,) = (n for name, n in store.folder.files().items() if name.startswith("items"))
    assert size < 2 * 81_000


def test_several_texts_are_told_apart(store: Store) -> None:
    code = Part("corpus", "code", 0, "c")
    store.claim([PartRecord(part=code)])
    whole = checkpoint_rows(10)
    whole.checkpoint["attempts"] = 3
    store.commit(
        CheckpointRows(
            checkpoint=whole.checkpoint,
            accuracies=[],
            losses=[row | {"name": "code"} for row in whole.losses],
            token_losses=[
                row | {"corpus_hash": "c", "losses": [9.0, 9.0, 9.0]} for row in whole.token_losses
            ],
            parts=[code],
        )
    )
    assert store.token_losses().num_rows == 3
    assert store.token_losses("code").column("losses").to_pylist() == [[9.0, 9.0, 9.0]]
    assert store.main_corpus() == "v"
    data = load_dataset(store, log_notes=False)
    assert data.token_losses is not None
    assert data.token_losses.corpus_hash == "k"
    assert store.texts() == ["code", "v"]
    for given in (
        load_dataset(store, corpus="code", log_notes=False),
        load_dataset(store, reference=store, corpus="code", log_notes=False).reference,
    ):
        assert given is not None
        assert given.token_losses is not None
        assert given.token_losses.corpus_hash == "c"
    with pytest.raises(UserError, match=r"corpus=web: expected a .* which has 'code', 'v'; choose"):
        load_dataset(store, corpus="web")
    with pytest.raises(UserError, match="corpus=v: expected a store with the token losses"):
        load_dataset([accuracy(step=step) for step in (10, 20)], corpus="v")


def test_a_name_means_one_content(store: Store) -> None:
    other = PartRecord(part=Part("task", "a", 0, "other"))
    with pytest.raises(StoreError, match=r"another task 'a' \(content hash-a, this run other\)"):
        store.claim([other])
    store.claim([PartRecord(part=Part("task", "a", 5, "other"))])  # another number of shots
    (Path(store.folder.address) / "parts/task-0-a.json").write_text("{")
    with pytest.raises(StoreError, match=r"task-0-a.json: not readable as a record"):
        store.tasks()


def test_metrics_are_recomputed_from_evidence(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["store", "metrics", str(store.folder), "-o", str(out), "--json"]
    )
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["choices"], summary["differing"]) == (2 * 6 + 3 * 6, 0)
    data = load_dataset(out / "accuracies.parquet", losses=out / "losses.parquet", log_notes=False)
    stored = store.accuracies().to_pylist()
    found = {(t.task, t.metric): t for t in data.trajectories}
    for row in stored:
        one = found[row["task"], row["metric"]]
        at = one.steps.tolist().index(row["step"])
        assert (one.values[at], one.stderrs[at]) == (row["value"], row["stderr"])
    assert set(found["a", "acc"].signals) == {"bpb", "p_gold"}
    edited = scored(10, "a", attempts=9)
    edited.accuracies[0]["value"] = 0.123
    store.commit(edited)
    done = CliRunner().invoke(app, ["store", "metrics", str(store.folder), "--tasks", "a"])
    assert done.exit_code == EXIT_PARTIAL
    assert "differing: 1" in done.stdout


def test_store_with_evidence_on_s3_reads_as_on_disk(s3: S3Server, tmp_path: Path) -> None:
    local, there = fill(Store(tmp_path / "store")), fill(Store(f"s3://{s3.bucket}/store"))
    for _ in range(2):
        for here, other in zip(local.choices(), there.choices(), strict=True):
            assert (here.logprobs == other.logprobs).all()
        assert there.progress() == local.progress()
        assert there.losses().schema.names == LOSSES.names
        assert there.records() == local.records()
        compact(there)
    assert check(there).damaged == {}
