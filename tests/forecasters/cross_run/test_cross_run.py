"""Questions, features and answers of the cross-run forecaster: nothing leaks, nothing depends on
what else is asked, and finished runs help where they tell the truth."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from curves import ask as query
from curves import ladder, trajectory
from fitted import fit

from neuneu.core.errors import DataError
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.cross_run.batching import MAX_TARGETS, make_batches
from neuneu.forecasters.cross_run.comparison import TREND_CANDIDATES
from neuneu.forecasters.cross_run.curves import Codes, build_curves
from neuneu.forecasters.cross_run.features import make_features
from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster, one_thread
from neuneu.forecasters.cross_run.network import CrossRunConfig, CrossRunNetwork, sizes_of
from neuneu.forecasters.cross_run.references import NONE, index_references
from neuneu.forecasters.protocol import Query
from neuneu.training.cross_run.fitting import CrossRunOptim, FitConfig
from neuneu.training.cross_run.sampling import Sampler, SamplingConfig
from neuneu.training.objective import ObjectiveConfig

SMALL = CrossRunConfig(width=32, heads=2, blocks=1, dropout=0.0)


@pytest.fixture(scope="module")
def fitted() -> CrossRunNetwork:
    config = FitConfig(
        network=SMALL, optim=CrossRunOptim(max_steps=250, batch_size=48, learning_rate=4e-3)
    )
    return fit(ladder(), config)


def test_sampler_asks_only_what_may_be_asked() -> None:
    runs = ladder()
    curves = build_curves(runs, Codes())
    config = SamplingConfig(
        alone=0.2, smaller_only=1.0, targets=5, references=4, unstarted=0.0, synthetic=0.0
    )
    sampler = Sampler(curves, index_references(curves), config)
    questions, values = sampler.draw(np.random.default_rng(0), 400)
    present = questions.references != NONE
    refs = np.where(present, questions.references, 0)
    asked = questions.rows[:, None]
    # A fifth is alone by intent, and the smallest run always is.
    assert 0.4 < present.any(axis=1).mean() < 0.8
    assert (curves.runs[refs] != curves.runs[asked])[present].all()
    assert (curves.cells[refs] == curves.cells[asked])[present].all()
    assert (curves.log_params[refs] < curves.log_params[asked])[present].all()
    known = np.isfinite(questions.targets)
    assert (known == np.isfinite(values)).all()
    assert known.any(axis=1).all()
    now = curves.x[curves.starts[questions.rows] + questions.end]
    assert (questions.targets > now[:, None])[known].all()
    again, same = sampler.draw(np.random.default_rng(0), 400)
    np.testing.assert_array_equal(questions.references, again.references)
    np.testing.assert_array_equal(values, same)


def test_targets_of_a_question_are_spread_over_the_rest() -> None:
    curves = build_curves(ladder(), Codes())
    sampler = Sampler(curves, index_references(curves), SamplingConfig(targets=12, unstarted=0.0))
    questions, _ = sampler.draw(np.random.default_rng(1), 200)
    for row, end in zip(questions.targets, questions.end, strict=True):
        known = row[np.isfinite(row)]
        left = 19 - end
        assert len(known) == min(left, 12)
        assert len(np.unique(known)) >= min(left, 6)
        assert (np.diff(known) >= 0).all()


def test_features_do_not_know_the_future() -> None:
    runs = ladder()
    library = runs[4:]
    asked = [query(run, 5) for run in runs[:4]]
    changed = [
        query(replace(run, values=np.concatenate([run.values[:5], run.values[5:] * 0.1])), 5)
        for run in runs[:4]
    ]
    for a, b in zip(*(_features(queries, library) for queries in (asked, changed)), strict=True):
        for name in ("own", "targets", "references", "pairs", "pair_candidates"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def _features(queries: list[Query], library: list[Trajectory]) -> list:
    codes = Codes()
    table = build_curves(library, codes)
    return [make_features(p.batch) for p in make_batches(queries, table, codes, n_references=4)]


def test_own_run_is_never_a_reference() -> None:
    runs = ladder()
    codes = Codes()
    table = build_curves(runs, codes)
    (pieces,) = make_batches([query(runs[0], 5)], table, codes, n_references=99)
    refs = pieces.batch.references[0]
    assert (refs != NONE).sum() == 5
    names = {table.trajectories[row].run for row in refs[refs != NONE]}
    assert names == {"r1", "r2", "r3", "r4", "r5"}


def test_aligned_candidates_are_what_they_say() -> None:
    """At the same tokens, progress and FLOPs, against values computed by hand."""
    n = 40
    steps = np.arange(1, n + 1) * 100
    first = replace(trajectory(np.full(n, 0.3), steps=steps.tolist(), run="a"), params=1e7)
    rising = 0.2 + 0.01 * np.arange(n)
    other = replace(trajectory(rising, steps=steps.tolist(), run="b"), params=1e7)
    (features,) = _features([query(first, 10)], [other])
    change = rising[10:] - rising[9]
    # change and value at equal tokens; equal sizes and lengths make the others the same.
    tokens_change, tokens_value, progress_change = features.pair_candidates[0, :, 0, :3].T
    np.testing.assert_allclose(tokens_change, 0.3 + change, atol=0.01)
    np.testing.assert_allclose(tokens_value, rising[10:], atol=0.01)
    np.testing.assert_allclose(progress_change, tokens_change, atol=1e-6)
    np.testing.assert_allclose(features.own_candidates[0, :, 0], 0.3, atol=1e-6)


def test_answers_do_not_depend_on_company(fitted: CrossRunNetwork) -> None:
    runs = ladder(seed=3)
    forecaster = CrossRunForecaster([fitted])
    forecaster.fit(runs[8:])
    queries = [query(run, end) for run, end in zip(runs[:6], (1, 3, 5, 8, 12, 19), strict=True)]
    together = forecaster.predict(queries)
    for single, answer in zip(queries, together, strict=True):
        alone = forecaster.predict([single])[0]
        assert answer.shape == (len(single.target_steps), len(forecaster.levels))
        np.testing.assert_allclose(answer, alone, atol=1e-5)
        assert (np.diff(answer, axis=1) >= 0).all()
        assert ((answer >= 0) & (answer <= 1)).all()


def test_long_horizons_are_answered_in_pieces(fitted: CrossRunNetwork) -> None:
    n = MAX_TARGETS * 2 + 30
    full = trajectory(np.linspace(0.2, 0.6, n))
    forecaster = CrossRunForecaster([fitted], sees="own")
    (answer,) = forecaster.predict([query(full, 20)])
    assert np.isfinite(answer).all()
    assert np.abs(np.diff(answer[:, 3])).max() < 0.05


def test_unobserved_query_is_unanswered_and_nan_is_refused(fitted: CrossRunNetwork) -> None:
    full = trajectory([0.1, 0.2, 0.3, 0.4], steps=[0, 1, 2, 3])
    forecaster = CrossRunForecaster([fitted])
    (answer,) = forecaster.predict([query(full, 1)])
    assert np.isnan(answer).all()
    broken = replace(full, values=np.array([0.1, 0.2, np.nan, 0.4]))
    with pytest.raises(DataError, match="gave NaN"):
        forecaster.predict([query(broken, 3)])


def test_finished_runs_tell_where_a_task_jumps(fitted: CrossRunNetwork) -> None:
    """Before the jump the past says nothing of it; runs that were never trained on do."""
    unseen = ladder(seed=7)
    target = [run for run in unseen if run.run == "r5"]
    others = [run for run in unseen if run.run != "r5"]
    errors = {}
    for sees in ("own", "reference"):
        forecaster = CrossRunForecaster([fitted], sees=sees)
        forecaster.fit(others)
        answers = forecaster.predict([query(run, 5) for run in target])
        errors[sees] = np.mean(
            [
                np.abs(a[:, 3] - run.values[5:]).mean()
                for a, run in zip(answers, target, strict=True)
            ]
        )
    assert errors["reference"] < 0.5 * errors["own"]


def test_training_is_reproducible() -> None:
    config = FitConfig(network=SMALL, optim=CrossRunOptim(max_steps=5, batch_size=16))
    first, second = (fit(ladder(), config).state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_one_step_of_training_changes_the_network() -> None:
    first, second = (
        fit(
            ladder(),
            FitConfig(
                network=SMALL, optim=CrossRunOptim(max_steps=1, batch_size=16, learning_rate=rate)
            ),
        )
        for rate in (1e-9, 1e-2)
    )
    assert not torch.allclose(first.head.linear.weight, second.head.linear.weight)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="at least two checkpoints"):
        fit([trajectory([0.3])], FitConfig())


def test_network_without_references_has_finite_gradients() -> None:
    curves = build_curves(ladder(), Codes())
    sampler = Sampler(curves, index_references(curves), SamplingConfig(alone=1.0, unstarted=0.0))
    questions, values = sampler.draw(np.random.default_rng(0), 8)
    features = make_features(questions)
    network = CrossRunNetwork(SMALL, sizes_of(features))
    from neuneu.forecasters.cross_run.network import to_tensors
    from neuneu.training.cross_run.fitting import question_losses

    batch = to_tensors(features) | {"task": torch.zeros(8, dtype=torch.long)}
    quantiles, weights = network(batch)
    own = features.own_candidates.shape[-1] + TREND_CANDIDATES
    assert weights[..., own:].max() < 1e-6
    batch |= {"values": torch.from_numpy(values), "weight": torch.ones(values.shape)}
    losses, _ = question_losses(ObjectiveConfig(), quantiles, batch, torch.tensor(SMALL.levels))
    losses.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_one_thread_is_put_back_and_changes_no_answer(
    fitted: CrossRunNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster = CrossRunForecaster([fitted])
    forecaster.fit(ladder(4))
    queries = [query(t, 8) for t in ladder(3, prefix="q")]
    before = torch.get_num_threads()
    alone = forecaster.predict(queries)
    with pytest.raises(DataError), one_thread():
        raise DataError
    assert torch.get_num_threads() == before
    monkeypatch.setattr("neuneu.forecasters.cross_run.forecaster.one_thread", nullcontext)
    for first, second in zip(alone, forecaster.predict(queries), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
