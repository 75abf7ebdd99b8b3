"""What an answer rests on, in words: hand-made rows, and warnings as they are really raised."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from curves import ladder

from neuneu.decisions.answers import Answer, row_warnings
from neuneu.decisions.explanation import FEW_POINTS, calibration_fields, take_off_warning
from neuneu.forecasters.calibration import Calibration, GroupAdjustment
from neuneu.forecasters.cross_run.groups import group_names
from neuneu.forecasters.protocol import JointForecaster, Query, ReferenceRuns
from neuneu.forecasters.queries import query_at
from neuneu.forecasters.warnings import WarningCode
from neuneu.reports.answers.phrasing import (
    describe_group,
    explanation,
    findings,
    headline,
    rank_sentence,
    stop_sentence,
    warning_sentence,
    when_sentence,
)
from neuneu.reports.answers.runs import labels, run_sections, task_labels
from neuneu.reports.answers.tables import WARNING_LABELS, labels_of_warnings
from neuneu.reports.folder import read_folder

NO_REFERENCES = ReferenceRuns(used=[], left_out=[])


def forecast_row(**changes: Any) -> dict[str, Any]:
    return {
        "family": "f", "suite": "s", "run": "a", "num_fewshot": 0, "task": "t", "metric": "acc",
        "checkpoints": 12, "present": 0.5, "seen_tokens": 60e9, "tokens": 300e9,
        "q0.1": 0.58, "q0.5": 0.6, "q0.9": 0.63, "calibration_group": "compared, several, middle",
        "calibrated_on": 46, "warnings": [],
    } | changes  # fmt: skip


def warned(*texts: str) -> list[dict[str, str]]:
    return [{"code": "near-chance", "text": text} for text in texts]


def decision_row(**changes: Any) -> dict[str, Any]:
    return {
        "run": "a", "task": "mean of 7 tasks", "present": 0.5, "seen_tokens": 6e10, "tokens": 3e11,
        "finished": False, "q0.1": 0.58, "q0.5": 0.6, "q0.9": 0.63, "warnings": [],
        "calibration_group": "alone, several, near", "calibrated_on": 20,
    } | changes  # fmt: skip


def test_words_say_what_was_seen_and_how_much_is_ahead() -> None:
    (sentence,) = findings({"forecast": [forecast_row()]})
    assert sentence == (
        "It was evaluated on t at 12 checkpoints up to 60B tokens and is forecast to 300B, with "
        "80 % of its training still ahead."
    )
    two = [forecast_row(), forecast_row(task="u", checkpoints=1)]
    assert findings({"forecast": two})[0].startswith(
        "It was evaluated on 2 tasks and metrics at 1 to 12 checkpoints up to 60B tokens"
    )
    assert "at 1 checkpoint up to" in findings({"forecast": [forecast_row(checkpoints=1)]})[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "It has reference runs; forecast with --explain to list them."),
        (
            {"calibration_group": "alone, several, far"},
            "It has no reference runs: its forecast rests on its own past.",
        ),
        (
            {"calibration_group": None, "calibrated_on": None},
            "Its reference runs were not recorded.",
        ),
        (
            {"compared_with": ["f/b", "f/c"], "n_compared_with": 2},
            "Its reference runs are f/b and f/c.",
        ),
        (
            {"compared_with": ["f/b", "f/c", "f/d", "f/e", "f/g"], "n_compared_with": 11},
            "It has 11 reference runs, mainly f/b, f/c and f/d.",
        ),
        (
            {"compared_with": [], "n_compared_with": 0},
            "It has no reference runs: its forecast rests on its own past.",
        ),
    ],
)
def test_words_name_the_runs_compared_with(changes: dict[str, Any], sentence: str) -> None:
    assert explanation([forecast_row(**changes)])[0] == sentence


def test_words_name_the_runs_that_were_left_out() -> None:
    few = forecast_row(left_out=["f/b", "f/c"], n_left_out=2)
    assert explanation([few])[1] == "Left out, since they end before it does: f/b and f/c."
    many = forecast_row(left_out=["f/b", "f/c", "f/d", "f/e", "f/g"], n_left_out=9)
    assert explanation([many, few])[1] == (
        "Left out, since they end before it does: 9 runs, among them f/b, f/c and f/d."
    )
    none = forecast_row(left_out=[], n_left_out=0)
    assert "Left out" not in " ".join(explanation([none]) + explanation([forecast_row()]))


def test_words_say_on_which_tasks_nothing_was_there_to_compare_with() -> None:
    rows = [
        forecast_row(compared_with=["f/b"], n_compared_with=1),
        forecast_row(compared_with=[], n_compared_with=0),
    ]
    assert explanation(rows)[0] == "Its reference runs are f/b; none on 1 of 2 tasks."


def test_words_put_simple_rules_beside_with_the_digits_of_the_band() -> None:
    rules = {"persistence": 0.5, "nearest-analogue": None, "power-law": 0.5518}
    sentence = explanation([forecast_row(baselines=rules)])[1]
    assert sentence == (
        "It is forecast to end at 60.0 %; baselines say persistence 50.0 and power-law 55.2."
    )
    wide = [forecast_row(baselines=rules, **{"q0.9": 0.75})] * 2
    assert explanation(wide)[1] == (
        "It is forecast to end at 60 %, averaged over its 2 trajectories; baselines say "
        "persistence 50 and power-law 55."
    )


def test_words_say_what_the_bands_are_calibrated_on() -> None:
    sentences = explanation([forecast_row()])
    assert sentences[1] == (
        "Its intervals are calibrated on 46 held-out runs in the same situation (with reference "
        "runs, 3 checkpoints or more, 2.7 to 12 times the tokens of the context), where 8 of 10 "
        "outcomes fell inside the 80 % interval."
    )
    assert sentences[2] == "No warnings apply."
    several = [forecast_row(), forecast_row(calibration_group="all", calibrated_on=30)]
    assert "on at least 30 held-out runs" in explanation(several)[1]
    assert "and 1 other group)" in explanation(several)[1]
    without = forecast_row(calibrated_on=None, calibration_group=None, warnings=warned("x"))
    assert len(explanation([without])) == 1
    assert explanation([decision_row(finished=True)]) == [
        "It has reached its end; its score there is final."
    ]


def test_distrust_counts_the_curves_that_a_warning_is_about() -> None:
    rows = [forecast_row(warnings=warned("far")), forecast_row(warnings=warned("far", "near"))]
    assert warning_sentence({"forecast": rows, "rank": [decision_row(warnings=warned("odd"))]}) == (
        "Intervals may be off: far; near (1 of 2 trajectories); odd."
    )
    assert warning_sentence({"forecast": [forecast_row()]}) == ""
    assert "No warnings" not in " ".join(explanation(rows))


def test_decisions_in_words() -> None:
    ranked = {"rank": 2, "best": 0.31, "regret": 0.0123, "beats": {"b": 0.4, "c": 0.9}}
    assert rank_sentence(decision_row(**ranked)) == (
        "On the mean of 7 tasks it is expected to end at 60.0 % (58.0 to 63.0) and ranks 2 of 3: "
        "it is best with probability 31 %, and choosing it is expected to cost 1.2 points."
    )
    done = decision_row(**ranked, finished=True, task="t")
    assert rank_sentence(done).startswith("It ended at 60.0 % on t and ranks 2 of 3")
    stopped = {"success": 0.004, "advice": "stop", "gain": 0.1, "gain_low": 0.02,
               "gain_high": 0.19, "remaining_tokens": 2.4e11}  # fmt: skip
    assert stop_sentence(decision_row(**stopped, goal=0.7)) == (
        "The advice is to stop: it reaches 70 % on the mean of 7 tasks with probability <1 %, and "
        "the remaining 240B tokens add +10 points (+2 to +19)."
    )
    assert "it ends as the best run on" in stop_sentence(decision_row(**stopped, goal="best"))
    assert "it beats b on" in stop_sentence(decision_row(**stopped, goal="b"))
    early = stop_sentence(decision_row(**stopped | {"advice": "cannot tell"}, goal=0.7))
    assert early.startswith(
        "It is too early to tell, since it is near chance and may take off. As things stand, it "
        "reaches 70 % on the mean of 7 tasks with probability <1 %, and the remaining"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reached": 5e10}, "It reached 65 % on t at 50B tokens."),
        ({"finished": True, "never": 1.0}, "It ended without reaching 65 % on t."),
        (
            {"never": 0.62, "t0.1": 1e11},
            "It will probably end without reaching 65 % on t (probability 62 %).",
        ),
        (
            {"never": 0.2, "t0.5": 1.234e11},
            "It reaches 65 % on t by 120B tokens with probability 50 %; with 20 % it ends without "
            "reaching it.",
        ),
        (
            {"never": 0.02, "t0.5": 1.2e11, "t0.9": 2e11},
            "It reaches 65 % on t by 120B tokens with probability 50 %, by 200B with 90 %; with "
            "2 % it ends without reaching it.",
        ),
    ],
)
def test_when_in_words(changes: dict[str, Any], sentence: str) -> None:
    times = {"score": 0.65, "reached": None, "never": 0.0, "t0.1": None, "t0.5": None, "t0.9": None}
    assert when_sentence(decision_row(task="t", **(times | changes))) == sentence


def test_headlines() -> None:
    def told(question: str, *rows: dict[str, Any]) -> str:
        return headline(Answer(question=question, rows=list(rows)))

    assert told("forecast", forecast_row()) == (
        "1 run (t), observed up to 60B tokens, forecast to 300B."
    )
    ranked = [
        decision_row(run=run, rank=place, best=best)
        for place, (run, best) in enumerate([("a", 0.3), ("b", 0.2), ("c", 0.5)], start=1)
    ]
    assert told("rank", *ranked) == (
        "Choose a: it is expected to score highest on the mean of 7 tasks and is best with "
        "probability 30 %; c is best with 50 %."
    )
    go, halt = decision_row(advice="go on"), [decision_row(run=r, advice="stop") for r in "bcdefg"]
    assert told("stop", go) == "Stop no run: each may still reach its goal on the mean of 7 tasks."
    assert told("stop", go, *halt) == ("Stop 6 of 7 unfinished runs: b, c, d and 3 more.")
    assert told("stop", *halt).startswith("Stop every run")
    early = decision_row(run="h", advice="cannot tell")
    assert told("stop", go, early) == (
        "Stop no run yet on the mean of 7 tasks: near chance, it is too early to tell for h."
    )
    assert told("stop", go, early, *halt).endswith(
        "b, c, d and 3 more; near chance, it is too early to tell for h."
    )
    times = {"score": 0.65, "reached": None, "t0.5": None}
    late, soon = {**times, "t0.5": 2e11}, {**times, "t0.5": 1e11}
    assert told("when", decision_row(**times)) == "No run is likely to reach 65 % by its end."
    assert told("when", *(decision_row(run=r, **t) for r, t in (("a", late), ("b", soon)))) == (
        "b reaches 65 % by 100B tokens with probability 50 %; 1 more run by the end."
    )
    assert told("when", decision_row(**{**times, "reached": 1e9}), decision_row(**times)) == (
        "1 of 2 runs already reached 65 %."
    )
    first = {"run": "a", "task": "t", "step": 143000}
    assert told("next-eval", first) == (
        "Evaluate a on t at step 143,000 next: it is the most informative for its cost."
    )


class Known:
    """What `calibration_fields` asks of a forecaster: one group of few runs, or no calibration."""

    def __init__(self, calibration: Calibration | None) -> None:
        self.calibration = calibration

    def calibration_groups(self, queries: list[Query]) -> list[list[str]] | None:
        return None if self.calibration is None else [["all"] for _ in queries]


def test_every_warning_that_is_really_raised_has_its_label() -> None:
    near = replace(ladder(1)[0].slice(0, FEW_POINTS - 1), chance=0.25)
    near = replace(near, values=np.full(len(near), 0.25), family="new", params=1e12)
    query = query_at(near, np.array([2e4]))
    few = GroupAdjustment(shifts=(0.0,), reached=(True,), n_runs=3)
    known = Calibration(levels=(0.5,), groups={"all": few}, families=("f",), largest_params=1e9)
    rows = [calibration_fields(Known(of), [query]) for of in (known, None)]
    alone = cast(JointForecaster, SimpleNamespace(reference_runs=lambda queries: [NO_REFERENCES]))
    take_off = take_off_warning(alone, [query])
    assert take_off is not None
    rows.append({"warnings": [asdict(take_off)]})
    warnings = row_warnings(*rows)
    assert (
        {warning.code for warning in warnings} == set(WARNING_LABELS) == set(get_args(WarningCode))
    )
    assert set(labels_of_warnings(*rows)) == set(WARNING_LABELS.values())


def test_every_group_that_is_really_used_is_said_in_words() -> None:
    query = query_at(ladder(1)[0].slice(0, 8), np.array([9e3, 4e4, 4e5]))
    short = replace(query, context=query.context.slice(6, 8))
    names = [
        name
        for seen in (True, False)
        for names in group_names([query, short], [seen, seen])
        for name in names
    ]
    assert len(set(names)) == 12
    words = [describe_group(name) for name in names]
    assert len(set(words)) == 12
    assert all(
        part in " ".join(words)
        for part in ("3 checkpoints or more", "fewer than 3", "without reference runs")
    )
    assert not any({"several", "few", "far", "middle"} & set(w.split(", ")) for w in words)
    assert describe_group("all") == "all"


def test_runs_of_one_name_are_told_apart_and_tasks_of_several_metrics(answered: Path) -> None:
    rows = [forecast_row(), forecast_row(suite="z"), forecast_row(run="b", metric="acc_norm")]
    assert labels("forecast", rows) == ["s/a", "z/a", "b"]
    assert task_labels(rows) == ["t (acc)", "t (acc)", "t (acc_norm)"]
    assert task_labels([forecast_row(), forecast_row(num_fewshot=5)]) == [
        "t (0-shot)",
        "t (5-shot)",
    ]
    pages = run_sections(read_folder(answered).answers)
    ranked = json.loads((answered / "rank.json").read_text())["rows"]
    assert [page.label for page in pages] == [row["run"] for row in ranked]
    unfinished = [page for page in pages if "forecast" in page.rows]
    assert len(unfinished) == 3
    assert all(len(page.findings) == 4 for page in unfinished)
    assert all(not page.warning for page in pages if page not in unfinished)
