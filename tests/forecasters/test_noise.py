"""Noise of a run's evaluations from its own past, and from other tasks where that is short."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.noise import PRIOR, evaluation_noise
from neuneu.forecasters.protocol import Query


def query(values: Sequence[float], *, siblings: Sequence[Trajectory] = ()) -> Query:
    context = course(values)
    return Query(
        context=context, target_steps=np.array([10**6]), target_tokens=np.array([1e15]),
        target_flops=np.array([1e24]), siblings=siblings,
    )  # fmt: skip


def course(values: Sequence[float], tokens: Sequence[float] | None = None) -> Trajectory:
    at = 1e9 * (2.0 ** np.arange(len(values)) if tokens is None else np.array(tokens))
    return Trajectory(
        family="f", suite="s", run="r", params=1e8, num_fewshot=0, task="t", metric="acc",
        steps=np.arange(1, len(values) + 1), tokens=at, flops=6e8 * at, values=np.array(values),
        stderrs=np.full(len(values), np.nan),
    )  # fmt: skip


def test_evaluation_noise_of_a_straight_course_is_zero() -> None:
    assert evaluation_noise([query([0.2, 0.3, 0.4, 0.5])])[0] == pytest.approx(0.0, abs=1e-12)


def test_evaluation_noise_weighs_a_residual_by_its_variance() -> None:
    # Evenly spaced: the residual 0.06 has 1.5 times the variance of a score.
    found = evaluation_noise([query([0.3, 0.36, 0.3])])
    assert found[0] == pytest.approx(0.06 / np.sqrt(1.5))


def test_evaluation_noise_uneven_spacing_uses_the_line_in_ln_tokens() -> None:
    # The middle score lies three quarters of the way: 0.25 * 0.2 + 0.75 * 0.6 = 0.5.
    run = course([0.2, 0.5 + 0.04, 0.6], tokens=[1.0, 8.0, 16.0])
    found = evaluation_noise([replace(query([0.1]), context=run)])
    assert found[0] == pytest.approx(0.04 / np.sqrt(1 + 0.25**2 + 0.75**2))


def test_evaluation_noise_short_pasts_borrow_from_siblings() -> None:
    noisy = course([0.3, 0.36, 0.3])
    (short,) = evaluation_noise([query([0.4, 0.5], siblings=[noisy])])
    assert short == pytest.approx(0.06 / np.sqrt(1.5))
    (quiet,) = evaluation_noise([query([0.2, 0.3, 0.4], siblings=[noisy])])
    mean = 0.06**2 / 1.5 / 2  # of one residual each
    assert quiet == pytest.approx(np.sqrt(PRIOR * mean / (PRIOR + 1)))


def test_evaluation_noise_is_zero_where_nothing_tells() -> None:
    empty = query([0.4]).context.slice(0, 0)
    assert evaluation_noise([query([0.4, 0.5]), replace(query([0.4]), context=empty)]).max() == 0.0


def test_evaluation_noise_recovers_a_known_noise() -> None:
    generator = np.random.default_rng(0)
    runs = [query(0.3 + 0.02 * np.arange(14) + generator.normal(0, 0.03, 14)) for _ in range(400)]
    assert np.sqrt(np.mean(evaluation_noise(runs) ** 2)) == pytest.approx(0.03, rel=0.1)
