"""Splits by run: what is forecast is never learnt from, and names follow the data they are for."""

from dataclasses import replace

import pytest
from forecasts import trajectory
from run_splits import SPLITS, RunSplit

from neuneu.core.errors import UserError
from neuneu.data.trajectories import Trajectory

RUNS = (
    ("pythia", "pythia-v0", "pythia-70m"),
    ("pythia", "pythia-v0", "pythia-2.8b"),
    ("pythia", "pythia-v1", "pythia-2.8b-deduped"),
    ("pythia", "pythia-v1", "pythia-12b"),
    ("pythia", "pythia-v0", "pythia-12b"),
    ("olmo", "olmo-ladder", "190M-1xC"),
    ("olmo", "olmo-ladder", "1B-5xC"),
    ("olmo", "olmo-ladder", "3B-2xC"),
)


def public() -> list[Trajectory]:
    return [
        replace(
            trajectory([0.1] * 12), family=family, suite=suite, run=run, task=task, base_task=task
        )
        for family, suite, run in RUNS
        for task in ("piqa", "boolq")
    ]


def names(trajectories: list[Trajectory]) -> set[str]:
    return {t.run for t in trajectories}


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_no_run_is_on_both_sides(name: str) -> None:
    parts = SPLITS[name].apply(public())
    tested = {t.run_group for t in parts.test}
    assert not tested & {t.run_group for t in parts.learn + parts.references}
    assert {id(t) for t in parts.learn} <= {id(t) for t in parts.references}


def test_dev_leaves_the_standard_runs_out() -> None:
    parts = SPLITS["dev"].apply(public())
    assert names(parts.test) == {"pythia-2.8b", "pythia-2.8b-deduped", "1B-5xC"}
    assert names(parts.learn) == {"pythia-70m", "190M-1xC"}
    standard = SPLITS["standard"].apply(public())
    assert names(standard.test) == {"pythia-12b", "3B-2xC"}
    assert names(parts.test) <= names(standard.learn)


def test_unseen_tasks_are_compared_with_but_not_learnt_from() -> None:
    parts = SPLITS["unseen-tasks"].apply(public())
    assert {t.base_task for t in parts.test} == {"piqa"}
    assert {t.base_task for t in parts.learn} == {"boolq"}
    assert {t.base_task for t in parts.references} == {"boolq", "piqa"}


def test_smaller_runs_of_an_unseen_family_are_compared_with_but_not_learnt_from() -> None:
    parts = SPLITS["olmo-to-pythia-12b"].apply(public())
    assert names(parts.test) == {"pythia-12b"}
    assert {t.family for t in parts.learn} == {"olmo"}
    assert {"pythia-70m", "pythia-2.8b"} < names(parts.references)


def test_same_name_is_another_training() -> None:
    parts = SPLITS["same-name"].apply(public())
    assert "pythia-12b" in names(parts.references)
    assert "pythia-12b@pythia-v1" in names(parts.test)


def test_split_of_another_table_is_refused() -> None:
    with pytest.raises(UserError, match="0 to forecast"):
        RunSplit(name="none", test="llama").apply(public())
