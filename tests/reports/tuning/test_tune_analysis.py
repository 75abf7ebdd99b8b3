"""The analysis of a tuning: what Ray left is read as it is, and said in numbers and words."""

import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tuned_search import (
    BLOCKS,
    DEFAULTS,
    DROPOUT,
    EPOCHS,
    LEARNING_RATE,
    TWO_OBJECTIVES,
    Given,
    analysed,
    by_learning_rate,
    falling,
    trial_folder,
    trial_id,
    write_rerun,
    write_tuning,
)

from neuneu.core.errors import UserError
from neuneu.reports.tuning.analysis import analyse
from neuneu.reports.tuning.export import export_best
from neuneu.reports.tuning.report import render, write_tune_report
from neuneu.reports.tuning.results import read_results
from neuneu.reports.tuning.words import caveats, findings, verdict
from neuneu.training.tuning.trial_files import last_error


def test_counts_how_each_trial_ended(tmp_path: Path) -> None:
    analysis = analysed(
        tmp_path,
        Given(falling(0.1)),
        Given(falling(0.1, 3)),
        Given(falling(0.1, 4), "RUNNING"),
        Given(falling(0.1, 2), "PAUSED"),
        Given(falling(0.1, 2), "ERROR", error="ValueError: too fast\nsecond line"),
        Given((), "PENDING", files=False),
        Given(falling(0.1, 5), ended_itself=True),
        Given(falling(0.1), "RUNNING", done=True),
        trials=10,
    )
    assert analysis.counts == {
        "finished": 3, "stopped": 1, "unfinished": 2, "failed": 1, "not started": 3,
    }  # fmt: skip
    assert [t.status for t in analysis.results.trials] == [
        "finished", "stopped", "unfinished", "unfinished", "failed", "not started", "finished",
        "finished",
    ]  # fmt: skip
    assert analysis.results.trials[4].error == "ValueError: too fast"
    assert analysis.results.trials[5].parameters[BLOCKS] == 3


def test_cost_extrapolates_finished_seconds_an_epoch(tmp_path: Path) -> None:
    cost = analysed(
        tmp_path,
        Given(falling(0.1), seconds=10),
        Given(falling(0.1), seconds=20),
        Given(falling(0.2, 2), seconds=100),
        Given((), "PENDING"),
    ).cost
    assert (cost.seconds, cost.stopped_seconds) == (90 + 180 + 200, 200)
    assert cost.to_the_end == 15 * EPOCHS * 3
    assert not cost.is_rough


def test_cost_counts_epochs_repeated_after_a_restart(tmp_path: Path) -> None:
    write_tuning(tmp_path, [Given(falling(0.1), seconds=10)])
    path = tmp_path / "experiment" / trial_folder(1) / "result.json"
    lines = path.read_text().splitlines(keepends=True)
    stale = lines[1].replace(f"{falling(0.1)[1]}", "0.9")
    assert stale != lines[1]
    path.write_text("".join([lines[0], stale, *lines]))
    trial = read_results(str(tmp_path)).trials[0]
    assert trial.seconds == 10 * (EPOCHS + 2)
    assert [r.metrics["validation_pinball"] for r in trial.reports] == pytest.approx(falling(0.1))


def test_ranks_finished_trials_first_and_names_a_better_stopped_one(
    tmp_path: Path,
) -> None:
    analysis = analysed(
        tmp_path,
        Given(falling(0.2)),
        Given(falling(0.3), parameters=DEFAULTS),
        Given([0.1, 0.05], "TERMINATED"),
    )
    assert [s.trial.number for s in analysis.ranked["validation_pinball"]] == [1, 2, 3]
    assert analysis.default is not None
    assert analysis.default.trial.number == 2
    text = " ".join(findings(analysis))
    assert "Trial 1 is best: validation pinball 0.2 against 0.3 of the defaults (33.3 %" in text
    assert "Trial 3, stopped early after epoch 2, had a better 0.05 there." in text


def test_says_so_when_none_finished(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Given(falling(0.3, 4)), Given(falling(0.2, 2), "RUNNING"))
    assert analysis.cost.is_rough
    assert "No trial finished. The best so far is trial 2, which is running or interrupted" in (
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
    led = analyse(analysis.results.led_by("calibration_error"))
    assert [s.trial.number for s in led.front] == [4, 2, 1]
    assert led.best is not None
    assert led.best.trial.number == 4
    with pytest.raises(UserError, match="expected an objective of the experiment"):
        analysis.results.led_by("validation_mae")


def test_maximises_where_the_objective_says_so(tmp_path: Path) -> None:
    objectives = [{"metric": "validation_pinball", "mode": "max"}]
    analysis = analysed(tmp_path, Given(falling(0.1)), Given(falling(0.2)), objectives=objectives)
    assert [s.trial.number for s in analysis.finished] == [2, 1]


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


@pytest.mark.parametrize("package", ["optuna", "sklearn"])
def test_importance_names_the_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, package, None)
    importance = analysed(tmp_path, *by_learning_rate()).importance
    assert importance.shares == {}
    assert f"{package} is missing; install neuneu[tune,analysis]" in importance.missing


def test_tells_what_was_stopped_and_when(tmp_path: Path) -> None:
    stops = analysed(
        tmp_path, Given(falling(0.1)), Given([0.9]), Given([0.7]), Given([0.5, 0.45, 0.4])
    ).stops
    assert [(s.epoch, s.trials, s.value) for s in stops] == [(1, 2, 0.8), (3, 1, 0.4)]
    assert stops[0].best_going_on == pytest.approx(0.18)
    assert stops[1].best_going_on == pytest.approx(0.16)


def test_reruns_show_what_stopping_lost(tmp_path: Path) -> None:
    given = [Given(falling(0.2)), Given(falling(0.3)), Given([0.5, 0.4]), Given([0.6])]
    write_tuning(tmp_path, given)
    write_rerun(tmp_path, 3, [0.5, 0.4, *[0.25] * 7])
    write_rerun(tmp_path, 4, [0.6, 0.5])
    analysis = analyse(read_results(str(tmp_path)))
    second, first = analysis.reruns
    assert (first.trial.number, first.epoch, first.value) == (4, 1, 0.6)
    assert (first.rank, first.of, first.final, first.final_rank) == (4, 4, None, None)
    assert (second.trial.number, second.rank, second.of) == (3, 3, 3)
    assert (second.final, second.final_rank) == (0.25, 2)
    assert "lost nothing: of 1 stopped trial run to the end" in verdict(analysis)
    (tmp_path / "reruns" / trial_id(4) / "history.csv").write_text(
        "epoch,step,validation_pinball\n" + "".join(f"{e},{e},0.15\n" for e in range(1, 10)) + "10,"
    )
    text = verdict(analyse(read_results(str(tmp_path))))
    assert "of 2 stopped trials run to the end, 1 would have been best" in text
    assert "Trial 4, stopped after epoch 1, reached 0.15 instead of 0.2" in text


def test_warns_of_a_gain_within_the_spread_and_of_the_edge(tmp_path: Path) -> None:
    def at(value: float, rate: float, **more: Any) -> Given:
        return Given(falling(value), parameters=DEFAULTS | {LEARNING_RATE: rate} | more)

    near = [at(0.11, 0.09), at(0.2, 0.08), at(0.13, 0.07), at(0.13, 1.1e-4)]
    luck = analysed(tmp_path / "luck", at(0.1, 0.0999), at(0.12, 2e-3), *near)
    notes = " ".join(caveats(luck))
    assert "The best is 0.02 ahead of the defaults, less than the 0.09" in notes
    assert "optim.learning_rate at the upper end of its range" in notes
    assert "Only 6 trials finished" in notes
    clear = analysed(tmp_path / "clear", at(0.1, 0.01), at(0.4, 2e-3), *near)
    assert not re.search("luck|end of its range", " ".join(caveats(clear)))


@pytest.mark.parametrize("name", ["state", "params", "line", "text"])
def test_survives_damage(tmp_path: Path, name: str) -> None:
    write_tuning(tmp_path, [Given(falling(0.1)), Given(falling(0.2, 3))])
    trial = tmp_path / "experiment" / trial_folder(2)
    log = trial / "result.json"
    if name == "state":
        (state,) = (tmp_path / "experiment").glob("experiment_state-*.json")
        state.write_text(state.read_text()[:500])
    elif name == "params":
        (trial / "params.json").unlink()
    elif name == "line":
        log.write_text(log.read_text()[:-40])
    else:
        log.write_bytes(log.read_bytes() + b'{"epoch": 4, "name": "\xc3')
    results = read_results(str(tmp_path))
    first, second = results.trials
    assert first.status == "finished"
    assert (first.id, second.id, second.number) == (trial_id(1), trial_id(2), 2)
    assert second.epochs == (2 if name == "line" else 3)
    assert second.parameters[LEARNING_RATE] == 2e-3
    assert len(results.problems) == (0 if name == "params" else 1)
    assert all(problem in render(analyse(results)) for problem in results.problems)


def test_reads_trials_without_ray_list_of_them(tmp_path: Path) -> None:
    given = [
        Given(falling(0.1)), Given(falling(0.2, 3)), Given(falling(0.2, 3), "RUNNING"),
        Given((), "ERROR", error="MemoryError"),
    ]  # fmt: skip
    analysis = analysed(tmp_path, *given, state=False)
    statuses = [t.status for t in analysis.results.trials]
    assert statuses == ["finished", "stopped", "unfinished", "failed"]
    assert [t.number for t in analysis.results.trials] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "trials", [[], [Given((), "PENDING", files=False)], [Given((), "RUNNING")]]
)
def test_of_an_experiment_without_a_report(tmp_path: Path, trials: list[Given]) -> None:
    written = write_tune_report(str(write_tuning(tmp_path, trials)))
    assert "<main>" in Path(written.report).read_text()
    assert pq.read_table(written.trials).num_rows == len(trials)
    assert written.analysis.best is None
    with pytest.raises(UserError, match="nothing to export yet"):
        export_best(written.analysis, tmp_path / "best.yaml")


def test_takes_only_the_line_that_names_the_exception() -> None:
    named = "ray.exceptions.RayTaskError(ValueError): a"
    assert last_error(f"Traceback:\n  x\n{named}\nmore: b\n") == named
    assert (
        last_error("x\ntorch.OutOfMemoryError: 3 GB\nTry less\n") == "torch.OutOfMemoryError: 3 GB"
    )
    assert last_error("killed\n\n") == "killed"
    assert last_error("") == ""
