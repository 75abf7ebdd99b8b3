"""Finished runs are forecast without their own future, at a bounded cost."""

from dataclasses import replace

import numpy as np
import pytest
from curves import ladder
from planted import Planted, noisy_runs

import neuneu
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import JointForecaster
from neuneu.forecasters.self_calibration.cases import Case
from neuneu.forecasters.self_calibration.correction import fit_correction
from neuneu.forecasters.self_calibration.forecaster import SelfCalibrated
from neuneu.forecasters.self_calibration.held_out import (
    LEAST,
    LIMIT,
    HeldOutForecasts,
    forecast_held_out,
)


def held_out(
    forecaster: JointForecaster, finished: list[Trajectory], **options: object
) -> HeldOutForecasts:
    settings = {"shares": (0.2,)} | options
    found = forecast_held_out(forecaster, finished, "f", **settings)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(("n_runs", "n_folds", "sampled"), [(2, 2, False), (200, 10, True)])
def test_no_run_is_forecast_with_its_own_future(n_runs: int, n_folds: int, sampled: bool) -> None:
    planted = Planted()
    found = held_out(planted, noisy_runs(n_runs, tasks=8, n=10))
    assert len(planted.asked) == n_folds == len(found.folds)
    assert found.sampled is sampled
    assert found.outcomes.n_runs == n_runs
    assert len(found.queries) <= max(LIMIT, LEAST * n_runs)
    for references, queries in planted.asked:
        runs = {query.context.run for query in queries}
        assert runs
        assert not runs & {t.run for t in references}
        assert {t.run for t in references} | runs == {f"r{i}" for i in range(n_runs)}
        for query in queries:
            assert len(query.context) == 2
            assert query.target_tokens[0] > query.context.tokens[-1]
            assert query.siblings
            for sibling in query.siblings:
                assert sibling.run == query.context.run
                assert sibling.tokens[-1] <= query.context.tokens[-1]


def test_what_a_run_scored_later_changes_no_forecast_of_it() -> None:
    """On the package's forecaster, which reads the other runs."""
    runs = ladder(4)
    later = [
        replace(t, values=np.where(t.tokens > 4e3, 1.0 - t.values, t.values))
        if t.run == "r2"
        else t
        for t in runs
    ]
    forecaster = neuneu.load().forecaster
    first, second = (held_out(forecaster, each) for each in (runs, later))
    own = [t.run == "r2" for t in first.truths]
    mine = np.array(own)[first.outcomes.trajectories]
    np.testing.assert_array_equal(first.outcomes.quantiles[mine], second.outcomes.quantiles[mine])
    assert not np.array_equal(first.outcomes.quantiles[~mine], second.outcomes.quantiles[~mine])


def test_the_order_of_runs_changes_nothing() -> None:
    runs = noisy_runs(30, tasks=20, n=10)
    shuffled = [runs[i] for i in np.random.default_rng(1).permutation(len(runs))]
    first, second = (
        fit_correction(held_out(Planted(2.0), each).outcomes) for each in (runs, shuffled)
    )
    assert first == second


def test_other_families_and_runs_trained_on_are_references_only() -> None:
    strangers = [replace(t, family="g") for t in noisy_runs(3, prefix="g")]
    planted = Planted(trained_on=["r0"])
    found = held_out(planted, [*noisy_runs(4), *strangers])
    assert {t.run for t in found.truths} == {"r1", "r2", "r3"}
    for references, _ in planted.asked:
        assert {"g0", "g1", "g2", "r0"} < {t.run for t in references}
    for n_runs in (0, 1):
        alone = [*noisy_runs(n_runs), *strangers]
        assert forecast_held_out(planted, alone, "f", shares=(0.2,)) is None


def test_runs_are_forecast_before_their_start_where_the_question_is_about_such_runs() -> None:
    planted = Planted(3.0)
    found = held_out(planted, noisy_runs(8), shares=(0.0,))
    assert all(len(q.context) == 0 < len(q.target_tokens) for _, qs in planted.asked for q in qs)
    correction = fit_correction(found.outcomes)
    case = Case(family="f", share=0.0)
    mended = SelfCalibrated(planted, {case: correction}, {"f": 1e6})
    (before,), (after,) = (f.predict(found.queries[:1]) for f in (planted, mended))
    assert np.ptp(after[-1, [1, 5]]) < np.ptp(before[-1, [1, 5]]) / 2


def test_larger_runs_are_forecast_from_smaller_ones() -> None:
    runs = [replace(t, params=1e6 * (1 + int(t.run[1:]) // 2)) for t in noisy_runs(6)]
    planted = Planted()
    found = held_out(planted, runs, larger=True)
    assert found.from_smaller
    assert {t.run for t in found.truths} == {"r2", "r3", "r4", "r5"}
    for references, queries in planted.asked:
        largest = max(t.params for t in references)
        assert all(largest < query.context.params for query in queries)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_answers_of_a_planted_forecaster_are_mended(factor: float) -> None:
    known, new = noisy_runs(12), noisy_runs(40, seed=5, prefix="new")
    planted = Planted(factor)
    asked = held_out(planted, new)

    correction = fit_correction(held_out(planted, known).outcomes)
    mended = SelfCalibrated(planted, {Case(family="f", share=0.2): correction}, {"f": 1e6})
    assert isinstance(mended, JointForecaster)
    shares = []
    for forecaster in (planted, mended):
        inside = [
            np.mean((truth.values >= answer[:, 1]) & (truth.values <= answer[:, 5]))
            for answer, truth in zip(forecaster.predict(asked.queries), asked.truths, strict=True)
        ]
        shares.append(float(np.mean(inside)))
    assert abs(shares[0] - 0.8) > 0.15
    assert abs(shares[1] - 0.8) < 0.04
