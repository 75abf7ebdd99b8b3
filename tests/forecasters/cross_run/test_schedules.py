"""Learning rates along a schedule, by hand."""

import numpy as np
import pytest

from neuneu.data.runs import SCHEDULES
from neuneu.forecasters.cross_run.schedules import UNKNOWN, learning_rate

END = 100e9


def rate(schedule: str, tokens: float, *, end: float = END, start: float = np.nan) -> float:
    code = np.array([SCHEDULES.index(schedule) if schedule else UNKNOWN])
    found = learning_rate(code, np.log([start]), np.log([tokens]), np.log([end]))
    return float(found[0])


@pytest.mark.parametrize(
    ("schedule", "tokens", "start", "expected"),
    [
        ("cosine", 1.0, np.nan, 1.0),
        ("cosine", 50e9, np.nan, 0.55),
        ("cosine", 100e9, np.nan, 0.1),
        ("cosine", 200e9, np.nan, 0.1),  # beyond the plan it stays
        ("linear", 50e9, np.nan, 0.55),
        ("wsd", 79e9, np.nan, 1.0),
        ("wsd", 90e9, np.nan, 0.5),  # the last fifth unless the table says
        ("wsd", 75e9, 50e9, 0.5),
        ("wsd", 100e9, 50e9, 0.0),
        ("constant", 100e9, np.nan, 1.0),
    ],
)
def test_rates_by_hand(schedule: str, tokens: float, start: float, expected: float) -> None:
    assert rate(schedule, tokens, start=start) == pytest.approx(expected, abs=1e-4)


def test_what_is_unknown_is_nan() -> None:
    assert np.isnan(rate("", 50e9))
    assert np.isnan(rate("cosine", 50e9, end=np.nan))
    assert rate("constant", 50e9, end=np.nan) == 1.0


def test_rates_never_rise() -> None:
    x = np.log(np.linspace(1e9, 120e9, 200))
    for code in range(len(SCHEDULES)):
        found = learning_rate(
            np.full(200, code), np.full(200, np.nan), x, np.full(200, np.log(END))
        )
        assert (np.diff(found) <= 1e-6).all()
        assert ((found >= 0) & (found <= 1)).all()
