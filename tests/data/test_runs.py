"""The table of runs: what it adds to evaluations, what it plans, and what it refuses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rows import CheckpointRows, accuracy, checkpoint_rows, loss

from neuneu.core.errors import DataError
from neuneu.data.load import Dataset, load_dataset
from neuneu.data.store.store import Store

Rows = Sequence[dict[str, Any]]


def load(rows: Rows, runs: Rows | None = None, **tables: Any) -> Dataset:
    table = None if runs is None else list(runs)
    return load_dataset(list(rows), run_table=table, log_notes=False, **tables)


def bare(run: str = "r", *, tokens: Sequence[float] = (1e3, 2e3), **more: Any) -> Rows:
    """Rows with the fewest columns."""
    return [{"run": run, "task": "t", "value": 0.5, "tokens": t} | more for t in tokens]


def only(data: Dataset) -> Any:
    (one,) = data.trajectories
    return one


def test_facts_of_a_run_reach_its_trajectories() -> None:
    runs = [
        {"run": "r", "params": 2e6, "planned_tokens": 1e4, "recipe": " web ", "schedule": "WSD"},
        {"run": "q", "recipe": "books", "schedule": "cosine", "decay_start_tokens": 5e3},
    ]
    data = load([*bare("r"), *bare("q"), *bare("unlisted")], runs)
    found = {t.run: t for t in data.trajectories}
    r = found["r"]
    assert (r.params, r.planned_tokens, r.recipe, r.schedule) == (2e6, 1e4, "web", "wsd")
    assert r.decay_start == 8e3, "a WSD run decays over the last fifth unless its table says"
    np.testing.assert_allclose(r.flops, 6 * 2e6 * r.tokens)
    assert (found["q"].recipe, found["q"].schedule) == ("books", "cosine")
    assert found["q"].decay_start == 5e3
    other = found["unlisted"]
    assert (other.recipe, other.schedule, other.decay_start) == ("", "", None)
    assert math.isnan(other.params)
    assert other.planned_tokens is None
    assert data.planned == ()


def test_own_numbers_win_and_gaps_and_nan_are_filled() -> None:
    rows = {
        "run": ["r", "r", "q", "q"], "task": ["t"] * 4, "value": [0.5] * 4,
        "tokens": [1e3, 2e3] * 2, "params": np.array([1e6, 1e6, np.nan, np.nan]),
        "planned_tokens": np.array([np.nan, np.nan, 7e3, 7e3]),
    }  # fmt: skip
    runs = [{"run": run, "params": 9e6, "planned_tokens": 9e3} for run in ("r", "q")]
    data = load_dataset(rows, run_table=runs, log_notes=False)
    found = {t.run: (t.params, t.planned_tokens, float(t.flops[0])) for t in data.trajectories}
    assert found == {"r": (1e6, 9e3, 6e9), "q": (9e6, 7e3, 5.4e10)}


def test_tokens_follow_from_flops_and_the_parameters_of_the_table() -> None:
    rows = [{"run": "r", "task": "t", "value": 0.5, "flops": 6e9 * n} for n in (1, 2)]
    assert only(load(rows, [{"run": "r", "params": 1e6}])).tokens.tolist() == [1e3, 2e3]


def test_flops_of_a_store_follow_from_the_parameters_of_the_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.bind({"corpus": "c"})
    for step in (10, 20):
        rows = checkpoint_rows(step)
        unsized = [row | {"params": None, "flops": None} for row in rows.accuracies]
        store.commit(
            CheckpointRows(
                checkpoint=rows.checkpoint, accuracies=unsized, losses=rows.losses,
                token_losses=rows.token_losses,
            )
        )  # fmt: skip
    assert math.isnan(only(load_dataset(store, log_notes=False)).flops[0])
    one = only(load_dataset(store, run_table=[{"run": "r", "params": 1e6}], log_notes=False))
    assert one.params == 1e6
    assert one.flops.tolist() == [6e10, 1.2e11]


def test_columns_in_the_accuracy_table_do_the_same() -> None:
    more = {"recipe": "web", "schedule": "wsd", "decay_start_tokens": 4e3}
    rows = [row | more for row in bare()]
    rows[1] = rows[1] | {"recipe": None, "schedule": "", "decay_start_tokens": math.nan}
    one = only(load(rows))
    assert (one.recipe, one.schedule, one.decay_start) == ("web", "wsd", 4e3)
    merged = only(load(rows, [{"run": "r", "recipe": "books", "params": 5e6}]))
    assert (merged.recipe, merged.params) == ("web", 5e6), "the accuracy table comes first"


@pytest.mark.parametrize("column", ["recipe", "schedule", "decay_start_tokens"])
def test_rows_of_one_run_that_disagree_are_refused(column: str) -> None:
    values = {"recipe": ("a", "b"), "schedule": ("wsd", "cosine"), "decay_start_tokens": (1e3, 2e3)}
    rows = [row | {column: v} for row, v in zip(bare(), values[column], strict=True)]
    with pytest.raises(DataError, match=rf"run 'r' has several values of {column}; expected one"):
        load(rows)


def test_two_suites_of_one_name_have_their_own_facts() -> None:
    rows = [*bare(suite="a", family="f"), *bare(suite="b", family="f")]
    runs = [
        {"run": "r", "suite": "a", "recipe": "web"},
        {"run": "r", "suite": "b", "recipe": "books"},
        {"run": "r", "family": "f", "schedule": "constant"},
    ]
    found = {t.suite: (t.recipe, t.schedule) for t in load(rows, runs).trajectories}
    assert found == {"a": ("web", "constant"), "b": ("books", "constant")}


def test_family_and_suite_follow_where_only_the_table_of_runs_has_them() -> None:
    runs = [{"run": "r", "family": "f", "suite": "s", "recipe": "web"}]
    data = load([*bare("r"), *bare("q")], runs)
    found = {t.run: (t.family, t.suite, t.recipe) for t in data.trajectories}
    assert found == {"r": ("f", "s", "web"), "q": ("unknown", "table", "")}
    assert data.planned == ()
    twice = [*runs, {"run": "r", "family": "g", "suite": "s"}]
    with pytest.raises(DataError, match=r"no column family.*run 'r' in 'f', 'g'; add the column"):
        load(bare("r"), twice)


def test_further_columns_are_noted_and_an_index_is_not() -> None:
    runs = [{"Unnamed: 0": 0, "run": "r", "learning rate": 1e-3, "Planned-Tokens": 1e4}]
    data = load(bare(), runs)
    assert only(data).planned_tokens == 1e4
    (note,) = (n for n in data.notes if n.startswith("run_table"))
    assert note == "run_table: column 'learning_rate' is not read"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"schedule": "warmup"}, "row 1: schedule is 'warmup'; expected one of cosine, linear"),
        ({"decay_start_tokens": 9e3, "planned_tokens": 8e3}, "row 1: decay_start_tokens is 9000, "),
        ({"decay_start_tokens": 9e3, "schedule": "constant"}, "row 1: schedule is 'constant' and"),
        ({"params": -1.0}, "row 1: params is -1; expected a positive number"),
        ({"planned_tokens": 0.0}, "row 1: planned_tokens is 0; expected a positive number"),
        ({"run": "first"}, "row 1: run 'first' is in row 0 already; expected each run once"),
        ({"run": "first", "family": ""}, "row 1: run 'first' is in row 0 already"),
        ({"run": None}, "row 1: run is missing"),
        ({"params": "many"}, "row 1: params is 'many'; expected a number"),
    ],
)
def test_impossible_rows_are_refused(row: dict[str, Any], message: str) -> None:
    table = {"run": ["first", row.pop("run", "r")]}
    table |= {key: [None, value] for key, value in row.items()}
    with pytest.raises(DataError) as caught:
        load_dataset(list(bare()), run_table=table, log_notes=False)
    assert message in str(caught.value)
    assert str(caught.value).startswith("run_table: ")
    assert "\n" not in str(caught.value)


def test_table_without_run_or_with_a_column_twice_is_refused() -> None:
    with pytest.raises(DataError, match="missing column 'run'; found 'model'"):
        load(bare(), [{"model": "r"}])
    with pytest.raises(DataError, match="column 'lr' appears twice"):
        load(bare(), [{"run": "r", "LR": 1, "lr": 2}])


def test_decay_after_the_end_that_another_table_gives_is_refused() -> None:
    rows = bare(planned_tokens=5e3)
    with pytest.raises(
        DataError, match=r"run 'r': decay_start_tokens is 6000, planned_tokens 5000"
    ):
        load(rows, [{"run": "r", "decay_start_tokens": 6e3}])


def test_cells_without_numbers_are_unknown() -> None:
    runs = {"run": ["r"], "params": ["n/a"], "planned_tokens": [math.nan], "recipe": [None]}
    one = only(load_dataset(list(bare()), run_table=runs, log_notes=False))
    assert math.isnan(one.params)
    assert (one.planned_tokens, one.recipe) == (None, "")


def test_bad_number_is_blamed_on_the_table_that_has_it() -> None:
    rows = [row | {"params": "big"} for row in bare()]
    with pytest.raises(DataError, match=r"^accuracies: row 0: params is 'big'; expected a number"):
        load(rows, [{"run": "r", "params": 1e6}])


def test_rows_without_an_evaluation_are_planned() -> None:
    runs = [
        {"run": "r", "recipe": "web"},
        {"run": "big", "params": 7e9, "planned_tokens": 2e12, "recipe": "web", "schedule": "wsd"},
    ]
    (planned,) = load(bare(), runs).planned
    assert (planned.run, planned.params, planned.planned_tokens) == ("big", 7e9, 2e12)
    assert (planned.family, planned.suite, planned.recipe) == (None, None, "web")
    assert planned.decay_begins == 1.6e12


def test_runs_of_the_reference_table_are_not_planned() -> None:
    runs = [{"run": run, "recipe": run} for run in ("r", "small", "big")]
    data = load(bare("r"), runs, reference=list(bare("small")))
    assert [run.run for run in data.planned] == ["big"]
    assert [t.recipe for t in data.references] == ["small"]


def test_planned_run_that_shares_the_name_of_an_evaluated_one_is_noted() -> None:
    rows = bare(family="Pythia")
    data = load(rows, [{"run": "r", "family": "pythia"}])
    assert [run.run for run in data.planned] == ["r"]
    assert any("'r': taken as planned" in note and "family" in note for note in data.notes)


def test_losses_still_join_beside_a_table_of_runs() -> None:
    unsized = {"params": None, "flops": None}
    losses = pa.Table.from_pylist([loss(step=10, value=2.5), loss(step=20, value=2.0)])
    data = load(
        [accuracy(step=step) | unsized for step in (10, 20)],
        [{"run": "r", "params": 1e6, "recipe": "web"}],
        losses=losses,
    )
    one = only(data)
    assert one.losses["v"].tolist() == [2.5, 2.0]
    assert one.flops.tolist() == [6e10, 1.2e11]
