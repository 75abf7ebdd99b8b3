"""The study of items: parts of the items, scores of rules beside forecasters, a small ladder."""

import numpy as np
import pytest
from evidence.data import GoldLosses, some_items, with_items
from evidence.gemstones import size_of, with_gold
from evidence.ladder_study import case_entry, count_entry
from evidence.scores import entry
from scored import pair_choices, scored_trajectory

from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.items.gold import gold_course
from neuneu.forecasters.items.margins import item_margins

TOKENS = np.geomspace(1e6, 1e8, 12)


def _run(name: str, task: str) -> Trajectory:
    generator = np.random.default_rng([len(name), ord(task)])
    margins = np.linspace(-1, 1, 12)[:, None] + generator.normal(size=(12, 40))
    choices = pair_choices(
        margins, tokens=TOKENS.tolist(), run=name, task=task, params=1e6 * len(name)
    )
    return scored_trajectory(choices)


def test_some_items_keep_their_choices_and_labels() -> None:
    choices = pair_choices([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], tokens=[1e3, 2e3])
    kept = some_items(choices, np.array([0, 2]))
    np.testing.assert_allclose(item_margins(kept, "acc"), [[1, 3], [4, -6]], rtol=1e-6)
    np.testing.assert_array_equal(kept.items.docs, [0, 0, 2, 2])
    trajectory = with_items(scored_trajectory(choices), kept)
    np.testing.assert_allclose(trajectory.values, [1.0, 0.5])


def test_scores_compare_every_forecaster_with_the_base() -> None:
    truths = [np.array([0.5, 0.6]), np.array([0.4])]
    near = [np.tile(t[:, None], 7) + np.linspace(-0.1, 0.1, 7) for t in truths]
    rule = [t[:, None] + 0.2 for t in truths]
    found = entry({"near": near, "rule": rule}, truths, ["a", "b"], "near")
    assert found["near"]["mae"]["value"] == pytest.approx(0.0)
    assert found["rule"]["minus_base"]["value"] == pytest.approx(0.2)
    assert found["near"]["coverage"] == 1.0
    assert found["rule"]["coverage"] is None


def test_gold_losses_become_one_request_an_item() -> None:
    trajectory = _run("a", "t")
    losses = np.full((12, 5), np.log(2.0), np.float32)
    course = gold_course(with_gold(trajectory, GoldLosses(run="a", task="t", losses=losses)))
    assert course is not None
    np.testing.assert_allclose(course.chances, 0.5, rtol=1e-6)
    assert size_of(trajectory) == 0


def test_a_ladder_is_scored_alone_and_with_finished_runs() -> None:
    ladder = [_run(name, task) for name in ("a", "aa", "aaa") for task in "tu"]
    for alone in (True, False):
        found = case_entry(ladder, 0.4, alone=alone)
        assert found["n"] == 6
        for name in ("neuneu", "items", "neuneu + items"):
            assert 0.0 < found["forecasters"][name]["mae"]["value"] < 0.5
    few, all_items = count_entry(ladder, 5), count_entry(ladder, 40)
    assert few["related, neuneu + items"] > all_items["related, neuneu + items"]
