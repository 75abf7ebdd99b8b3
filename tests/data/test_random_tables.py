"""Whatever a table holds, a forecast is made of numbers that can be, or a mistake is named."""

import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

import neuneu
from neuneu.core.errors import UserError
from neuneu.data.schemas import FORECASTS
from neuneu.decisions.answers import Answer
from neuneu.reports.answers.terminal import show

LEVELS = [name for name in FORECASTS.names if name.startswith("q")]
model = functools.cache(neuneu.load)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def asked(question: str, table: Any, *more: Any, **options: Any) -> Answer | None:
    """The answer, None where a mistake was named; anything else that is raised fails the test."""
    refusal, answer = "", None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            answer = getattr(model(), question)(table, *more, **options)
    except UserError as error:
        refusal = str(error)
    if answer is None:
        assert refusal
        event(f"{question}: {re.sub(r'[^a-z ]+', ' ', refusal)[:50]}")
        return None
    event(f"{question}: answered")
    show(answer)
    return answer


def check(answer: Answer) -> None:
    """Quantiles are numbers in [0, 1], in order, in rows and at every place."""
    for row in answer.rows:
        assert all(0.0 <= row[level] <= 1.0 for level in LEVELS), row
        assert [row[level] for level in LEVELS] == sorted(row[level] for level in LEVELS)
        assert np.isfinite([row["tokens"], row["seen_tokens"], row["present"]]).all()
    table = answer.tables["forecasts"]
    quantiles = np.stack([table.column(level).to_numpy() for level in LEVELS], axis=1)
    assert ((quantiles >= 0.0) & (quantiles <= 1.0)).all()
    assert (np.diff(quantiles, axis=1) >= 0.0).all()
    for column in ("step", "tokens", "flops"):
        values = table.column(column).drop_null().to_numpy()
        assert len(values) == table.num_rows or column == "flops"  # unknown without parameters
        assert np.isfinite(values).all()
        assert (values >= 0).all()


names = st.text(min_size=1, max_size=6) | st.sampled_from(["a", "b", "[/red]", ":boom:", "é", "\n"])
numbers = st.one_of(
    st.floats(0, 1),
    st.integers(-3, 40),
    st.sampled_from([1e9, 3e11, 1e25, 1e300]),
    st.floats(),
    st.integers(2**53 - 3, 2**53 + 3),
    st.sampled_from([2**63 - 1, 2**64, 6 * 10**17 + 1]),
)
cells = st.one_of(st.none(), names, numbers, st.booleans(), st.binary(max_size=3), st.dates())


@st.composite
def spoilt_tables(draw: st.DrawFn) -> Mapping[str, list[Any]]:
    """A sound table of some columns in which up to two cells, names or columns are anything."""
    count = draw(st.sampled_from([8, 5, 2, 1, 0]))
    order = draw(st.permutations(range(1, count + 1)))
    sound = {
        "run": ["a"] * count, "task": ["t"] * count, "value": draw(lists(st.floats(0, 1), count)),
        "step": list(order), "tokens": [1e9 * step for step in order],
        "flops": [1e20 * step for step in order], "family": ["f"] * count, "suite": ["s"] * count,
        "params": [1e9] * count, "num_fewshot": [0] * count, "metric": ["acc"] * count,
        "stderr": draw(lists(st.none() | st.floats(0, 0.5), count)),
        "planned_tokens": [2e10] * count,
    }  # fmt: skip
    kept = {"run", "task", "value", draw(st.sampled_from(["step", "tokens", "flops"]))}
    table = {k: v for k, v in sound.items() if k in kept or draw(st.booleans())}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        title = draw(st.sampled_from(sorted(table)))
        harm = draw(st.sampled_from(["cell", "cell", "cell", "column", "name"]))
        if harm == "cell" and count:
            table[title][draw(st.integers(0, count - 1))] = draw(cells)
        elif harm == "column":
            table[title] = draw(lists(cells, count))
        elif harm == "name":
            table[draw(names)] = table.pop(title)
    return table


def lists(of: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, min_size=count, max_size=count)


@FEW
@given(spoilt_tables(), st.sampled_from([1e29, 3e10, None]))
@example({"run": ["a"], "task": ["t"], "flops": [1e25], "value": [0.5]}, 1e26)
@example({"run": ["a"] * 2, "task": ["t"] * 2, "tokens": [4e5, 2e6], "value": [0.5] * 2}, 1e7)
@example({"run": ["a"], "task": ["t"], "step": [0], "value": [0.5]}, 1e7)
@example({"run": ["a"] * 2, "task": ["t"] * 2, "step": [2.0**53 + 2, 2], "value": [0.5] * 2}, 1e29)
@example({"run": ["a"], "task": ["t"], "flops": [6 * 10**17 + 1], "value": [0.5]}, None)
@example({"run": ["a"], "task": ["t"], "tokens": [2**70], "value": [0.5]}, None)
def test_spoilt_tables(columns: Mapping[str, list[Any]], until: float | None) -> None:
    answer = asked("forecast", columns, until=until)
    if answer is not None:
        check(answer)


@st.composite
def odd_runs(draw: st.DrawFn, *, alike: bool = False) -> pa.Table:
    """Tables that keep the contract, with trajectories as nobody expects them.

    `alike` runs are evaluated on the same task.
    """
    rows = []
    for index in range(draw(st.integers(1, 4))):
        count = draw(st.sampled_from([1, 2, 3, 5, 40]))
        start = draw(st.sampled_from([1e-3, 1.0, 1e6, 1e9, 1e15]))
        growth = draw(st.sampled_from([1.0001, 1.1, 2.0]))
        tokens = start * growth ** np.arange(count)
        shape = draw(st.sampled_from(["constant", "zero", "one", "random", "jump", "falling"]))
        values = {
            "constant": np.full(count, 0.37), "zero": np.zeros(count), "one": np.ones(count),
            "random": np.random.default_rng(index).uniform(0, 1, count),
            "jump": (np.arange(count) > count / 2).astype(float),
            "falling": np.linspace(1, 0, count),
        }[shape]  # fmt: skip
        who = {
            "run": f"{draw(names)}{index}",
            "params": draw(st.sampled_from([None, 1.0, 1e9, 1e13])),
            "planned_tokens": draw(st.sampled_from([None, 1.0, 1e12, 1e30])),
            "stderr": draw(st.sampled_from([None, 0.0, 0.02, 0.5])),
            "family": draw(st.sampled_from(["pythia", "olmo", "new"])),
            "suite": draw(st.sampled_from(["pythia", "s"])),
            "task": "t" if alike else draw(st.sampled_from(["t", "arc_easy", "é "])),
            "num_fewshot": 0 if alike else draw(st.sampled_from([0, 5, 2_000_000_000])),
            "metric": "acc" if alike else draw(st.sampled_from(["acc", "acc_norm", "exact match"])),
        }  # fmt: skip
        rows += [
            who | {"step": step, "tokens": float(place), "value": float(value)}
            for step, (place, value) in enumerate(zip(tokens, values, strict=True), start=1)
        ]
    return pa.Table.from_pylist(rows)


@FEW
@given(odd_runs(), st.sampled_from([None, 1e13, 1e28, 1e30]), st.integers(1, 30))
def test_odd_but_legal_runs(table: pa.Table, until: float | None, points: int) -> None:
    answer = asked("forecast", table, until=until, points=points)
    if answer is not None:
        check(answer)
        assert all(row["warnings"] for row in answer.rows if row["checkpoints"] < 3)


@settings(FEW, max_examples=10)
@given(odd_runs(alike=True), st.sampled_from([1e29, None]))
def test_the_other_questions(table: pa.Table, until: float | None) -> None:
    for answer in (
        asked("rank", table, until=until),
        asked("stop", table, target=0.5, until=until),
        asked("when", table, 0.5, until=until),
        asked("next_eval", table, until=until),
    ):
        for row in answer.rows if answer is not None else ():
            known = [value for value in row.values() if isinstance(value, float)]
            assert np.isfinite(known).all(), row


@pytest.mark.parametrize("until", [None, 2e9])
def test_a_checkpoint_at_the_end_is_not_forecast(until: float | None) -> None:
    table = {"run": ["a"] * 2, "task": ["t"] * 2, "tokens": [1e9, 2e9], "value": [0.3, 0.4]}
    with pytest.raises(UserError, match="nothing to forecast"):
        model().forecast(table | {"planned_tokens": [2e9] * 2}, until=until)
