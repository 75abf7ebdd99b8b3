"""The ladder's law, fitted on runs that follow planted laws."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from curves import ask, trajectory

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import make_forecaster
from neuneu.forecasters.protocol import Query

SIZES = (1e8, 2e8, 4e8, 8e8)
TOKENS_PER_PARAMETER = (10, 40, 160)


def loss_at(params: float, tokens: FloatArray | float) -> FloatArray:
    return np.asarray(
        0.7 * (params / 4e8) ** -0.3 + 0.4 * (np.asarray(tokens) / 2e10) ** -0.4 + 0.5
    )


def accuracy_at(loss: FloatArray) -> FloatArray:
    return -0.75 / (1 + np.exp(-4.0 * (loss - 1.1))) + 1.0


def run(params: float, end: float, *, name: str = "", noise: float = 0.0) -> Trajectory:
    """A run of 40 checkpoints up to `end` tokens that follows both laws."""
    steps = np.arange(1, 41)
    tokens = steps / 40 * end
    loss = loss_at(params, tokens)
    generator = np.random.default_rng(int(params + end) % 2**32)
    values = accuracy_at(loss) + generator.normal(0, noise, 40) if noise else accuracy_at(loss)
    made = trajectory(values, steps=steps.tolist(), run=name or f"{params:g}-{end:g}")
    return replace(
        made,
        params=params,
        tokens=tokens,
        flops=6 * params * tokens,
        signals={"bpb": loss},
        chance=0.25,
    )


def family(*, noise: float = 0.0) -> list[Trajectory]:
    return [run(n, ratio * n, noise=noise) for n in SIZES for ratio in TOKENS_PER_PARAMETER]


def planned(full: Trajectory) -> Query:
    """All checkpoints of a run, asked before its start."""
    return ask(full, 0)


def answer(name: str, references: Sequence[Trajectory], query: Query) -> FloatArray:
    forecaster = make_forecaster(name)
    forecaster.fit(references)
    return forecaster.predict([query])[0][:, 0]


@pytest.mark.parametrize(
    ("name", "noise", "error"),
    [
        ("ladder-two-step", 0.0, 0.005), ("ladder-two-step", 0.01, 0.01),
        ("ladder-one-step", 0.0, 0.02), ("ladder-one-step", 0.01, 0.03),
    ],
)  # fmt: skip
def test_larger_run_is_forecast_before_its_start(name: str, noise: float, error: float) -> None:
    target = run(3.2e9, 40 * 3.2e9)
    found = answer(name, family(noise=noise), planned(target))
    # From the tenth of the run on: earlier checkpoints of the smaller runs are not read.
    np.testing.assert_allclose(found[4:], target.values[4:], atol=error)
    largest = max(t.values[-1] for t in family())
    assert target.values[-1] > largest + 0.05, "the law has to extrapolate"


def test_without_task_losses_the_single_step_answers() -> None:
    references = [replace(t, signals={}) for t in family()]
    query = planned(run(1.6e9, 6.4e10))
    two, one = (answer(f"ladder-{steps}-step", references, query) for steps in ("two", "one"))
    np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize("name", ["ladder-two-step", "ladder-one-step"])
def test_too_few_or_equal_runs_are_unanswered(name: str) -> None:
    query = planned(run(1.6e9, 6.4e10))
    assert np.isnan(answer(name, family()[:2], query)).all()
    equal = [run(2e8, 8e9, name=f"seed{seed}") for seed in range(4)]
    assert np.isnan(answer(name, equal, query)).all()
    lengths = [run(2e8, ratio * 2e8) for ratio in TOKENS_PER_PARAMETER]
    assert np.isfinite(answer(name, lengths, query)).all(), "one size, but several lengths"
    foreign = [replace(t, family="other") for t in family()]
    assert np.isnan(answer(name, foreign, query)).all()
    unsized = replace(query, context=replace(query.context, params=np.nan))
    assert np.isnan(answer(name, family(), unsized)).all()


def test_runs_of_one_size_say_nothing_of_another() -> None:
    lengths = [run(2e8, ratio * 2e8) for ratio in (10, 40, 160, 320)]
    small, large = (planned(run(size, 2e10)) for size in (2e8, 3.2e9))
    found = [answer("ladder-two-step", lengths, query) for query in (small, large)]
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


def test_flat_noisy_task_does_not_run_away() -> None:
    generator = np.random.default_rng(0)
    references = [
        replace(t, values=0.25 + generator.normal(0, 0.02, 40), signals={}) for t in family()
    ]
    found = answer("ladder-two-step", references, planned(run(1.2e10, 5e11)))
    assert (np.abs(found - 0.25) < 0.06).all()


def test_recipe_shifts_the_law() -> None:
    references = [
        replace(t, run=f"{t.run}-{recipe}", recipe=recipe, values=t.values + shift)
        for t in family()
        for recipe, shift in (("web", -0.04), ("books", 0.04))
    ]
    query = planned(run(1.6e9, 6.4e10))
    contexts = [replace(query.context, recipe=recipe) for recipe in ("web", "books", "")]
    queries = [replace(query, context=context) for context in contexts]
    web, books, unknown = (answer("ladder-one-step", references, q) for q in queries)
    np.testing.assert_allclose(books - web, 0.08, atol=5e-3)
    np.testing.assert_allclose((books + web) / 2, unknown, atol=5e-3)


def test_offset_is_the_error_on_the_own_past() -> None:
    target = run(1.6e9, 6.4e10)
    target = replace(target, values=target.values + 0.05)
    plain = answer("ladder-two-step", family(), ask(target, 20))
    shifted = answer("ladder-two-step-offset", family(), ask(target, 20))
    np.testing.assert_allclose(plain, target.values[20:] - 0.05, atol=0.01)
    np.testing.assert_allclose(shifted, target.values[20:], atol=0.01)
    np.testing.assert_array_equal(
        answer("ladder-two-step-offset", family(), planned(target)),
        answer("ladder-two-step", family(), planned(target)),
    )
