"""The leave-one-family-out study: errors, intervals and rankings from answers."""

from dataclasses import replace

import numpy as np
import pytest
from families.answers import Answers, answer
from families.cases import ask
from families.entrants import FinishedRuns, Peers
from families.goals import LARGE, large_entry
from families.ranking import pairs_of, rank, ranking_entry
from families.scores import estimate, family_entry, finished_entry, pooled_entry, score
from family_runs import CASE, answers_of, family, grown, point_answers
from relatives import Relatives

from neuneu.data.trajectories import Trajectory


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
