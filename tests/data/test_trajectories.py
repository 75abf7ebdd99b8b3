"""Tables to trajectories: grouping, loss joins, task information, run splits."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from rows import accuracy, loss

from neuneu.core.errors import DataError
from neuneu.data.schemas import ACCURACIES, LOSSES, TASKS, TOKEN_LOSSES, validate
from neuneu.data.splits import hold_out
from neuneu.data.trajectories import TokenLossTable, build_trajectories


def accuracies(*rows: dict) -> pa.Table:
    return validate(pa.Table.from_pylist(list(rows)), ACCURACIES, name="x")


def test_build_trajectories_groups_by_key_in_token_order() -> None:
    rows = [
        accuracy(step=20, value=0.4), accuracy(step=10, value=0.3),
        accuracy(step=10, metric="acc_norm"), accuracy(step=10, num_fewshot=5),
    ]  # fmt: skip
    result = {t.key: t for t in build_trajectories(accuracies(*rows))}
    assert set(result) == {
        ("s", "r", 0, "t", "acc"), ("s", "r", 0, "t", "acc_norm"), ("s", "r", 5, "t", "acc"),
    }  # fmt: skip
    first = result["s", "r", 0, "t", "acc"]
    assert first.values.tolist() == [0.3, 0.4]
    assert first.tokens.tolist() == [10_000, 20_000]
    assert first.run_group == ("f", "r")


def test_build_trajectories_bytes_beside_characters_are_left_out() -> None:
    rows = [accuracy(step=10, metric=m) for m in ("acc", "acc_norm", "acc_bytes")]
    rows.append(accuracy(step=10, task="other", metric="acc_bytes"))
    found = {(t.task, t.metric) for t in build_trajectories(accuracies(*rows))}
    assert found == {("t", "acc"), ("t", "acc_norm"), ("other", "acc_bytes")}


def test_build_trajectories_losses_join_whatever_shots_own_shots_win() -> None:
    rows = [accuracy(step=10), accuracy(step=20), accuracy(step=20, num_fewshot=5)]
    losses = pa.Table.from_pylist(
        [
            loss(step=10, value=5.0), loss(step=20, value=4.0),
            loss(step=20, value=3.0, num_fewshot=5), loss(step=20, metric="bpb", value=9.0),
            loss(step=20, run="other", value=9.0),
        ],
        schema=LOSSES,
    )  # fmt: skip
    result = {t.num_fewshot: t for t in build_trajectories(accuracies(*rows), losses)}
    np.testing.assert_array_equal(result[0].losses["v"], [5.0, 4.0])
    np.testing.assert_array_equal(result[5].losses["v"], [3.0])


def test_build_trajectories_missing_loss_is_nan_absent_set_is_absent() -> None:
    losses = pa.Table.from_pylist([loss(step=20, value=4.0)], schema=LOSSES)
    (one,) = build_trajectories(accuracies(accuracy(step=10), accuracy(step=20)), losses)
    assert np.isnan(one.losses["v"][0])
    assert one.losses["v"][1] == 4.0
    (none,) = build_trajectories(accuracies(accuracy(step=10)), losses)
    assert none.losses == {}


def test_build_trajectories_own_loss_of_a_task_joins_by_name_and_shots() -> None:
    rows = [accuracy(step=s, num_fewshot=n) for s in (10, 20) for n in (0, 5)]
    rows += [accuracy(step=10, task="gold"), accuracy(step=10, task="none")]
    losses = pa.Table.from_pylist(
        [
            loss(step=20, name="t_bpb", metric="bpb", value=0.9),
            loss(step=10, name="t", metric="bpb", value=1.2, num_fewshot=5),
            loss(step=20, name="t", metric="bpb", value=1.1, num_fewshot=5),
            loss(step=10, name="gold_gold", metric="nll_gold", value=7.0),
            loss(step=10, name="none", metric="cross_entropy_loss", value=3.0),
            loss(step=10, name="none", metric="bpb", value=3.0, run="other"),
        ],
        schema=LOSSES,
    )  # fmt: skip
    built = build_trajectories(accuracies(*rows), losses)
    result = {(t.task, t.num_fewshot): t.task_loss for t in built}
    np.testing.assert_array_equal(result["t", 0], [np.nan, 0.9])
    np.testing.assert_array_equal(result["t", 5], [1.2, 1.1])
    np.testing.assert_array_equal(result["gold", 0], [7.0])
    assert result["none", 0] is None
    (five,) = (t for t in built if t.num_fewshot == 5)
    np.testing.assert_array_equal(five.slice(1, 2).task_loss, [1.1])


def test_signals_fall_as_a_model_gets_better_and_the_best_comes_first() -> None:
    rows = [accuracy(step=10), accuracy(step=10, metric="p_gold", value=0.5)]
    losses = pa.Table.from_pylist(
        [
            loss(step=10, name="t", metric="soft", value=0.0),
            loss(step=10, name="t", metric="soft_log", value=-1.5),
            loss(step=10, name="t", metric="bpb", value=0.9),
        ],
        schema=LOSSES,
    )
    built = {t.metric: t.signals for t in build_trajectories(accuracies(*rows), losses)}
    assert list(built["acc"]) == ["bpb", "soft_log", "p_gold", "soft"]
    assert built["acc"]["soft_log"] == [1.5]
    assert built["acc"]["p_gold"] == [pytest.approx(np.log(2))]
    assert np.isnan(built["acc"]["soft"]).all()  # a probability of zero has no logarithm
    assert list(built["p_gold"]) == ["bpb", "soft_log", "soft"]  # no metric is a signal of itself


def test_build_trajectories_task_table_gives_chance_and_base_task() -> None:
    tasks = pa.Table.from_pylist(
        [{"task": "t", "metric": "acc", "base_task": "b", "chance": 0.25, "group": "g"}],
        schema=TASKS,
    )
    (one,) = build_trajectories(accuracies(accuracy()), tasks=tasks)
    assert (one.base_task, one.chance, one.group) == ("b", 0.25, "g")
    (unknown,) = build_trajectories(accuracies(accuracy(task="u")), tasks=tasks)
    assert (unknown.base_task, unknown.chance) == ("u", None)


def test_without_step_zero_drops_only_step_zero() -> None:
    (one,) = build_trajectories(accuracies(accuracy(step=0), accuracy(step=1)))
    assert one.without_step_zero().steps.tolist() == [1]
    assert one.slice(1, 2).without_step_zero().steps.tolist() == [1]


def test_hold_out_splits_by_run_and_refuses_unknown_names() -> None:
    trajectories = build_trajectories(
        accuracies(accuracy(), accuracy(run="q"), accuracy(run="q", task="u"))
    )
    kept, held = hold_out(trajectories, ["q"])
    assert {t.run for t in kept} == {"r"}
    assert {t.run for t in held} == {"q"}
    assert len(held) == 2
    with pytest.raises(DataError, match=r"\['z'\] are not in the table"):
        hold_out(trajectories, ["z"])


def test_token_loss_table_mixed_corpora_are_refused() -> None:
    row = {"suite": "s", "run": "r", "tokenizer_hash": "t", "unit": "word", "start": 0, "count": 1}
    rows = [
        row | {"step": step, "corpus_hash": corpus, "losses": [1.0]}
        for step, corpus in ((1, "a"), (2, "b"))
    ]
    with pytest.raises(DataError, match="expected one corpus"):
        TokenLossTable.from_table(pa.Table.from_pylist(rows, schema=TOKEN_LOSSES))


@pytest.mark.shared
def test_build_trajectories_shared_tables_give_all_trajectories(shared: Path) -> None:
    folder = shared / "trajectories"
    result = build_trajectories(
        validate(pq.read_table(folder / "accuracies.parquet"), ACCURACIES, name="x"),
        pq.read_table(folder / "losses.parquet"),
        pyarrow.csv.read_csv(folder / "tasks.csv"),
    )
    assert len(result) == 9_958
    assert sum(len(t) for t in result) == 519_759
    assert all("c4_en-validation" in t.losses for t in result if t.suite == "olmo-ladder")
    assert all((np.diff(t.tokens) > 0).all() for t in result)
