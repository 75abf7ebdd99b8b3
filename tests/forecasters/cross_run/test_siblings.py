"""A run's other tasks: found by name, read up to the present only, better everywhere seen."""

from dataclasses import replace

import numpy as np
from curves import ask, family
from hypothesis import given
from hypothesis import strategies as st

from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.batching import make_batches
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.siblings import NONE, index_owners
from neuneu.forecasters.protocol import Query
from neuneu.forecasters.queries import MAX_SIBLINGS, with_siblings


def features(queries: list[Query], library: list[Trajectory]) -> list[dict[str, np.ndarray]]:
    codes = Codes()
    table = build_curves(library, codes)
    return [
        vars(make_features(pieces.batch))
        for pieces in make_batches(queries, table, codes, n_references=4)
    ]


def test_siblings_are_other_trajectories_of_the_same_run() -> None:
    runs = family(["a", "b"], tasks=3)
    queries = with_siblings([ask(run, 5) for run in runs])
    for query in queries:
        names = {(t.run, t.task) for t in query.siblings}
        mine = {(t.run, t.task) for t in runs if t.run == query.context.run}
        assert names == mine - {(query.context.run, query.context.task)}
        assert all(len(t) == 5 for t in query.siblings)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_random_siblings_are_distinct_and_never_the_trajectory_itself(n: int, seed: int) -> None:
    runs = [*family(["a"], tasks=n), *family(["b"], tasks=3)]
    curves = build_curves(runs, Codes())
    rows = np.arange(len(runs))
    found = index_owners(curves).siblings(rows, np.random.default_rng(seed))
    for row, siblings in zip(rows, found, strict=True):
        known = siblings[siblings != NONE].tolist()
        others = n - 1 if runs[row].run == "a" else 2
        assert len(known) == min(others, MAX_SIBLINGS) == len(set(known))
        assert row not in known
        assert all(runs[s].run == runs[row].run for s in known)


def test_a_run_that_is_better_elsewhere_shows_it_and_its_future_does_not() -> None:
    runs = family(["a", "b"], tasks=4)
    asked, others = [t for t in runs if t.run == "a"], [t for t in runs if t.run == "b"]
    query = ask(asked[0], 8)
    plain = replace(query, siblings=[t.slice(0, 8) for t in asked[1:]])
    lifted = [replace(t, values=np.clip(t.values + 0.05, 0, 1)) for t in asked[1:]]
    better = replace(query, siblings=[t.slice(0, 8) for t in lifted])
    alone = replace(query, siblings=())
    changed = [replace(t, values=np.r_[t.values[:8], 0 * t.values[8:]]) for t in asked[1:]]
    cut = replace(query, siblings=[t.slice(0, 8) for t in changed])
    (one,), (two,), (none,), (same,) = (features([q], others) for q in (plain, better, alone, cut))
    raised = (two["references"] - one["references"])[0, 0]
    assert (np.abs(raised) > 0.3).sum() == 1  # one column tells it, ten times the 0.05
    assert raised.max() == np.float32(raised[np.abs(raised) > 0.3][0])
    np.testing.assert_allclose(raised.max(), 0.5, atol=0.01)
    assert (none["references"] != one["references"]).any()
    for name in ("own", "targets", "references", "pairs"):
        np.testing.assert_array_equal(one[name], same[name])
