"""Folds of finished runs and the points where they are cut."""

from dataclasses import replace

import numpy as np
import pytest
from curves import trajectory
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.trajectories import RunGroup
from neuneu.forecasters.self_calibration.cases import (
    SHARES,
    AtShare,
    Case,
    case_of,
    largest_sizes,
    make_folds,
    nearest_share,
    progress,
)

sizes_of_runs = st.dictionaries(
    st.tuples(st.just("f"), st.text("abc", min_size=1, max_size=5)),
    st.sampled_from([1e6, 2e6, 5e6, 5.1e6, 1e9, float("nan")]),
    min_size=2,
    max_size=30,
)


@given(sizes_of_runs)
def test_every_run_is_held_out_once_and_is_never_its_own_reference(
    sizes: dict[RunGroup, float],
) -> None:
    folds = make_folds(sizes)
    assert sorted(run for fold in folds for run in fold.runs) == sorted(sizes)
    assert len(folds) == (len(sizes) if len(sizes) <= 12 else 10)
    runs = [replace(trajectory([0.5], run=run), params=p) for (_, run), p in sizes.items()]
    for fold in folds:
        assert [t.run_group for t in runs if not fold.admits(t)] == [
            run for run in sizes if run in fold.runs
        ]


@pytest.mark.parametrize(("n_runs", "n_folds"), [(2, 2), (12, 12), (13, 10), (200, 10)])
def test_many_runs_are_dealt_to_ten_folds_with_all_sizes(n_runs: int, n_folds: int) -> None:
    folds = make_folds({("f", f"r{i:03}"): 1e6 * (1 + i // 20) for i in range(n_runs)})
    assert len(folds) == n_folds
    assert max(len(fold.runs) for fold in folds) == -(-n_runs // n_folds)
    if n_runs == 200:
        for fold in folds:
            assert {int(run[1:]) // 20 for _, run in fold.runs} == set(range(10))


def test_larger_runs_are_imitated_with_smaller_references() -> None:
    sizes = {("f", f"{size}{seed}"): 1e6 * size for size in (1, 2, 4) for seed in (0, 1)}
    folds = make_folds(sizes, larger=True)
    assert [fold.runs for fold in folds] == [
        (("f", "20"), ("f", "21")),
        (("f", "40"), ("f", "41")),
    ]

    def admitted(place: int) -> list[str]:
        runs = [replace(trajectory([0.5], run=r), params=p) for (_, r), p in sizes.items()]
        stranger = replace(trajectory([0.5], run="x"), family="g", params=1e12)
        return [t.run for t in [*runs, stranger] if folds[place].admits(t)]

    assert admitted(0) == ["10", "11", "x"]
    assert admitted(1) == ["10", "11", "20", "21", "x"]


def test_runs_of_one_size_stand_for_larger_ones_as_they_are() -> None:
    sizes = {("f", f"r{i}"): 1e6 for i in range(4)}
    assert make_folds(sizes, larger=True) == make_folds(sizes)


def test_the_context_ends_at_the_share_and_the_last_checkpoint_is_a_target() -> None:
    whole = trajectory(np.linspace(0.1, 0.9, 101), steps=list(range(101)))  # with step 0
    split = AtShare(fraction=0.2).split(whole)
    assert split is not None
    context, truth = split
    assert context.steps.tolist() == list(range(1, 21))
    assert len(truth) == 12
    assert truth.steps[[0, -1]].tolist() == [21, 100]
    assert truth.values.tolist() == whole.values[truth.steps].tolist()


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.01, 1), (0.5, 2)])
def test_a_context_has_a_checkpoint_unless_the_run_has_not_started(share: float, n: int) -> None:
    split = AtShare(fraction=share).split(trajectory([0.1, 0.2, 0.3], steps=[10, 20, 40]))
    assert split is not None
    assert len(split[0]) == n
    assert AtShare(fraction=0.2).split(trajectory([0.1])) is None


def test_the_case_is_where_a_run_stands_and_whether_it_is_larger() -> None:
    finished = [replace(trajectory([0.5], run=r), params=p) for r, p in [("a", 1e6), ("b", 2e6)]]
    largest = largest_sizes([*finished, replace(finished[0], params=np.nan)])
    context = replace(trajectory([0.4] * 5), planned_tokens=20e3)
    targets = np.array([10e3, 20e3])
    for params, larger in [(1e6, False), (2.1e6, False), (4e6, True), (np.nan, False)]:
        found = case_of(replace(context, params=params), targets, largest)
        assert found == Case(family="f", share=0.2, larger=larger)
    assert case_of(context.slice(0, 0), targets, largest).share == 0.0
    assert not case_of(replace(context, family="g", params=1e12), targets, largest).larger


@given(st.floats(1e-6, 1.0))
def test_shares_are_rounded_in_ln(share: float) -> None:
    distance = np.abs(np.log(np.array(SHARES) / share))
    assert SHARES.index(nearest_share(share)) == distance.argmin()


def test_progress_runs_from_the_context_to_the_end_in_ln() -> None:
    context = replace(trajectory([0.4] * 4), planned_tokens=None)
    assert progress(context, np.array([8e3, 16e3, 64e3])).tolist() == pytest.approx([0.25, 0.5, 1])
    planned = replace(context, planned_tokens=64e3)
    assert progress(planned, np.array([8e3])).tolist() == pytest.approx([0.25])
    assert progress(context.slice(0, 0), np.array([1.0, 2.0])).tolist() == [1.0, 1.0]
