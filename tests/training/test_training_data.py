"""Selection, splits and provenance of training data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from curves import family, trajectory
from rows import accuracy, checkpoint_rows, loss

from neuneu.core.config import build_config
from neuneu.core.errors import DataError, UserError
from neuneu.data.fingerprints import fingerprint, fingerprints
from neuneu.data.store.parts import Part, PartRecord
from neuneu.data.store.store import Store
from neuneu.data.trajectories import TokenLossTable
from neuneu.training.config import TrainConfig
from neuneu.training.data import prepare, read_source


def config(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, {"output": "x", "store": "s", **changes})


def words(runs: list[str], n: int = 14) -> TokenLossTable:
    keys = [("s", run, step) for run in runs for step in range(1, n + 1)]
    matrix = np.random.default_rng(0).uniform(0, 5, (len(keys), 33)).astype(np.float16)
    rows = {key: row for row, key in enumerate(keys)}
    return TokenLossTable(matrix=matrix, rows=rows, unit="word", corpus_hash="c")


def test_split_by_run_keeps_validation_and_held_out_runs_apart() -> None:
    runs = family(["a", "b", "c"])
    data = prepare(config(validation_runs=["b"], held_out_runs=["c"]), runs, None)
    assert list(data.runs) == ["f/a"]
    assert set(data.train.trajectory) == set(range(6))
    assert set(data.validation.trajectory) == set(range(6, 12))
    assert len(data.series.lengths) == 12


def test_step_zero_is_excluded() -> None:
    part = trajectory([0.1, 0.2, 0.3], steps=[0, 5, 10])
    data = prepare(config(), [part], None)
    assert data.series.values.tolist() == pytest.approx([0.2, 0.3])


def test_cnn_takes_its_size_from_the_data() -> None:
    data = prepare(config(model={"encoder": {"kind": "cnn"}}), family(["a"]), words(["a"]))
    assert data.model.encoder.units == 33
    assert data.corpus_hash == "c"


def test_mean_loss_is_standardised_on_training_runs_only() -> None:
    low = trajectory([0.1] * 3, run="a", losses={"v": np.array([1.0, 2.0, 3.0])})
    high = trajectory([0.1] * 3, run="b", losses={"v": np.array([50.0, 60.0, 70.0])})
    wanted = config(model={"encoder": {"kind": "mean"}}, validation_runs=["b"])
    encoder = prepare(wanted, [low, high], None).model.encoder
    assert encoder.loss_mean == pytest.approx(2.0)
    assert encoder.loss_std == pytest.approx(np.std([1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_runs": ["nope"]}, "nope"),
        ({"held_out_runs": ["nope"]}, "nope"),
        ({"metrics": ["f1"]}, "metrics \\['f1'\\] are not in the table"),
        ({"held_out_tasks": ["zz"]}, "held_out_tasks \\['zz'\\]"),
        ({"held_out_runs": ["a"], "validation_runs": ["a"]}, "choose one"),
        ({"validation_runs": ["a"]}, "no samples are left"),
        ({"model": {"encoder": {"kind": "cnn"}}}, "reads word losses and the source has none"),
        ({"loss_names": ["w"], "model": {"encoder": {"kind": "mean"}}}, "no training trajectory"),
    ],
)
def test_mistakes_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(config(**changes), family(["a"]), None)


def test_cnn_of_another_size_is_refused() -> None:
    wanted = config(model={"encoder": {"kind": "cnn", "units": 40}})
    with pytest.raises(DataError, match="units is 40, the word losses have 33"):
        prepare(wanted, family(["a"]), words(["a"]))


def test_source_must_be_one_of_store_and_table() -> None:
    for changes in ({"store": None}, {"accuracies": "a.csv"}):
        with pytest.raises(UserError, match="either `store`"):
            read_source(config(**changes))


def test_word_losses_are_those_of_the_text_that_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.bind({}, corpus="prose")
    texts = [Part("corpus", name, 0, f"hash-{name}") for name in ("prose", "code")]
    store.claim([PartRecord(part=text) for text in texts])
    for step in (10, 20, 30):
        for attempts, text in enumerate(texts, 1):
            rows = checkpoint_rows(step)
            found = [row | {"corpus_hash": text.hash} for row in rows.token_losses]
            store.commit(replace(
                rows, losses=[], token_losses=found, parts=[text],
                checkpoint=rows.checkpoint | {"attempts": attempts},
                accuracies=[row | {"task": "t"} for row in rows.accuracies],
            ))  # fmt: skip
    cnn = {"encoder": {"kind": "cnn"}}
    for corpus, expected in ((None, "hash-prose"), ("prose", "hash-prose"), ("code", "hash-code")):
        wanted = config(store=str(store.folder), corpus=corpus, model=cnn)
        assert prepare(wanted, *read_source(wanted)).corpus_hash == expected
    with pytest.raises(UserError, match=r"corpus=web: .* has 'code', 'prose'; choose one"):
        read_source(config(store=str(store.folder), corpus="web", model=cnn))
    for changes in ({"model": {"encoder": {"kind": "mean"}}}, {"cross_run": {}}):
        with pytest.raises(UserError, match="corpus=code: expected an encoder that reads word"):
            read_source(config(store=str(store.folder), corpus="code", **changes))


def test_tables_are_read_as_csv(tmp_path: Path) -> None:
    rows = [accuracy(step=step, value=step / 100) for step in (10, 20, 30)]
    losses = [loss(step=step, value=4.0 - step / 100) for step in (10, 20, 30)]
    for name, table in (("acc", rows), ("loss", losses)):
        pyarrow.csv.write_csv(pa.Table.from_pylist(table), tmp_path / f"{name}.csv")
    wanted = config(
        store=None,
        accuracies=str(tmp_path / "acc.csv"),
        losses=str(tmp_path / "loss.csv"),
        model={"encoder": {"kind": "mean"}},
    )
    assert len(prepare(wanted, *read_source(wanted)).train) == 3


def test_run_table_is_read_beside_tables(tmp_path: Path) -> None:
    rows = [accuracy(step=step) for step in (10, 20)]
    for name, table in (("acc", rows), ("runs", [{"run": "r", "schedule": "constant"}])):
        pyarrow.csv.write_csv(pa.Table.from_pylist(table), tmp_path / f"{name}.csv")
    paths = {"accuracies": str(tmp_path / "acc.csv"), "run_table": str(tmp_path / "runs.csv")}
    (one,), _ = read_source(config(store=None, **paths))
    assert one.schedule == "constant"


def test_digest_changes_with_a_value_and_a_role() -> None:
    runs = family(["a", "b"])
    digest = prepare(config(), runs, None).digest
    values = runs[0].values.copy()
    values[3] += 0.001
    changed = [replace(runs[0], values=values), *runs[1:]]
    assert prepare(config(), runs, None).digest == digest
    assert prepare(config(), changed, None).digest != digest
    told = [replace(runs[0], stderrs=np.full(len(runs[0]), 0.02)), *runs[1:]]
    assert prepare(config(), told, None).digest != digest  # objective.noise weighs by them
    assert prepare(config(validation_runs=["b"]), runs, None).digest != digest


def test_fingerprint_recognises_a_renamed_beginning() -> None:
    whole = family(["a"])[0]
    start = replace(whole.slice(0, 4), run="other", suite="elsewhere")
    assert fingerprint(whole) == fingerprint(start)
    assert fingerprint(whole) != fingerprint(family(["a"], seed=1)[0])
    assert fingerprint(whole.slice(0, 2)) is None
    assert len(fingerprints(family(["a", "b"]))["f/b"]) == 6
