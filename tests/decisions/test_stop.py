"""Whether to go on: probabilities against a target and against a rival drawn together."""

import numpy as np
import pytest

from neuneu.decisions.statistics import prospect

FINAL = np.array([0.4, 0.5, 0.6, 0.7])


def test_a_target_is_reached_where_it_is_met() -> None:
    found = prospect(FINAL, 0.4, 0.6)
    assert found.success == 0.5
    assert found.gain == pytest.approx(0.15)
    assert found.gain_low == pytest.approx(0.03)
    assert found.gain_high == pytest.approx(0.27)


def test_a_rival_is_compared_sample_by_sample_and_a_tie_counts_half() -> None:
    rival = np.array([0.3, 0.5, 0.7, 0.6])
    assert prospect(FINAL, 0.4, rival).success == pytest.approx(0.625)


def test_advice_follows_the_threshold() -> None:
    assert prospect(FINAL, 0.4, 0.65, threshold=0.25).advice == "go on"
    assert prospect(FINAL, 0.4, 0.65, threshold=0.26).advice == "stop"
