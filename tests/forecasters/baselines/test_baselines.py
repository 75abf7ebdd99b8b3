"""Baselines: each recovers what it assumes, says when it cannot answer, and leaks nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from curves import ask
from forecasts import trajectory

from neuneu.core.errors import UserError
from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.baselines import BASELINES, LogisticLawConfig, make_forecaster
from neuneu.forecasters.baselines.logistic import LogisticLaw, fit_logistic, logistic
from neuneu.forecasters.baselines.power_law import PowerLaw, fit_power_laws

STEPS = np.arange(1, 13)


def with_losses(run: str, law: Callable[[FloatArray], FloatArray], **changes: object) -> Trajectory:
    losses = 2.0 + 4.0 * STEPS**-0.7
    return trajectory(law(np.log(losses)).tolist(), run=run, losses={"v": losses}, **changes)


def test_registry_builds_each_and_names_the_known_ones() -> None:
    for name in BASELINES:
        forecaster = make_forecaster(name)
        assert forecaster.name == name
        assert 0.5 in forecaster.levels
    with pytest.raises(UserError, match="persistence, recent-mean"):
        make_forecaster("persistense")


def test_persistence_repeats_the_last_context_value() -> None:
    (answer,) = make_forecaster("persistence").predict([ask(trajectory([0.1, 0.3, 0.9, 0.8]), 2)])
    np.testing.assert_array_equal(answer, [[0.3], [0.3]])


def test_power_law_recovers_a_synthetic_curve() -> None:
    tokens = STEPS * 100.0
    values = 1.0 - (0.3 + 0.4 * (tokens / 100.0) ** -0.6)
    (answer,) = PowerLaw().predict([ask(trajectory(values.tolist()), 5)])
    np.testing.assert_allclose(answer[:, 0], values[5:], atol=1e-4)


def test_power_law_falling_accuracy_falls() -> None:
    values = 0.2 + 0.3 * STEPS**-0.5
    (answer,) = PowerLaw().predict([ask(trajectory(values.tolist()), 6)])
    np.testing.assert_allclose(answer[:, 0], values[6:], atol=1e-4)


def test_power_law_is_no_worse_than_scipy() -> None:
    from scipy.optimize import least_squares

    generator = np.random.default_rng(0)
    tokens = np.tile(STEPS[:6] * 100.0, (8, 1))
    errors = np.clip(0.5 + 0.3 * tokens**-0.3 + generator.normal(0, 0.02, tokens.shape), 0, 1)
    floor, slope, exponent = fit_power_laws(tokens, errors)
    ratio = tokens / tokens[:, -1:]
    ours = ((errors - floor[:, None] - slope[:, None] * ratio ** -exponent[:, None]) ** 2).sum(1)
    for row in range(8):
        best = min(
            2.0
            * least_squares(
                lambda p, row=row: p[0] + p[1] * ratio[row] ** -p[2] - errors[row],
                (0.5, 0.1, start),
                bounds=((0.0, -np.inf, 0.05), (1.0, np.inf, 2.0)),
            ).cost
            for start in (0.1, 0.5, 1.5)
        )
        assert ours[row] <= best + 1e-8


@pytest.mark.parametrize("points", [1, 2, 3])
def test_power_law_short_context_is_persistence(points: int) -> None:
    query = ask(trajectory([0.2, 0.4, 0.5, 0.6, 0.7]), points)
    (answer,) = PowerLaw().predict([query])
    assert (answer == query.context.values[-1]).all()


def test_power_law_constant_context_stays_constant() -> None:
    (answer,) = PowerLaw().predict([ask(trajectory([0.25] * 8), 5)])
    np.testing.assert_allclose(answer, 0.25, atol=1e-12)


def test_power_law_mixed_context_lengths_keep_their_order() -> None:
    curves = [trajectory((1.0 - 0.5 * STEPS**-c).tolist()) for c in (0.3, 0.6, 0.9)]
    ends = (5, 2, 7)
    together = PowerLaw().predict([ask(c, e) for c, e in zip(curves, ends, strict=True)])
    for curve, end, answer in zip(curves, ends, together, strict=True):
        np.testing.assert_array_equal(answer, PowerLaw().predict([ask(curve, end)])[0])


def test_logistic_recovers_known_parameters() -> None:
    truth = np.array([-0.5, 0.75, 8.0, 1.1])
    x = np.linspace(0.6, 1.8, 60)
    fitted = fit_logistic(x, logistic(x, truth))
    np.testing.assert_allclose(fitted, truth, rtol=1e-3)


def test_logistic_formula_by_hand() -> None:
    # At ln L = L0 the sigmoid is a half.
    np.testing.assert_allclose(logistic(np.array([1.0]), np.array([0.4, 0.1, 3.0, 1.0])), 0.3)


def test_logistic_law_applies_the_references_law_to_the_future_loss() -> None:
    def law(log_loss: FloatArray) -> FloatArray:
        return logistic(log_loss, np.array([-0.5, 0.75, 6.0, 1.0]))

    forecaster = LogisticLaw()
    forecaster.fit([with_losses(f"ref{i}", law) for i in range(3)])
    target = with_losses("target", law)
    (answer,) = forecaster.predict([ask(target, 3, oracle=True)])
    np.testing.assert_allclose(answer[:, 0], target.values[3:], atol=2e-3)


def test_logistic_law_flat_task_forecasts_its_level() -> None:
    forecaster = LogisticLaw()
    forecaster.fit([with_losses("ref", lambda x: np.full_like(x, 0.25))])
    (answer,) = forecaster.predict(
        [ask(with_losses("target", lambda x: np.full_like(x, 0.9)), 3, oracle=True)]
    )
    np.testing.assert_allclose(answer, 0.25, atol=1e-6)


def test_logistic_law_what_it_cannot_answer_is_nan() -> None:
    def flat(log_loss: FloatArray) -> FloatArray:
        return np.full_like(log_loss, 0.5)

    forecaster = LogisticLaw()
    forecaster.fit([with_losses("ref", flat)])
    target = with_losses("target", flat)
    gap = target.losses["v"].copy()
    gap[-1] = np.nan
    unknown_task = replace(target, task="other")
    other_family = replace(target, family="other")
    other_shots = replace(target, num_fewshot=5)
    lossless = replace(target, losses={})
    partly = replace(target, losses={"v": gap})
    queries = [
        ask(t, 3, oracle=True) for t in (unknown_task, other_family, other_shots, lossless, partly)
    ]
    for answer in forecaster.predict([*queries, ask(target, 3, oracle=False)]):
        assert np.isnan(answer).all()
    (known,) = forecaster.predict([ask(target, 3, oracle=True)])
    assert not np.isnan(known).any()


def test_logistic_law_default_loss_is_the_familys() -> None:
    losses = 2.0 + STEPS**-0.5
    names = {"another": losses + 1.0, "lambada_openai": losses}
    reference = trajectory((0.2 + 0.05 * STEPS).tolist(), family="pythia", losses=names)
    forecaster = LogisticLaw()
    forecaster.fit([reference])
    target = replace(reference, run="target", losses={"lambada_openai": losses})
    (answer,) = forecaster.predict([ask(target, 3, oracle=True)])
    assert not np.isnan(answer).any()
    # A loss that the user names and nobody has is not replaced by another one.
    strict = LogisticLaw(LogisticLawConfig(loss_name="c4"))
    strict.fit([reference])
    assert np.isnan(strict.predict([ask(target, 3, oracle=True)])[0]).all()


def test_logistic_law_step_zero_is_not_learnt_from() -> None:
    x = np.exp(np.linspace(2.0, 0.7, 12))
    values = 0.2 + 0.05 * STEPS
    clean = trajectory(values.tolist(), losses={"v": x})
    dirty = replace(
        clean,
        steps=np.append(0, clean.steps),
        tokens=np.append(0.0, clean.tokens),
        flops=np.append(0.0, clean.flops),
        values=np.append(0.9, clean.values),
        stderrs=np.append(np.nan, clean.stderrs),
        losses={"v": np.append(11.0, x)},
    )
    answers = []
    for reference in (clean, dirty):
        forecaster = LogisticLaw()
        forecaster.fit([reference])
        answers.append(forecaster.predict([ask(replace(clean, run="target"), 3, oracle=True)])[0])
    np.testing.assert_array_equal(*answers)
