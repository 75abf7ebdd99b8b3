"""What is in a store and whether it is sound, as functions and as `neuneu store`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rows import accuracy, checkpoint_rows
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_PARTIAL, EXIT_USER_ERROR
from neuneu.core.errors import StoreError
from neuneu.data.checkpoints import CheckpointRef
from neuneu.data.store.attempts import AttemptLedger
from neuneu.data.store.check import check, summarize
from neuneu.data.store.compaction import compact
from neuneu.data.store.store import CheckpointRows, Store


def failed(step: int, error: str, *, run: str = "r", attempts: int = 1) -> CheckpointRows:
    one = checkpoint_rows(step, run=run, status="quarantined")
    one.checkpoint.update(error=error, attempts=attempts)
    return one


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.bind({"corpus": "abc"})
    for step in (10, 20, 30):
        store.commit(checkpoint_rows(step))
    store.commit(checkpoint_rows(10, run="other"))
    store.commit(failed(40, "step 40: tensor 7 is missing"))
    store.commit(failed(50, "step 50: tensor 8 is missing"))
    store.commit(failed(60, "the engine died"))
    return store


def begin(store: Store, step: int, *, run: str = "r") -> None:
    ref = CheckpointRef(
        family="f", suite="s", run=run, params=1.0, step=step, tokens=1.0, flops=6.0,
        planned_tokens=None, uri="x",
    )  # fmt: skip
    AttemptLedger(store.folder / "attempts", timeout_s=60).begin(ref)


def test_check_counts_what_is_there(store: Store) -> None:
    store.commit(failed(40, "again", attempts=2))
    begin(store, 70)
    report = check(store)
    assert report.fingerprint == {"corpus": "abc"}
    assert report.checkpoints == {"done": 4, "quarantined": 3}
    assert report.rows == {
        "tasks": 0, "accuracies": 4, "losses": 4, "token_losses": 4, "choices": 0,
    }  # fmt: skip
    assert (report.runs, report.files, report.files_compacted, report.duplicates) == (2, 8, 0, 1)
    assert (report.damaged, report.foreign) == ({}, [])
    compact(store)
    after = check(store)
    assert (after.checkpoints, after.rows) == (report.checkpoints, report.rows)
    assert (after.files, after.files_compacted, after.duplicates) == (2, 1, 0)


def test_check_names_damaged_and_foreign_files(store: Store) -> None:
    units = Path(store.folder.address) / "units" / "s"
    whole = (units / "r" / "000000000020.parquet").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 0xFF
    (units / "r" / "000000000010.parquet").write_bytes(whole[:-100])
    (units / "r" / "000000000020.parquet").write_bytes(flipped)
    (Path(store.folder.address) / "tasks.parquet").write_bytes(b"nonsense")
    (Path(store.folder.address) / "notes.txt").write_text("mine")
    (units / "r" / "30.parquet").write_bytes(whole)
    report = check(store)
    assert sorted(report.damaged) == [
        "tasks.parquet", "units/s/r/000000000010.parquet", "units/s/r/000000000020.parquet",
    ]  # fmt: skip
    assert all("elete" in text and "\n" not in text for text in report.damaged.values())
    assert report.foreign == ["notes.txt", "units/s/r/30.parquet"]
    assert report.checkpoints["done"] == 2


@pytest.mark.parametrize(
    "place",
    ["r/000000000011.parquet", "x/000000000010.parquet", "r/000000000010.quarantined-1.parquet"],
)
def test_check_notices_a_file_moved_by_hand(store: Store, place: str) -> None:
    units = Path(store.folder.address) / "units" / "s"
    (units / "x").mkdir()
    shutil.copy(units / "r" / "000000000010.parquet", units / place)
    report = check(store)
    assert list(report.damaged) == [f"units/s/{place}"]
    assert "belongs in units/s/r/000000000010.parquet" in report.damaged[f"units/s/{place}"]


def test_check_notices_a_broken_contract_across_checkpoints(store: Store) -> None:
    shrunk = checkpoint_rows(35)
    shrunk.accuracies[0] = accuracy(suite="s", run="r", step=35, tokens=1.0)
    store.commit(shrunk)
    assert "tokens do not grow with step" in check(store).damaged["accuracies"]


def test_check_names_runs_of_several_tokenizers(store: Store) -> None:
    assert check(store).mixed_tokenizers == {}
    for step, tokenizer in ((40, "u"), (50, None)):
        odd = checkpoint_rows(step)
        odd.checkpoint["tokenizer_hash"] = tokenizer
        store.commit(odd)
    lost = failed(70, "why", run="other")
    lost.checkpoint["tokenizer_hash"] = "v"
    store.commit(lost)
    report = check(store)
    assert report.mixed_tokenizers == {"s/r": {"t": 3, "u": 1}}
    assert report.damaged == {}
    code, out, _ = run("check", Path(store.folder.address))
    assert code == EXIT_PARTIAL
    assert "tokenizers differ in s/r, checkpoints by hash: {'t': 3, 'u': 1}" in out
    assert "mixed_tokenizers: 1" in out


@pytest.mark.parametrize("name", ["r", "s/r"])
def test_check_knows_where_an_extraction_allowed_several_tokenizers(
    store: Store, name: str
) -> None:
    odd = checkpoint_rows(40)
    odd.checkpoint["tokenizer_hash"] = "u"
    store.commit(odd)
    history = [{"config": {"seed": 0}}, {"config": {"mixed_tokenizers": [name]}}]
    store.folder.write("extraction.json", json.dumps(history).encode())
    assert check(store).mixed_tokenizers == {}
    store.folder.write("extraction.json", b"{")
    assert list(check(store).mixed_tokenizers) == ["s/r"]


def test_check_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a trajectory store"):
        check(Store(tmp_path))


def test_summarize_groups_reasons_by_run(store: Store) -> None:
    begin(store, 70)
    begin(store, 10, run="new")
    new, other, run = summarize(store)
    assert (new.run, new.done, new.quarantined, new.in_flight) == ("new", 0, 0, 1)
    assert (other.run, other.done, other.reasons) == ("other", 1, {})
    assert (run.run, run.done, run.quarantined, run.in_flight) == ("r", 3, 3, 1)
    assert run.reasons == {"step 40: tensor 7 is missing": 2, "the engine died": 1}


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["store", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_cli_check_sound_store_is_code_zero(store: Store) -> None:
    code, out, _ = run("check", Path(store.folder.address))
    assert code == 0
    assert "checkpoints: {'done': 4, 'quarantined': 3}" in out
    code, out, _ = run("check", Path(store.folder.address), "--json")
    assert code == 0
    assert json.loads(out)["checkpoints"] == {"done": 4, "quarantined": 3}


def test_cli_check_damaged_store_is_code_three(store: Store) -> None:
    (Path(store.folder.address) / "units/s/r/000000000010.parquet").write_bytes(b"PAR1")
    code, out, _ = run("check", Path(store.folder.address))
    assert code == EXIT_PARTIAL
    assert "damaged: " in out
    assert "000000000010.parquet" in out
    code, out, _ = run("check", Path(store.folder.address), "--json")
    assert code == EXIT_PARTIAL
    assert list(json.loads(out)["damaged"]) == ["units/s/r/000000000010.parquet"]


@pytest.mark.parametrize("command", ["check", "compact", "status"])
def test_cli_unusable_store_is_one_line_and_code_two(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for address in (tmp_path, tmp_path / "none", tmp_path / "file", "gs://bucket/x"):
        code, out, err = run(command, address)
        assert (code, out) == (EXIT_USER_ERROR, "")
        assert len(err.strip().splitlines()) == 1
        assert str(address) in err


def test_cli_compact_says_what_it_did(store: Store) -> None:
    code, out, _ = run("compact", Path(store.folder.address), "--json")
    assert code == 0
    assert json.loads(out) == {
        "store": store.folder.address, "runs": 2, "runs_compacted": 1, "checkpoints_compacted": 6,
        "files_before": 7, "files_after": 2,
    }  # fmt: skip


def test_cli_status_is_a_table_by_run(store: Store) -> None:
    begin(store, 70)
    code, out, _ = run("status", Path(store.folder.address))
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["s", "other", "1", "0", "0"] in lines
    assert ["s", "r", "3", "3", "1", "2", "x", "step", "40:", "tensor", "7", "is"] in (
        [line[:12] for line in lines]
    )
    assert ["all", "2", "runs", "4", "3", "1"] in lines
    code, out, _ = run("status", Path(store.folder.address), "--json")
    assert [one["done"] for one in json.loads(out)["runs"]] == [1, 3]


@pytest.mark.parametrize("command", ["check", "compact", "status"])
def test_cli_help_has_an_example(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: neuneu store {command}" in out


def test_cli_help_imports_no_heavy_library() -> None:
    code = (
        "import sys, neuneu.cli.store\n"
        "print([m for m in ('torch', 'ray', 'pyarrow', 'pydantic', 's3fs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
