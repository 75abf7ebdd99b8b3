"""Right answers alone: what finished runs teach about reading them."""

import numpy as np
from scored import scored_choices

from neuneu.data.arrays import FloatArray
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.gold import GoldForecaster, gold_course, read_course
from neuneu.forecasters.items.margins import has_margins
from neuneu.forecasters.queries import query_at

TOKENS = np.geomspace(1e6, 1e8, 20)
N_ITEMS = 60


def _run(name: str, *, level: float, gain: float, noise: float = 0.01) -> Trajectory:
    """An accuracy that rises by `gain` in ln tokens, with noise; half of the items know of it."""
    generator = np.random.default_rng(len(name))
    skill = gain * np.log(TOKENS / TOKENS[0])
    informed = np.repeat([1.0, 0.0], N_ITEMS // 2)
    start = np.linspace(0.2, 0.6, N_ITEMS)
    chances = start + skill[:, None] * informed + 0.01 * generator.normal(size=(20, N_ITEMS))
    choices = scored_choices(
        np.log(np.clip(chances, 1e-3, 1)), [0] * N_ITEMS, tokens=TOKENS.tolist(), n_choices=1,
        run=name,
    )  # fmt: skip
    values = level + skill + noise * generator.normal(size=20)
    return Trajectory(
        family="f", suite="s", run=name, params=1e6, num_fewshot=0, task="t", metric="acc_norm",
        steps=choices.steps, tokens=choices.tokens, flops=6e6 * choices.tokens, values=values,
        stderrs=np.full(20, np.nan), choices=choices,
    )  # fmt: skip


RELATIVES = [
    _run("a" * n, level=level, gain=gain)
    for n, (level, gain) in enumerate([(0.3, 0.02), (0.35, 0.03), (0.4, 0.04)], 1)
]


def _error(answer: FloatArray, truth: FloatArray) -> float:
    return float(np.abs(answer[:, 3] - truth).mean())


def test_one_choice_an_item_has_no_margin() -> None:
    assert not has_margins(RELATIVES[0].choices, "acc")


def test_course_is_read_off_the_items_that_move_with_the_accuracy() -> None:
    course = gold_course(_run("quiet", level=0.5, gain=0.03))
    known = [of for of in map(gold_course, RELATIVES) if of is not None]
    assert course is not None
    context = course.until(10)
    level, differences = read_course(context, known)
    assert level == context.values[3:10].mean()
    true = 0.03 * np.log(TOKENS[:10] / TOKENS[0])
    np.testing.assert_allclose(differences, true - true[3:10].mean(), atol=0.01)


def test_noisy_accuracies_are_forecast_by_the_items_course() -> None:
    target = _run("loud-target", level=0.5, gain=0.03, noise=0.03)
    forecaster = GoldForecaster()
    forecaster.fit(RELATIVES)
    query = query_at(target.slice(0, 10), TOKENS[10:])
    truth = 0.5 + 0.03 * np.log(TOKENS[10:] / TOKENS[0])
    (answer,) = forecaster.predict([query])
    own_trend = np.polyval(
        np.polyfit(np.log(TOKENS[:10]), target.values[:10], 1), np.log(TOKENS[10:])
    )
    persistence = np.full_like(answer, target.values[9])
    assert _error(answer, truth) < min(_error(persistence, truth), np.abs(own_trend - truth).mean())
    assert (np.diff(answer, axis=1) > 0).all()


def test_without_relatives_or_choices_there_is_no_answer() -> None:
    target = _run("target", level=0.5, gain=0.03)
    forecaster = GoldForecaster()
    forecaster.fit([])
    query = query_at(target.slice(0, 10), TOKENS[10:])
    assert np.isnan(forecaster.predict([query])[0]).all()
    forecaster.fit([target])
    assert np.isnan(forecaster.predict([query])[0]).all()  # a run is not its own relative
