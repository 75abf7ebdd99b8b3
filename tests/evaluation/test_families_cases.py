"""The leave-one-family-out study: facts about families, questions, and who answers."""

from pathlib import Path

import numpy as np
import pytest
from families.cases import MAX_TARGETS, ask, sample
from families.data import load_families, with_facts
from families.entrants import NearestRelative, Trained, rules
from family_runs import CASE, family, grown
from forecasts import trajectory

from neuneu.core.errors import UserError
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query


@pytest.mark.parametrize(
    ("suite", "run", "recipe", "schedule", "decay"),
    [
        ("pythia-v0", "pythia-1b", "pile", "cosine", None),
        ("pythia-v1", "pythia-1b-deduped", "pile-deduped", "cosine", None),
        ("olmo-ladder", "1B-5xC", "", "cosine", None),
        ("olmo-ladder-constlr", "1B-10xC", "", "constant", None),
        ("smollm3-ablations", "wsd  WSD, decay 10%", "", "wsd", 1800.0),
        ("smollm3-ablations", "wsd  WSD, decay 20%", "", "wsd", 1600.0),
        ("smollm3-ablations", "nope  NoPE", "", "cosine", None),
        ("elsewhere", "any", "", "", None),
    ],
)
def test_public_facts_fill_in_recipe_schedule_and_decay(
    suite: str, run: str, recipe: str, schedule: str, decay: float | None
) -> None:
    short = trajectory([0.3] * 5, suite=suite, run=run, task="other")
    (found, _) = with_facts([trajectory([0.3] * 20, suite=suite, run=run), short])
    assert (found.recipe, found.schedule, found.planned_tokens) == (recipe, schedule, 2000.0)
    assert found.decay_start == (None if decay is None else pytest.approx(decay))


def test_what_a_table_says_stays() -> None:
    told = trajectory(
        [0.3] * 5, suite="smollm3-ablations", run="wsd  WSD, decay 10%", recipe="mine",
        schedule="constant", planned_tokens=900.0,
    )  # fmt: skip
    (found,) = with_facts([told])
    assert (found.recipe, found.schedule, found.planned_tokens) == ("mine", "constant", 900.0)
    assert found.decay_start is None


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        ("alone", range(1, 22)),
        ("smaller", range(1, 22)),
        ("early", range(1, 7)),
        ("one", [2]),
        ("before", []),
    ],
)
def test_contexts_differ_and_targets_are_those_of_anchored(case: str, steps: list[int]) -> None:
    runs = [grown(1e6, run="small", n=100), grown(4e6, run="large", n=100)]
    asked = ask("f", runs, CASE[case])
    query = asked.queries[-1]
    assert query.context.steps.tolist() == list(steps)
    assert query.context.planned_tokens is None
    whole = Anchored().split(runs[1])
    assert whole is not None
    assert len(query.target_steps) == len(asked.outcomes[-1]) == MAX_TARGETS
    assert set(query.target_steps) <= set(whole[1].steps)
    assert query.target_steps[[0, -3, -2, -1]].tolist() == [22, 98, 99, 100]
    np.testing.assert_array_equal(asked.outcomes[-1], runs[1].values[query.target_steps - 1])


def test_one_late_checkpoint_leaves_only_later_targets() -> None:
    # Checkpoints at 1, 2, 4, ... of 2^19 steps: 2 % of the tokens lie beyond 20 % of checkpoints.
    at = 2 ** np.arange(20)
    late = trajectory(np.linspace(0.2, 0.5, 20), steps=at, tokens=at * 100.0)
    asked = ask("f", [late], CASE["one"])
    assert asked.queries[0].context.steps.tolist() == [2**14]
    assert asked.queries[0].target_steps.tolist() == [2**15, 2**16, 2**17, 2**18, 2**19]


@pytest.mark.parametrize(
    ("case", "target", "references"),
    [
        ("smaller", "a-4e+06", {"a-1e+06", "b-1e+06", "a-2e+06", "b-2e+06"}),
        ("smaller", "a-2e+06", {"a-1e+06", "b-1e+06"}),
        ("equal", "a-2e+06", {"b-2e+06"}),
        ("one-recipe", "b-4e+06", {"b-1e+06", "b-2e+06"}),
        ("before", "b-2e+06", {"a-1e+06", "b-1e+06"}),
    ],
)
def test_references_are_whole_runs_of_the_right_size(
    case: str, target: str, references: set[str]
) -> None:
    asked = ask("f", family("f"), CASE[case])
    places = [i for i, t in enumerate(asked.trajectories) if t.run == target]
    (batch,) = [b for b in asked.batches.values() if places[0] in b.queries]
    assert set(places) <= set(batch.queries)
    assert {t.run for t in batch.references} == references
    assert {len(t) for t in batch.references} == {20}
    assert sorted(i for b in asked.batches.values() for i in b.queries) == list(range(len(asked)))


def test_no_reference_is_of_the_same_run_group_or_missing_on_the_task() -> None:
    runs = [
        grown(2e6, run="large"), grown(2e6, run="large", suite="again"),
        grown(2e6, run="other"), grown(2e6, run="large", task="only here"),
    ]  # fmt: skip
    asked = ask("f", runs, CASE["equal"])
    assert [t.task for t in asked.trajectories] == ["t", "t", "t"]
    of_large = [b for b in asked.batches.values() if 0 in b.queries]
    assert {t.run for b in of_large for t in b.references} == {"other"}


def test_runs_without_smaller_ones_and_short_ones_are_not_asked_about() -> None:
    runs = [*family("f"), grown(8e6, run="short", n=9)]
    assert {t.params for t in ask("f", runs, CASE["smaller"]).trajectories} == {2e6, 4e6}


def test_a_sample_has_the_same_tasks_for_all_runs_of_a_suite() -> None:
    runs = family("f", tasks=10)
    kept = sample(runs, limit=30, seed=0)
    assert len(kept) == 30
    tasks = {run: {t.task for t in kept if t.run == run} for run in {t.run for t in runs}}
    assert len(set(map(frozenset, tasks.values()))) == 1
    assert sample(runs, limit=30, seed=0) == kept
    assert sample(runs, limit=60, seed=0) == runs


def test_nearest_relative_reads_the_same_fraction_of_the_same_recipe() -> None:
    def run(name: str, size: float, recipe: str, level: float, length: int) -> Trajectory:
        values = level + 0.01 * np.arange(length)
        return trajectory(
            values, run=name, params=size, recipe=recipe, planned_tokens=length * 100.0
        )

    near, far = run("near", 2e6, "x", 0.3, 10), run("far", 1e6, "y", 0.5, 10)
    large = run("large", 4e6, "y", 0.0, 20)
    query = Query(
        context=large.slice(0, 0), target_steps=large.steps[9:], target_tokens=large.tokens[9:],
        target_flops=large.flops[9:],
    )  # fmt: skip
    forecaster = NearestRelative()
    forecaster.fit([near, far])
    (answer,) = forecaster.predict([query])
    assert answer[0, 0] == pytest.approx(0.54)
    assert answer[-1, 0] == pytest.approx(0.59)
    forecaster.fit([near])
    assert forecaster.predict([query])[0][-1, 0] == pytest.approx(0.39)
    forecaster.fit([])
    assert np.isnan(forecaster.predict([query])[0]).all()


def test_rules_fit_the_case() -> None:
    names = {e.name for e in rules(references=False, observed=True)}
    assert names == {"persistence", "recent-mean", "power-law"}
    with_references = {e.name for e in rules(references=True, observed=True)}
    assert with_references == names | {
        "nearest-analogue", "ladder-law", "ladder-two-step", "ladder-two-step-offset",
    }  # fmt: skip
    before = {e.name for e in rules(references=True, observed=False)}
    assert before == {"ladder-two-step", "nearest-relative"}


def test_a_folder_without_forecasters_answers_for_no_family(tmp_path: Path) -> None:
    assert Trained.parse(f"ours={tmp_path}").entrants("f", family("f")) == []
    for text in ("ours", f"={tmp_path}", "ours=nowhere"):
        with pytest.raises(UserError, match="NAME=FOLDER"):
            Trained.parse(text)


@pytest.mark.shared
def test_the_shared_families_have_sizes_recipes_and_schedules(shared: Path) -> None:
    names = ("open-sci-ref", "gemstones", "smollm3-ablations")
    found = load_families(shared, names)
    assert {name: len({t.run for t in found[name]}) for name in names} == {
        "open-sci-ref": 33, "gemstones": 16, "smollm3-ablations": 22,
    }  # fmt: skip
    for trajectories in found.values():
        assert all(t.planned_tokens and t.params and t.recipe for t in trajectories)
    schedules = {name: {t.schedule for t in found[name]} for name in names}
    assert schedules["open-sci-ref"] == {"wsd"}
    assert schedules["gemstones"] == {"constant"}
    assert schedules["smollm3-ablations"] == {"cosine", "wsd"}
    decays = {t.run: t.decay_start for t in found["smollm3-ablations"] if t.schedule == "wsd"}
    assert decays == {
        "wsd  WSD, decay 10%": pytest.approx(0.9 * 47185920000),
        "wsd  WSD, decay 20%": pytest.approx(0.8 * 47185920000),
    }
    siblings = ask("open-sci-ref", found["open-sci-ref"], CASE["one-recipe"])
    of_the_largest = [t for t in siblings.trajectories if t.params > 1e9]
    assert len({t.run for t in of_the_largest}) == 13
    for batch in siblings.batches.values():
        assert len({t.recipe for t in batch.references}) == 1
