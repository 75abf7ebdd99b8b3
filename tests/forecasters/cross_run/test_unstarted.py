"""Runs that have not begun are forecast from finished runs alone."""

from dataclasses import replace

import numpy as np
import pytest
from curves import ask, ladder
from fitted import fit
from test_cross_run import SMALL

from neuneu.forecasters.cross_run.forecaster import CrossRunForecaster
from neuneu.forecasters.cross_run.network import CrossRunNetwork
from neuneu.forecasters.protocol import Query
from neuneu.training.cross_run.fitting import CrossRunOptim, FitConfig
from neuneu.training.cross_run.sampling import SamplingConfig


@pytest.fixture(scope="module")
def network() -> CrossRunNetwork:
    config = FitConfig(
        network=SMALL,
        sampling=SamplingConfig(unstarted=0.4, synthetic=0.0, warped=0.0),
        optim=CrossRunOptim(max_steps=250, batch_size=48, learning_rate=4e-3),
    )
    return fit(ladder(), config)


def unstarted(query: Query) -> Query:
    return replace(query, context=query.context.slice(0, 0))


def test_references_answer_where_there_is_no_context(network: CrossRunNetwork) -> None:
    runs = ladder(seed=7)
    asked = [unstarted(ask(run, 5)) for run in runs if run.run == "r5"]
    truths = [run.values[5:] for run in runs if run.run == "r5"]
    forecaster = CrossRunForecaster([network])
    forecaster.fit([run for run in runs if run.run != "r5"])
    answers = forecaster.predict(asked)
    error = np.mean([np.abs(a[:, 3] - y).mean() for a, y in zip(answers, truths, strict=True)])
    spread = np.mean([np.abs(y - np.mean(truths)).mean() for y in truths])
    assert error < 0.5 * spread
    assert all((np.diff(a, axis=1) >= 0).all() for a in answers)
    assert all(runs.used for runs in forecaster.reference_runs(asked))


def test_without_references_nothing_is_answered(network: CrossRunNetwork) -> None:
    known = ask(ladder(1)[0], 5)
    forecaster = CrossRunForecaster([network])
    forecaster.fit([])
    nothing, something = forecaster.predict([unstarted(known), known])
    assert np.isnan(nothing).all()
    np.testing.assert_allclose(something, forecaster.predict([known])[0], atol=1e-6)


def test_company_changes_no_answer(network: CrossRunNetwork) -> None:
    runs = ladder(seed=3)
    forecaster = CrossRunForecaster([network])
    forecaster.fit(runs[8:])
    queries = [unstarted(ask(runs[0], 5)), ask(runs[1], 5), unstarted(ask(runs[2], 9))]
    for query, answer in zip(queries, forecaster.predict(queries), strict=True):
        np.testing.assert_allclose(answer, forecaster.predict([query])[0], atol=1e-5)
