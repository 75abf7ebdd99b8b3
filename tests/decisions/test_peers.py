"""Runs that are alike are compared by their present levels, by hand-worked numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from curves import trajectory
from hypothesis import given
from hypothesis import strategies as st

import neuneu
from neuneu.data.arrays import FloatArray
from neuneu.data.load import load_dataset
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.peers import align_peers
from neuneu.decisions.selection import run_name, task_key
from neuneu.forecasters.protocol import JointForecaster, Query
from neuneu.forecasters.queries import query_at

ANSWER = np.array([[0.55, 0.6, 0.65], [0.6, 0.7, 0.8]])


@dataclass
class Stub:
    """What `align_peers` asks of a forecaster."""

    compared: bool = False
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def reference_runs(self, queries: Sequence[Query]) -> list[Any]:
        return [SimpleNamespace(used=[queries[0].context] if self.compared else [])] * len(queries)


def align(
    contexts: Sequence[Trajectory],
    answers: Sequence[FloatArray] | None = None,
    *,
    ends: Sequence[float] | None = None,
    compared: bool = False,
    beside: Sequence[Trajectory] = (),
) -> list[FloatArray]:
    """Moved answers at the geometric middle of the way to the horizon, and there."""
    queries = []
    for context, end in zip(contexts, ends or [40e3] * len(contexts), strict=True):
        now = float(context.tokens[-1])
        queries.append(query_at(context, np.array([np.sqrt(now * end), end])))
    forecaster = cast(JointForecaster, Stub(compared=compared))
    return align_peers(forecaster, queries, answers or [ANSWER] * len(queries), beside)


def flat(run: str, value: float, task: str = "t", n: int = 10, **more: Any) -> Trajectory:
    """A run that has scored the same all along."""
    return replace(trajectory([value] * n, run=run, task=task), **more)


def test_a_pair_is_set_apart_by_levels_and_by_what_the_forecaster_says() -> None:
    ahead = ANSWER + 0.04  # the forecaster prefers the run that is behind
    for compared, own in ((False, 0.2), (True, 0.3)):
        low, high = align([flat("a", 0.5), flat("b", 0.6)], [ahead, ANSWER], compared=compared)
        apart = own * -0.02 + (1 - own) * 0.75 * 0.05  # of each from the mean of both
        np.testing.assert_allclose(low[1], ANSWER[1] + 0.02 - apart)
        np.testing.assert_allclose(high[1], ANSWER[1] + 0.02 + apart)
        # The shift is in proportion to ln tokens; widths stay.
        np.testing.assert_allclose(low[0] - ahead[0], (low[1] - ahead[1]) / 2)
        np.testing.assert_allclose(np.diff(high), np.diff(ANSWER))


def test_a_run_that_is_better_on_other_tasks_is_expected_to_be_so_on_this_one() -> None:
    same = [flat("a", 0.5), flat("b", 0.5)]
    others = [flat(run, value, task) for run, value in (("a", 0.3), ("b", 0.4)) for task in "uv"]
    unasked = align(same, beside=[*others, flat("elsewhere", 0.9, "u")])
    np.testing.assert_allclose(unasked[1][1] - ANSWER[1], 0.3 * 0.05)
    np.testing.assert_allclose(unasked[0][1] - ANSWER[1], 0.3 * -0.05)
    # Where the question is about them, the forecaster says how much better.
    answers = [ANSWER, ANSWER, ANSWER - 0.02, ANSWER - 0.02, ANSWER + 0.02, ANSWER + 0.02]
    asked = align([*same, *others], answers)
    np.testing.assert_allclose(asked[1][1] - ANSWER[1], 0.3 * 0.02)


@pytest.mark.parametrize(
    ("other", "end"),
    [
        (flat("b", 0.6, params=1.25e6), 40e3),
        (flat("b", 0.6, params=np.nan), 40e3),
        (flat("b", 0.6, n=13), 40e3),
        (flat("b", 0.6), 50e3),
        (flat("b", 0.6, "u"), 40e3),
    ],
    ids=["larger", "of unknown size", "further on", "longer", "on another task"],
)
def test_runs_that_are_not_alike_keep_their_answers(other: Trajectory, end: float) -> None:
    for moved in align([flat("a", 0.5), other], ends=[40e3, end]):
        np.testing.assert_array_equal(moved, ANSWER)


@pytest.mark.parametrize("params", [1.15e6, 0.87e6])
def test_runs_that_are_nearly_alike_are_peers(params: float) -> None:
    other = flat("b", 0.6, n=12, params=params)
    moved = align([flat("a", 0.5), other], ends=[40e3, 47e3])
    assert moved[0][1, 1] < ANSWER[1, 1] < moved[1][1, 1]


def test_runs_of_unknown_size_are_peers() -> None:
    low, high = align([flat(run, v, params=np.nan) for run, v in (("a", 0.5), ("b", 0.6))])
    assert low[1, 1] < ANSWER[1, 1] < high[1, 1]


def test_a_run_evaluated_a_little_further_is_not_favoured() -> None:
    """Both follow one line in ln tokens; the second has got further and will go further."""
    whole = trajectory(0.1 * np.log(np.arange(1, 13)), run="b")
    contexts = [replace(whole.slice(0, 10), run="a"), whole]
    longer = ANSWER + 0.1 * np.log(1.2)
    moved = align(contexts, [ANSWER, longer], ends=[40e3, 48e3])
    np.testing.assert_allclose(moved[0], ANSWER, atol=2e-4)
    np.testing.assert_allclose(moved[1], longer, atol=2e-4)


def test_a_run_without_a_past_or_an_answer_takes_no_part() -> None:
    planned, unknown = flat("c", 0.9).slice(0, 0), flat("d", 0.9)
    pair = [flat("a", 0.5), flat("b", 0.6)]
    queries = [query_at(t, np.array([40e3])) for t in (*pair, unknown)]
    queries.append(replace(queries[0], context=planned))
    answers = [ANSWER[1:], ANSWER[1:], np.full((1, 3), np.nan), ANSWER[1:]]
    forecaster = cast(JointForecaster, Stub())
    moved = align_peers(forecaster, queries, answers)
    expected = align_peers(forecaster, queries[:2], answers[:2])
    for found, wanted in zip(moved, [*expected, *answers[2:]], strict=True):
        np.testing.assert_array_equal(found, wanted)


Scores = st.lists(
    st.tuples(
        st.lists(st.floats(0, 1, width=32), min_size=3, max_size=8),
        st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
        st.sampled_from([1e6, 1.15e6, 3e6, np.nan]),
    ),
    min_size=2,
    max_size=5,
)


@given(Scores, st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter_and_quantiles_stay_quantiles(
    drawn: list[tuple[list[float], list[float], float]], random: Any
) -> None:
    runs, answers = [], []
    for row, (values, quantiles, params) in enumerate(drawn):
        for task, some in (("t", values), ("u", values[::-1])):
            runs.append(replace(trajectory(some, run=f"r{row}", task=task), params=params))
            answers.append(np.sort([quantiles, quantiles[::-1]], axis=1))
    found = align(runs, answers)
    for moved in found:
        assert (np.diff(moved) >= 0).all()
        assert ((moved >= 0) & (moved <= 1)).all()
    order = list(range(len(runs)))
    random.shuffle(order)
    renamed = [replace(runs[row], run=f"x{9 - int(runs[row].run[1:])}") for row in order]
    again = align(renamed, [answers[row] for row in order])
    for place, row in enumerate(order):
        np.testing.assert_allclose(again[place], found[row], atol=1e-9)


def test_rank_reads_the_other_tasks_of_a_run_and_only_those_of_its_peers() -> None:
    """`a` and `b` score the same on t0; `b` is better on all else, by more than chance."""
    rise = 0.3 + 0.05 * np.log(np.arange(1, 11))
    table = [
        {"run": t.run, "task": t.task, "tokens": x, "value": v, "params": t.params,
         "planned_tokens": 40e3}
        for run, better in (("a", 0.0), ("b", 0.05))
        for t in (trajectory(rise + better * bool(k), run=run, task=f"t{k}") for k in range(5))
        for x, v in zip(t.tokens.tolist(), t.values.tolist(), strict=True)
    ]  # fmt: skip
    first, second = neuneu.load().rank(table, task="t0").rows
    assert (first["run"], second["run"]) == ("b", "a")
    assert first["beats"]["a"] > 0.53
    alone = [row for row in table if row["task"] == "t0"]
    equal = neuneu.load().rank(alone, task="t0").rows[0]
    assert equal["beats"].popitem()[1] == pytest.approx(0.5, abs=0.05)


@pytest.mark.shared
def test_equal_size_runs_are_ranked_as_well_as_by_their_recent_means(shared: Path) -> None:
    """open-sci-ref 1.3B on eight mixes from the first 20 %, none of them seen to the end."""
    folder = shared / "families" / "open-sci-ref"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    runs = load_dataset(folder / "accuracies.parquet", log_notes=False).trajectories
    runs = [t.without_step_zero() for t in runs if 1e9 < t.params < 1.5e9]
    contexts = [t.slice(0, int((t.tokens <= 0.2 * t.tokens[-1]).sum())) for t in runs]
    queries = [query_at(c, t.tokens[-1:]) for c, t in zip(contexts, runs, strict=True)]
    forecaster = neuneu.load().forecaster
    forecaster.fit([])
    answers = forecaster.predict(queries)
    moved = align_peers(forecaster, queries, answers)
    middle = list(forecaster.levels).index(0.5)
    right, recent = 0, 0
    pairs = [
        (i, j)
        for i, j in combinations(range(len(runs)), 2)
        if task_key(runs[i]) == task_key(runs[j])
        and run_name(runs[i]) != run_name(runs[j])
        and abs(runs[i].values[-3:].mean() - runs[j].values[-3:].mean()) >= 0.01
    ]
    for i, j in pairs:
        won = runs[i].values[-3:].mean() > runs[j].values[-3:].mean()
        right += bool((moved[i][-1, middle] > moved[j][-1, middle]) == won)
        recent += bool((contexts[i].values[-3:].mean() > contexts[j].values[-3:].mean()) == won)
    assert len(pairs) > 500
    assert right >= recent, f"{right} of {len(pairs)} pairs, recent means {recent}"
