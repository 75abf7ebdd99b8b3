"""Bands of point forecasters are the quantiles of their own residuals, by horizon."""

import numpy as np
from curves import ask
from forecasts import Shifted, trajectory

from neuneu.baselines.banded import Banded, measure_residuals
from neuneu.forecaster import Query
from neuneu.quantiles import FORECAST_LEVELS
from neuneu.trajectories import Trajectory


def asked(n: int, seed: int) -> tuple[list[Query], list[Trajectory]]:
    generator = np.random.default_rng(seed)
    runs = [trajectory(0.5 + 0.1 * generator.standard_normal(40), run=f"r{i}") for i in range(n)]
    runs = [trajectory(np.r_[0.5, t.values[1:]], run=t.run) for t in runs]
    return [ask(t, 1) for t in runs], [t.slice(1, len(t)) for t in runs]


def test_bands_hold_what_they_say_on_runs_like_those_they_were_measured_on() -> None:
    point = Shifted("point", levels=(0.5,))
    residuals = measure_residuals(point, *asked(200, seed=0))
    queries, truths = asked(200, seed=1)
    banded = Banded(point, residuals)
    answers = np.concatenate(banded.predict(queries))
    y = np.concatenate([t.values for t in truths])
    at = {level: index for index, level in enumerate(FORECAST_LEVELS)}
    inside = (answers[:, at[0.1]] <= y) & (y <= answers[:, at[0.9]])
    assert abs(inside.mean() - 0.8) < 0.02
    np.testing.assert_allclose(answers[:, at[0.5]], 0.5)
    assert (np.diff(answers, axis=1) >= 0).all()
    assert banded.name == "point"
    assert banded.sees == "own"


def test_a_biased_forecaster_keeps_its_median_and_unanswered_queries_do_not_count() -> None:
    biased = Shifted("biased", shift=0.3, levels=(0.5,), unknown=("t1",))
    queries, truths = asked(20, seed=0)
    residuals = measure_residuals(biased, queries, truths)
    upper = np.array(residuals.offsets)[:, FORECAST_LEVELS.index(0.9)]
    np.testing.assert_allclose(upper, 0.0)  # what came lay below it every time
    assert measure_residuals(Shifted("s", unknown=("t",)), queries, truths).offsets[0][0] == 0.0
