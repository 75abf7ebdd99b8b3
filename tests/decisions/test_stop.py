"""Whether to go on: probabilities against a target and against a rival drawn together."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from curves import trajectory

import neuneu
from neuneu.data.trajectories import Trajectory
from neuneu.decisions.explanation import take_off_warning
from neuneu.decisions.statistics import prospect
from neuneu.forecasters.protocol import JointForecaster, ReferenceRuns
from neuneu.forecasters.queries import query_at

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


def test_a_run_that_may_take_off_is_not_stopped() -> None:
    unlikely = prospect(FINAL, 0.4, 0.65, threshold=0.26, may_take_off=True)
    assert unlikely.advice == "cannot tell"
    assert unlikely.success == 0.25
    assert prospect(FINAL, 0.4, 0.65, threshold=0.25, may_take_off=True).advice == "go on"


def scored(*levels: float, chance: float | None = 0.25) -> list[Trajectory]:
    """A run of one million parameters that scores the same all along, on a task per level."""
    return [
        replace(trajectory([level] * 5, task=f"t{k}"), chance=chance)
        for k, level in enumerate(levels)
    ]


def told_by(contexts: Sequence[Trajectory], *used: Trajectory) -> bool:
    """Whether these references leave open if the run takes off."""
    runs = ReferenceRuns(used=list(used), left_out=[])
    forecaster = SimpleNamespace(reference_runs=lambda queries: [runs] * len(queries))
    queries = [query_at(context, np.array([40e3])) for context in contexts]
    return take_off_warning(cast(JointForecaster, forecaster), queries) is not None


def test_only_near_chance_on_most_tasks_a_take_off_is_unknown() -> None:
    assert told_by(scored(0.26, 0.28, 0.6))
    assert not told_by(scored(0.26, 0.6))
    assert not told_by(scored(0.29, 0.3, 0.6))
    assert not told_by(scored(0.26, 0.26, chance=None))
    assert not told_by([])


def test_only_runs_of_its_size_show_whether_a_run_takes_off() -> None:
    (reference,) = scored(0.25)
    assert told_by(scored(0.25), replace(reference, params=0.7e6))
    for params in (0.9e6, 1e9, np.nan):
        assert not told_by(scored(0.25), replace(reference, params=params))


def test_stop_near_chance_cannot_tell_and_says_why() -> None:
    """As Lucie's MMLU at 20 % of its tokens: 25 %, asked about 33 %."""
    noise = np.random.default_rng(0).normal(0, 0.003, 20)
    rows: list[dict[str, Any]] = [
        {"run": "lucie", "task": task, "tokens": 30e9 * step, "value": 0.25 + noise[step - 1],
         "params": 7e9, "planned_tokens": 3e12}
        for task in ("mmlu", "unknown_task")
        for step in range(1, 21)
    ]  # fmt: skip
    unsaid = ("base_task", "format", "split", "group", "n_items", "higher_is_better")
    tasks = [dict.fromkeys(unsaid) | {"task": "mmlu", "metric": "acc", "chance": 0.25}]
    ask = neuneu.load().stop
    (row,) = ask(rows, target=0.6, task="mmlu", tasks=tasks).rows
    assert row["success"] < 0.1
    assert row["advice"] == "cannot tell"
    assert "take-off" in {warning["code"] for warning in row["warnings"]}
    (unknown,) = ask(rows, target=0.6, task="unknown_task", tasks=tasks).rows
    assert unknown["advice"] == "stop"
    assert "take-off" not in {warning["code"] for warning in unknown["warnings"]}
    (likely,) = ask(rows, target=0.2, task="mmlu", tasks=tasks).rows
    assert likely["advice"] == "go on"
    assert "take-off" not in {warning["code"] for warning in likely["warnings"]}
