"""The analysis of a search: what was recorded, in numbers and words."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tuned_search import (
    DEFAULTS,
    DROPOUT,
    EPOCHS,
    LEARNING_RATE,
    TWO_OBJECTIVES,
    Given,
    analysed,
    by_learning_rate,
    falling,
    trial_id,
    write_rerun,
    write_tuning,
)

from neuneu.core.errors import UserError
from neuneu.reports.tuning.analysis import analyse
from neuneu.reports.tuning.phrasing import caveats, findings, verdict
from neuneu.reports.tuning.report import export_best, write_tune_report
from neuneu.training.tuning.experiment import TRIALS, read_experiment


def test_counts_how_each_trial_ended(tmp_path: Path) -> None:
    given = [
        Given(falling(0.1)),
        Given(falling(0.1, 3)),
        Given((), "unfinished"),
        Given(falling(0.1, 2), "unfinished"),
        Given(falling(0.1, 2), "failed", error="E: x"),
    ]
    analysis = analysed(tmp_path, *given, trials=10)
    assert analysis.counts == {
        "finished": 1, "stopped": 1, "unfinished": 2, "failed": 1, "not started": 5,
    }  # fmt: skip
    assert analysis.experiment.trials[4].error == "E: x"


def test_cost_extrapolates_finished_seconds_an_epoch(tmp_path: Path) -> None:
    cost = analysed(
        tmp_path,
        Given(falling(0.1), seconds=10),
        Given(falling(0.1), seconds=20),
        Given(falling(0.2, 2), seconds=100),
        Given((), "not started"),
    ).cost
    assert (cost.seconds, cost.stopped_seconds) == (90 + 180 + 200, 200)
    assert cost.to_the_end == 15 * EPOCHS * 3
    assert not cost.is_rough


def test_cost_counts_epochs_repeated_after_a_restart() -> None:
    trial = Given(falling(0.1), seconds=10).trial(1)
    again = trial.reporting(replace(trial.reports[1], metrics={"validation_pinball": 0.9}), 10)
    assert again.seconds == 10 * (EPOCHS + 1)
    assert [r.epoch for r in again.reports] == list(range(1, EPOCHS + 1))
    assert again.value("validation_pinball", 2) == 0.9


def test_ranks_finished_trials_first_and_names_a_better_stopped_one(
    tmp_path: Path,
) -> None:
    analysis = analysed(
        tmp_path,
        Given(falling(0.2)),
        Given(falling(0.3), parameters=DEFAULTS),
        Given([0.1, 0.05]),
    )
    assert [s.trial.number for s in analysis.ranked["validation_pinball"]] == [1, 2, 3]
    assert analysis.default is not None
    assert analysis.default.trial.number == 2
    text = " ".join(findings(analysis))
    assert "Trial 1 is best: validation pinball 0.2, against 0.3 with the defaults (33.3 %" in text
    assert "Trial 3, stopped early after epoch 2, had a better 0.05 there." in text


def test_says_so_when_none_finished(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Given(falling(0.3, 4)), Given(falling(0.2, 2), "unfinished"))
    assert analysis.cost.is_rough
    assert "No trial finished. The best so far is trial 2, running or interrupted" in (
        " ".join(findings(analysis))
    )


def test_takes_the_epoch_that_training_keeps(tmp_path: Path) -> None:
    curve = [0.5, 0.1, *[0.4] * 7]
    last = analysed(tmp_path / "last", Given(curve), Given(falling(0.3)))
    assert [(s.trial.number, s.epoch) for s in last.finished] == [(2, 9), (1, 9)]
    best = analysed(tmp_path / "best", Given(curve), Given(falling(0.3)), base={"keep": "best"})
    assert [(s.trial.number, s.epoch) for s in best.finished] == [(1, 2), (2, 9)]


def test_leaves_a_diverged_trial_out_and_says_so(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Given([*falling(0.1, 8), float("nan")]), Given(falling(0.2)))
    assert [s.trial.number for s in analysis.finished] == [2]
    assert any(
        "1 trial finished without a finite validation pinball" in c for c in caveats(analysis)
    )


def test_pareto_front_holds_trials_that_none_beats(tmp_path: Path) -> None:
    pairs = [(0.1, 0.9), (0.2, 0.5), (0.3, 0.6), (0.4, 0.1), (0.4, 0.3), (0.2, 0.7)]
    given = [Given([x] * EPOCHS, second=[y] * EPOCHS) for x, y in pairs]
    stopped = Given([0.01], second=[0.01])
    analysis = analysed(tmp_path, *given, stopped, objectives=TWO_OBJECTIVES)
    assert [s.trial.number for s in analysis.front] == [1, 2, 4]
    led = analyse(analysis.experiment.led_by("calibration_error"))
    assert [s.trial.number for s in led.front] == [4, 2, 1]
    assert led.best is not None
    assert led.best.trial.number == 4
    with pytest.raises(UserError, match="expected an objective of the search"):
        analysis.experiment.led_by("validation_mae")


def test_importance_finds_the_parameter_that_matters(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    importance = analysed(tmp_path, *by_learning_rate()).importance
    assert max(importance.shares, key=lambda key: importance.shares[key]) == LEARNING_RATE
    assert importance.shares[LEARNING_RATE] > 0.6
    assert sum(importance.shares.values()) == pytest.approx(1)


def test_importance_compares_at_an_epoch_that_half_reached(tmp_path: Path) -> None:
    few = analysed(tmp_path / "few", *by_learning_rate(stopped=4)).compared
    assert few is not None
    assert (few.epoch, len(few.values)) == (EPOCHS, 8)
    many = analysed(tmp_path / "many", *by_learning_rate(stopped=5)).compared
    assert many is not None
    assert (many.epoch, len(many.values)) == (4, 12)
    assert many.values[trial_id(1)] == pytest.approx(0.1 + 0.01 * 5)


def test_importance_says_why_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    few = analysed(tmp_path / "few", *by_learning_rate()[:7])
    assert few.compared is None
    assert "Too few trials" in few.importance.missing
    alike = analysed(tmp_path / "alike", *[Given(falling(0.1)) for _ in range(8)])
    assert "reached the same value" in alike.importance.missing
    assert alike.importance.constant == (DROPOUT,)
    same = [Given(falling(0.1 * n), parameters=DEFAULTS) for n in range(1, 9)]
    assert "No parameter varied" in analysed(tmp_path / "same", *same).importance.missing


def test_tells_what_was_stopped_and_when(tmp_path: Path) -> None:
    stops = analysed(
        tmp_path, Given(falling(0.1)), Given([0.9]), Given([0.7]), Given([0.5, 0.45, 0.4])
    ).stops
    assert [(s.epoch, s.trials, s.value) for s in stops] == [(1, 2, 0.8), (3, 1, 0.4)]
    assert stops[0].best_kept == pytest.approx(0.18)
    assert stops[1].best_kept == pytest.approx(0.16)


def test_reruns_show_what_stopping_lost(tmp_path: Path) -> None:
    given = [Given(falling(0.2)), Given(falling(0.3)), Given([0.5, 0.4]), Given([0.6])]
    write_tuning(tmp_path, given)
    write_rerun(tmp_path, 3, [0.5, 0.4, *[0.25] * 7])
    write_rerun(tmp_path, 4, [0.6, 0.5])
    analysis = analyse(read_experiment(str(tmp_path)))
    second, first = analysis.reruns
    assert (first.trial.number, first.epoch, first.value) == (4, 1, 0.6)
    assert (first.rank, first.of, first.final, first.final_rank) == (4, 4, None, None)
    assert (second.trial.number, second.rank, second.of) == (3, 3, 3)
    assert (second.final, second.final_rank) == (0.25, 2)
    assert "lost nothing: of 1 stopped trial trained to the end" in verdict(analysis)
    (tmp_path / "reruns" / trial_id(4) / "history.csv").write_text(
        "epoch,step,validation_pinball\n" + "".join(f"{e},{e},0.15\n" for e in range(1, 10))
    )
    text = verdict(analyse(read_experiment(str(tmp_path))))
    assert "of 2 stopped trials trained to the end, 1 would have been best" in text
    assert "Trial 4, stopped after epoch 1, reached 0.15 instead of 0.2" in text


def test_warns_of_a_gain_within_the_spread_and_of_the_edge(tmp_path: Path) -> None:
    def at(value: float, rate: float, **more: Any) -> Given:
        return Given(falling(value), parameters=DEFAULTS | {LEARNING_RATE: rate} | more)

    near = [at(0.11, 0.09), at(0.2, 0.08), at(0.13, 0.07), at(0.13, 1.1e-4)]
    luck = analysed(tmp_path / "luck", at(0.1, 0.0999), at(0.12, 2e-3), *near)
    notes = " ".join(caveats(luck))
    assert "The best leads the defaults by 0.02, less than the 0.09" in notes
    assert "optim.learning_rate at the upper end of its range" in notes
    assert "Only 6 trials finished" in notes
    clear = analysed(tmp_path / "clear", at(0.1, 0.01), at(0.4, 2e-3), *near)
    assert not re.search("luck|end of its range", " ".join(caveats(clear)))


def test_trials_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    write_tuning(tmp_path, [Given(falling(0.1)), Given(falling(0.2, 3))])
    content = (tmp_path / TRIALS).read_text()
    for damaged in (content[:-40], content + "[]\n", content.replace("stopped", "halted")):
        (tmp_path / TRIALS).write_text(damaged)
        with pytest.raises(
            UserError, match=f"{TRIALS}: expected a trial on each line, found"
        ) as error:
            read_experiment(str(tmp_path))
        assert "\n" not in str(error.value)
    (tmp_path / TRIALS).unlink()
    with pytest.raises(UserError, match="an older neuneu made this search"):
        read_experiment(str(tmp_path))


@pytest.mark.parametrize("trials", [[], [Given((), "not started")], [Given((), "unfinished")]])
def test_of_an_experiment_without_a_report(tmp_path: Path, trials: list[Given]) -> None:
    written = write_tune_report(str(write_tuning(tmp_path, trials)))
    assert "<main>" in Path(written.report).read_text()
    assert pq.read_table(written.trials).num_rows == len(trials)
    assert written.analysis.best is None
    with pytest.raises(UserError, match="nothing to export yet"):
        export_best(written.analysis, tmp_path / "best.yaml")
