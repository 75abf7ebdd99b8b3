"""Which curves a question is about, and what runs are called."""

from dataclasses import replace

import numpy as np
import pytest

from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.futures import group_by_run, past_average
from neuneu.decisions.options import POINTS
from neuneu.decisions.selection import find_runs, run_labels, run_name, select
from neuneu.forecasters.queries import Horizon


def curve(
    run: str, task: str, metric: str = "acc", *, suite: str = "s", shots: int = 0
) -> Trajectory:
    n = 4
    return Trajectory(
        family="f", suite=suite, run=run, params=1e8, num_fewshot=shots, task=task, metric=metric,
        steps=np.arange(1, n + 1), tokens=1e9 * np.arange(1.0, n + 1), flops=np.arange(1.0, n + 1),
        values=np.linspace(0.3, 0.4, n), stderrs=np.full(n, np.nan), base_task=task, group="g",
    )  # fmt: skip


TABLE = [
    curve("a", "x"), curve("a", "x", "acc_norm"), curve("a", "y", shots=5), curve("b", "x"),
    curve("b", "x", "acc_norm"), curve("b", "y", shots=5), curve("b", "z"),
]  # fmt: skip


def test_the_metric_that_most_runs_have_is_taken_and_said() -> None:
    found = select(TABLE)
    assert found.keys == (("x", "acc_norm", 0), ("y", "acc", 5), ("z", "acc", 0))
    assert "acc_norm (0-shot) was taken for 1 task" in found.notes[0]
    assert select(TABLE, metric="acc", tasks=["x"]).keys == (("x", "acc", 0),)
    assert select(TABLE, tasks=["g"], num_fewshot=5).title == "y"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["hellaswag"]}, "task hellaswag: not in the table; it has x, y, z"),
        ({"metric": "f1"}, r"expected metric f1 with any shots; the table has acc \(0-shot\)"),
    ],
)
def test_what_nothing_has_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(TABLE, **options)


def test_runs_are_found_by_as_much_of_their_name_as_is_needed() -> None:
    known = [run_name(t) for t in (curve("a", "x"), curve("a", "x", suite="t"), curve("b", "x"))]
    assert run_labels(known) == {known[0]: "s/a", known[1]: "t/a", known[2]: "b"}
    assert find_runs(["t/a", "b"], known) == [known[1], known[2]]
    with pytest.raises(UserError, match="in several suites"):
        find_runs(["a"], known)
    with pytest.raises(UserError, match="run 'c' is not in the table; it has b, s/a, t/a"):
        find_runs(["c"], known)


def test_only_runs_with_all_tasks_are_averaged_at_their_common_checkpoints() -> None:
    cells = (("x", "acc", 0), ("z", "acc", 0))
    assert [run for _, _, run in group_by_run(TABLE, cells)] == ["b"]
    late = replace(curve("b", "z").slice(1, 4), values=np.array([0.5, 0.5, 0.8]))
    tokens, mean = past_average([curve("b", "x"), late])
    assert tokens.tolist() == [2e9, 3e9, 4e9]
    np.testing.assert_allclose(mean, [(1 / 3 + 0.5) / 2, (0.3 + 0.2 / 3 + 0.5) / 2, 0.6])


def test_the_declared_number_of_grid_points_is_that_of_the_horizon() -> None:
    assert Horizon().points == POINTS
