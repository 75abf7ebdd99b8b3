"""LC-PFN: its prior's curves are what they say, and it learns from them."""

import numpy as np
import pytest
from curves import ask
from forecasting.lc_pfn import sample_trajectories, train_lc_pfn


def test_prior_curves_are_accuracies_of_runs_of_their_own() -> None:
    curves = sample_trajectories(200, seed=1)
    assert len({t.run_group for t in curves}) == 200
    for t in curves:
        assert ((t.values >= 0) & (t.values <= 1)).all()
        assert (np.diff(t.tokens) > 0).all()
        assert len(t) >= 5
    again = sample_trajectories(200, seed=1)
    np.testing.assert_array_equal(curves[7].values, again[7].values)
    risen = np.array([t.values[-1] - t.values[0] for t in curves])
    assert (risen > 0.05).mean() > 0.5
    assert (risen < 0).any()


@pytest.mark.slow
def test_training_on_the_prior_beats_persistence_on_it() -> None:
    forecaster = train_lc_pfn(curves=600, steps=250)
    fresh = [t for t in sample_trajectories(150, seed=9) if len(t) >= 12]
    ends = [len(t) // 3 for t in fresh]
    answers = forecaster.predict([ask(t, end) for t, end in zip(fresh, ends, strict=True)])
    errors = np.array(
        [
            [np.abs(a[:, 3] - t.values[e:]).mean(), np.abs(t.values[e - 1] - t.values[e:]).mean()]
            for a, t, e in zip(answers, fresh, ends, strict=True)
        ]
    ).mean(axis=0)
    assert errors[0] < errors[1]
