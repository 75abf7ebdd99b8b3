"""The leave-one-family-out study: facts, cases, scores, rankings, and the whole on two families."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import run as study
from families.answers import Answers, answer
from families.cases import CASES, MAX_TARGETS, Asked, ask, sample
from families.data import load_families, with_facts
from families.entrants import Entrant, FinishedRuns, NearestRelative, Peers, Trained, rules
from families.figure import draw
from families.goals import LARGE, goals, large_entry
from families.ranking import pairs_of, rank, ranking_entry
from families.run import Benchmark
from families.scores import estimate, family_entry, finished_entry, pooled_entry, score
from forecasts import Shifted, trajectory
from page import page_of
from relatives import Relatives

from neuneu.core.errors import UserError
from neuneu.data.quantiles import FORECAST_LEVELS
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.forecasters.protocol import Query

CASE = {case.name: case for case in CASES}


def grown(size: float, *, run: str, top: float = 0.6, n: int = 20, **changes: object) -> Trajectory:
    """Return a run that approaches `top`, wavering by half a point."""
    steps = np.arange(1, n + 1)
    values = top - 0.3 * steps**-0.5 + 0.005 * np.where(steps > n - 3, 0.0, np.sin(steps))
    return trajectory(values, run=run, params=size, **changes)


def family(name: str, *, tasks: int = 2) -> list[Trajectory]:
    """Return six runs of three sizes, two of each; the larger the better, `b` before `a`."""
    return [
        grown(
            size, run=f"{mix}-{size:g}", family=name, suite=name, task=f"t{task}", recipe=mix,
            top=0.5 + 0.05 * np.log10(size) - 0.02 * task + 0.03 * (mix == "b"),
        )
        for size in (1e6, 2e6, 4e6)
        for mix in "ab"
        for task in range(tasks)
    ]  # fmt: skip


def answers_of(asked: Asked, shift: float) -> Answers:
    """Return outcomes plus `shift`, with intervals of 0.1 on both sides."""
    median = asked.y + shift
    return Answers(
        quantiles=np.stack([median - 0.1, median, median + 0.1], axis=1), levels=(0.1, 0.5, 0.9)
    )


def point_answers(asked: Asked, shift: float) -> Answers:
    return Answers(quantiles=(asked.y + shift)[:, None], levels=(0.5,))


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


def test_ratios_are_to_the_best_rule_that_answered_everything() -> None:
    asked = ask("f", family("f"), CASE["alone"])
    partly = point_answers(asked, 0.001)
    partly.quantiles[: asked.counts[0]] = np.nan
    scored = score(
        asked,
        {
            "ours": answers_of(asked, 0.01), "persistence": point_answers(asked, 0.04),
            "power-law": point_answers(asked, 0.02), "partly": partly,
            "silent": point_answers(asked, np.nan),
        },
        ["ours"],
    )  # fmt: skip
    entry = family_entry(scored)
    assert entry["rule"] == "power-law"
    assert "silent" not in entry["forecasters"]
    ours = entry["forecasters"]["ours"]
    assert ours["ratio"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert ours["mae"]["value"] == pytest.approx(0.01)
    assert ours["coverage_80"]["value"] == 1.0
    assert ours["width_80"]["value"] == pytest.approx(0.2)
    # (0.5 |y - m| + alpha / 2 x width) / 1.5 with alpha = 0.2
    assert ours["wis"]["value"] == pytest.approx((0.005 + 0.02) / 1.5, abs=1e-5)
    assert "width_80" not in entry["forecasters"]["power-law"]
    assert entry["forecasters"]["power-law"]["wis"]["value"] == pytest.approx(0.02)
    assert entry["forecasters"]["partly"]["n"] == 11
    assert entry["suites"]["f"] == {
        "runs": 6,
        "rule": "power-law",
        "ratio": {"ours": ours["ratio"]},
    }


def test_pooled_numbers_are_means_of_families_and_over_all_trajectories() -> None:
    scored = []
    for name, tasks, shift in (("f", 1, 0.01), ("g", 3, 0.02)):
        asked = ask(name, family(name, tasks=tasks), CASE["alone"])
        rule = point_answers(asked, 0.04)
        scored.append(score(asked, {"ours": answers_of(asked, shift), "rule": rule}, ["ours"]))
    pooled = pooled_entry(scored)["ours"]
    assert pooled["families"] == ["f", "g"]
    assert pooled["mae"]["mean"]["value"] == pytest.approx(0.015)
    assert pooled["mae"]["all"]["value"] == pytest.approx(0.0175)
    assert pooled["ratio"]["mean"]["value"] == pytest.approx((0.25 + 0.5) / 2)
    assert pooled["ratio"]["all"]["value"] == pytest.approx((0.25 + 3 * 0.5) / 4)


def test_coverage_beside_eight_finished_runs_leaves_runs_with_fewer_out() -> None:
    runs = [t for n in range(4) for t in family("f", tasks=1) if (n == 0 or t.params < 4e6)]
    runs = [replace(t, run=f"{t.run}-{n}") for n, t in enumerate(runs)]  # 2 of 4e6, 16 smaller
    asked = ask("f", runs, CASE["smaller"])
    assert sorted(set(asked.finished.tolist())) == [8, 16]
    few = asked.finished < 9
    covered = answers_of(asked, 0.0)
    covered.quantiles[np.repeat(few, asked.counts)] += 1.0
    for least, coverage in ((8, 0.2), (9, 1.0)):
        assert sum(asked.finished >= least) == {8: 10, 9: 2}[least]
        found = score(asked, {"ours": covered}, ["ours"])
        inside = found.mean("ours", "coverage_80", asked.finished >= least)
        assert estimate(inside)["value"] == pytest.approx(coverage)
    entry = finished_entry([found])["ours"]
    assert entry["coverage_80"]["value"] == pytest.approx(0.2)
    assert entry["families"]["f"]["width_80"]["value"] == pytest.approx(0.2)


def test_variants_answer_as_the_questions_do() -> None:
    runs = family("f")
    for case, variant in (("smaller", FinishedRuns(Relatives())), ("alone", Peers(Relatives()))):
        asked = ask("f", runs, CASE[case])
        (own,) = answer(Relatives(), [asked])
        (other,) = answer(variant, [asked])
        width = [a.quantiles[:, -1] - a.quantiles[:, 0] for a in (own, other)]
        if case == "smaller":  # two finished runs at most: medians stay, widths move a little
            np.testing.assert_allclose(other.median, own.median)
            assert (width[0] != width[1]).any()
        else:  # present levels of the two mixes of a size, which are the forecasts already
            np.testing.assert_allclose(width[0], width[1])
            assert (other.median != own.median).any()


def test_intervals_resample_runs() -> None:
    asked = ask("f", family("f"), CASE["alone"])
    worse = asked.groups[np.repeat(np.arange(len(asked)), asked.counts)] == 0
    scored = score(asked, {"ours": answers_of(asked, 0.01 + 0.06 * worse)}, ["ours"])
    found = estimate(scored.mean("ours", "mae"))
    assert found["value"] == pytest.approx(0.02)
    # One of six runs errs by 0.07: it is drawn 0 to 3 times in almost all resamples.
    assert (found["low"], found["high"]) == (pytest.approx(0.01), pytest.approx(0.04))


def test_pairs_are_of_equal_size_and_length_and_a_suite_or_another_schedule() -> None:
    def pairs(*runs: Trajectory) -> int:
        return len(pairs_of(ask("f", runs, CASE["alone"]))[0])

    first = grown(1e6, run="a", schedule="cosine")
    assert pairs(first, grown(1.04e6, run="b")) == 1
    assert pairs(first, grown(1.06e6, run="b")) == 0
    assert pairs(first, grown(1e6, run="b", planned_tokens=1900.0)) == 1
    assert pairs(first, grown(1e6, run="b", n=30)) == 0
    assert pairs(first, grown(1e6, run="b", suite="s2")) == 0
    assert pairs(first, grown(1e6, run="b", task="t2")) == 0
    assert pairs(first, grown(1e6, run="a", suite="s2", schedule="constant")) == 1
    assert pairs(first, grown(1e6, run="a", suite="s2", schedule="cosine")) == 0


def test_ranking_counts_pairs_a_point_apart_and_means_over_tasks() -> None:
    tops = {"a": (0.50, 0.60), "b": (0.52, 0.605), "c": (0.47, 0.63)}
    runs = [
        grown(1e6, run=run, task=f"t{task}", top=top)
        for run, by_task in tops.items()
        for task, top in enumerate(by_task)
    ]
    asked = ask("f", runs, CASE["alone"])
    right, wrong = point_answers(asked, 0.0), Answers(quantiles=-asked.y[:, None], levels=(0.5,))
    scored = score(asked, {"persistence": wrong, "ours": right}, ["ours"])
    found = rank(scored)
    # t0: a < b, c < a, c < b; t1: a and b are half a point apart. Means: .55, .5625, .55.
    assert found["tasks"]["ours"].bottom == 5
    assert found["means"]["ours"].bottom == 2
    assert found["tasks"]["ours"].value == found["means"]["ours"].value == 1.0
    assert found["tasks"]["persistence"].value == 0.0
    entry = ranking_entry([scored])["tasks"]
    assert entry["families"]["f"]["best"] == "persistence"
    assert entry["families"]["f"]["forecasters"]["ours"]["minus"]["value"] == 1.0
    assert entry["pooled"]["ours"]["minus"] == {"mean": 1.0, "all": 1.0}


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


class Counted(Shifted):
    """Persistence with intervals, or a constant without a context; counts its calls."""

    calls = 0

    def predict(self, queries: list[Query]) -> list[np.ndarray]:
        Counted.calls += 1
        known = [
            q if len(q.context) else replace(q, context=trajectory([0.6], task="t0"))
            for q in queries
        ]
        return super().predict(known)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    work = tmp_path_factory.mktemp("work")
    made = Benchmark({"f": family("f"), "g": family("g", tasks=3)}, [], work)
    ours = Entrant(
        name="ours", make=lambda: Counted("ours", levels=FORECAST_LEVELS), mark="1", trained=True
    )
    variant = replace(
        ours, name="ours + finished runs", enters=lambda case: case.references is not None
    )
    made.entrants = {"f": [ours, variant], "g": [ours, variant]}
    return made


@pytest.fixture(scope="module")
def record(benchmark: Benchmark) -> dict[str, Any]:
    return benchmark.record()


def test_the_whole_study_makes_a_page_and_resumes(
    benchmark: Benchmark, record: dict[str, Any], tmp_path: Path
) -> None:
    calls = Counted.calls
    assert calls > 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record["cases"]) == [c.name for c in CASES]
    assert record["trained"] == ["ours", "ours + finished runs"]
    assert list(record["goals"]) == ["ours"]
    entered = {n for n, case in record["cases"].items() if "ours + finished runs" in case["pooled"]}
    assert entered == {c.name for c in CASES if c.references is not None} - {"one-recipe"}
    assert record["finished"] == {}  # four references at most
    alone = record["cases"]["alone"]["families"]
    assert {f: entry["trajectories"] for f, entry in alone.items()} == {"f": 12, "g": 18}
    assert record["cases"]["one-recipe"]["families"] == {}
    assert record["ranking"]["alone"]["tasks"]["families"]["f"]["pairs"] == 6
    assert record["goals"]["ours"]
    again = benchmark.record()
    assert again == record
    assert Counted.calls == calls
    study.show(record)
    whole = record | {"seconds": 1, "cpus": 1, "python": "3", "torch": "2"}
    draw(whole, tmp_path / "families")
    assert (tmp_path / "families" / "ratio.png").stat().st_size > 1000
    page = page_of("families", whole, tmp_path / "families.md")
    assert "![MAE relative" in page
    persistence = alone["f"]["forecasters"]["persistence"]["mae"]["value"]
    assert f"{100 * persistence:.2f}" in page
    assert "\n\n\n" not in page


def test_goals_compare_with_the_limits_of_the_issue(record: dict[str, Any]) -> None:
    record = deepcopy(record)
    for entry in record["cases"]["alone"]["families"].values():
        entry["forecasters"]["ours"]["ratio"]["value"] = 0.9
    record["cases"]["alone"]["families"]["g"]["forecasters"]["ours"]["ratio"]["value"] = 0.91
    record["cases"]["alone"]["pooled"]["ours"]["ratio"]["mean"]["value"] = 0.8
    rows = {row["what"]: row for row in goals(record, "ours")}
    worst = rows["MAE / best simple rule, alone, worst family: g"]
    assert (worst["value"], worst["met"], worst["limit"]) == (0.91, False, "<= 0.90")
    assert rows["MAE / best simple rule, alone, mean of families"]["met"] is True


def test_large_runs_are_compared_with_the_ladder_law() -> None:
    asked = ask("f", family("f"), CASE["before"])
    law = point_answers(asked, 0.04)
    scored = score(asked, {"ours": answers_of(asked, -0.02), "ladder-two-step": law}, ["ours"])
    entry = large_entry(scored, replace(LARGE[0], family="f", params=4e6))
    assert entry is not None
    assert (entry["runs"], entry["trajectories"], entry["law"]) == (2, 4, "ladder-two-step")
    assert entry["forecasters"]["ours"]["ratio"]["value"] == pytest.approx(0.5)
    assert entry["forecasters"]["ours"]["final"]["value"] == pytest.approx(0.02)
    assert large_entry(scored, replace(LARGE[0], params=1e7)) is None


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
