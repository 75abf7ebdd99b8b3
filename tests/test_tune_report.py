"""The analysis of a tuning: what Ray left is read as it is, and said in numbers and words."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from browser import Browser
from s3_server import S3Server
from tuned import (
    BASE,
    BLOCKS,
    DROPOUT,
    EPOCHS,
    LEARNING_RATE,
    SPACE,
    Given,
    trial_folder,
    trial_id,
    write_rerun,
    write_tuning,
)
from typer.testing import CliRunner

from neuneu.cli import app
from neuneu.config import load_config
from neuneu.errors import UserError
from neuneu.exit_codes import EXIT_USER_ERROR
from neuneu.search_space import lay_over
from neuneu.training import TrainConfig
from neuneu.tune_analysis import Analysis, analyse
from neuneu.tune_export import export_best
from neuneu.tune_report import render, summary, write_tune_report
from neuneu.tune_results import read_results
from neuneu.tune_trial_files import last_error
from neuneu.tune_words import caveats, findings, labels, verdict

TWO = [{"metric": "validation_pinball"}, {"metric": "calibration_error", "mode": "min"}]
DEFAULTS = {LEARNING_RATE: 2e-3, BLOCKS: 2, DROPOUT: 0.1}


def falling(end: float, epochs: int = EPOCHS) -> list[float]:
    """A curve that reaches `end` after all epochs, 0.01 an epoch before."""
    return [end + 0.01 * (EPOCHS - epoch) for epoch in range(1, epochs + 1)]


def analysed(folder: Path, *given: Given, **changes: Any) -> Analysis:
    return analyse(read_results(str(write_tuning(folder, given, **changes))))


def test_tune_report_counts_how_each_trial_ended(tmp_path: Path) -> None:
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


def test_tune_report_cost_extrapolates_finished_seconds_an_epoch(tmp_path: Path) -> None:
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


def test_tune_report_cost_counts_epochs_repeated_after_a_restart(tmp_path: Path) -> None:
    write_tuning(tmp_path, [Given(falling(0.1), seconds=10)])
    path = tmp_path / "experiment" / trial_folder(1) / "result.json"
    lines = path.read_text().splitlines(keepends=True)
    stale = lines[1].replace(f"{falling(0.1)[1]}", "0.9")
    assert stale != lines[1]
    path.write_text("".join([lines[0], stale, *lines]))
    trial = read_results(str(tmp_path)).trials[0]
    assert trial.seconds == 10 * (EPOCHS + 2)
    assert [r.metrics["validation_pinball"] for r in trial.reports] == pytest.approx(falling(0.1))


def test_tune_report_ranks_finished_trials_first_and_names_a_better_stopped_one(
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


def test_tune_report_says_so_when_none_finished(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Given(falling(0.3, 4)), Given(falling(0.2, 2), "RUNNING"))
    assert analysis.cost.is_rough
    assert "No trial finished. The best so far is trial 2, which is running or interrupted" in (
        " ".join(findings(analysis))
    )


def test_tune_report_takes_the_epoch_that_training_keeps(tmp_path: Path) -> None:
    curve = [0.5, 0.1, *[0.4] * 7]
    last = analysed(tmp_path / "last", Given(curve), Given(falling(0.3)))
    assert [(s.trial.number, s.epoch) for s in last.finished] == [(2, 9), (1, 9)]
    best = analysed(tmp_path / "best", Given(curve), Given(falling(0.3)), base={"keep": "best"})
    assert [(s.trial.number, s.epoch) for s in best.finished] == [(1, 2), (2, 9)]


def test_tune_report_leaves_a_diverged_trial_out_and_says_so(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Given([*falling(0.1, 8), float("nan")]), Given(falling(0.2)))
    assert [s.trial.number for s in analysis.finished] == [2]
    assert any(
        "1 trial finished without a finite validation pinball" in c for c in caveats(analysis)
    )


def test_tune_report_pareto_front_holds_trials_that_none_beats(tmp_path: Path) -> None:
    pairs = [(0.1, 0.9), (0.2, 0.5), (0.3, 0.6), (0.4, 0.1), (0.4, 0.3), (0.2, 0.7)]
    given = [Given([x] * EPOCHS, second=[y] * EPOCHS) for x, y in pairs]
    stopped = Given([0.01], second=[0.01])
    analysis = analysed(tmp_path, *given, stopped, objectives=TWO)
    assert [s.trial.number for s in analysis.front] == [1, 2, 4]
    led = analyse(analysis.results.led_by("calibration_error"))
    assert [s.trial.number for s in led.front] == [4, 2, 1]
    assert led.best is not None
    assert led.best.trial.number == 4
    with pytest.raises(UserError, match="expected an objective of the experiment"):
        analysis.results.led_by("validation_mae")


def test_tune_report_maximises_where_the_objective_says_so(tmp_path: Path) -> None:
    objectives = [{"metric": "validation_pinball", "mode": "max"}]
    analysis = analysed(tmp_path, Given(falling(0.1)), Given(falling(0.2)), objectives=objectives)
    assert [s.trial.number for s in analysis.finished] == [2, 1]


def by_learning_rate(stopped: int = 0) -> list[Given]:
    """12 trials whose values follow the learning rate alone; the last ones are stopped."""
    rates = [1e-4 * 1.8**n for n in range(12)]
    return [
        Given(
            falling(0.1 + 0.1 * n, 4 if n >= 12 - stopped else EPOCHS),
            parameters={LEARNING_RATE: rate, BLOCKS: 1 + (7 * n) % 4, DROPOUT: (0.0, 0.3)[n % 2]},
        )
        for n, rate in enumerate(rates)
    ]


def test_tune_report_importance_finds_the_parameter_that_matters(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    importance = analysed(tmp_path, *by_learning_rate()).importance
    assert max(importance.shares, key=lambda key: importance.shares[key]) == LEARNING_RATE
    assert importance.shares[LEARNING_RATE] > 0.6
    assert sum(importance.shares.values()) == pytest.approx(1)


def test_tune_report_importance_compares_at_an_epoch_that_half_reached(tmp_path: Path) -> None:
    few = analysed(tmp_path / "few", *by_learning_rate(stopped=4)).compared
    assert few is not None
    assert (few.epoch, len(few.values)) == (EPOCHS, 8)
    many = analysed(tmp_path / "many", *by_learning_rate(stopped=5)).compared
    assert many is not None
    assert (many.epoch, len(many.values)) == (4, 12)
    assert many.values[trial_id(1)] == pytest.approx(0.1 + 0.01 * 5)


def test_tune_report_importance_says_why_there_is_none(tmp_path: Path) -> None:
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
def test_tune_report_importance_names_the_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, package, None)
    importance = analysed(tmp_path, *by_learning_rate()).importance
    assert importance.shares == {}
    assert f"{package} is missing; install neuneu[tune,analysis]" in importance.missing


def test_tune_report_tells_what_was_stopped_and_when(tmp_path: Path) -> None:
    stops = analysed(
        tmp_path, Given(falling(0.1)), Given([0.9]), Given([0.7]), Given([0.5, 0.45, 0.4])
    ).stops
    assert [(s.epoch, s.trials, s.value) for s in stops] == [(1, 2, 0.8), (3, 1, 0.4)]
    assert stops[0].best_going_on == pytest.approx(0.18)
    assert stops[1].best_going_on == pytest.approx(0.16)


def test_tune_report_reruns_show_what_stopping_lost(tmp_path: Path) -> None:
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


def test_tune_report_warns_of_a_gain_within_the_spread_and_of_the_edge(tmp_path: Path) -> None:
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
def test_tune_report_survives_damage(tmp_path: Path, name: str) -> None:
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


def test_tune_report_reads_trials_without_ray_list_of_them(tmp_path: Path) -> None:
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
def test_tune_report_of_an_experiment_without_a_report(tmp_path: Path, trials: list[Given]) -> None:
    written = write_tune_report(str(write_tuning(tmp_path, trials)))
    assert "<main>" in Path(written.report).read_text()
    assert pq.read_table(written.trials).num_rows == len(trials)
    assert written.analysis.best is None
    with pytest.raises(UserError, match="nothing to export yet"):
        export_best(written.analysis, tmp_path / "best.yaml")


def test_tune_report_takes_only_the_line_that_names_the_exception() -> None:
    named = "ray.exceptions.RayTaskError(ValueError): a"
    assert last_error(f"Traceback:\n  x\n{named}\nmore: b\n") == named
    assert (
        last_error("x\ntorch.OutOfMemoryError: 3 GB\nTry less\n") == "torch.OutOfMemoryError: 3 GB"
    )
    assert last_error("killed\n\n") == "killed"
    assert last_error("") == ""


def test_tune_report_labels_leave_out_what_keys_share() -> None:
    assert labels(["a.b.c", "a.b.d.e"]) == {"a.b.c": "c", "a.b.d.e": "d.e"}
    assert labels(["a.b.c"]) == {"a.b.c": "c"}
    assert labels(["a.b", "a.b.c", "x"]) == {"a.b": "a.b", "a.b.c": "a.b.c", "x": "x"}
    assert labels([]) == {}


def test_tune_report_tables_hold_every_trial_and_report(tmp_path: Path) -> None:
    given = [
        Given([*falling(0.1, 8), 0.3], parameters={DROPOUT: [1, 2]}),
        Given(falling(0.2, 2), "ERROR", error="ValueError: no, \"never\""),
    ]  # fmt: skip
    written = write_tune_report(str(write_tuning(tmp_path / "tune", given)))
    rows = pq.read_table(written.trials).to_pylist()
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert (rows[0]["validation_pinball_best"], rows[0]["validation_pinball_last"]) == (
        pytest.approx(0.11), 0.3,
    )  # fmt: skip
    assert (rows[0][f"config/{BLOCKS}"], rows[0][f"config/{DROPOUT}"]) == (2, "[1, 2]")
    with (tmp_path / "tune" / "trials.csv").open(newline="") as file:
        in_csv = list(csv.DictReader(file))
    assert [row["trial"] for row in in_csv] == [trial_id(1), trial_id(2)]
    assert in_csv[1]["error"] == 'ValueError: no, "never"'
    curves = pq.read_table(written.curves)
    assert curves.num_rows == EPOCHS + 2
    assert curves.to_pylist()[1] == {
        "trial": trial_id(1), "epoch": 2, "step": 20, "validation_pinball": pytest.approx(0.17),
        "validation_mae": pytest.approx(0.34), "validation_coverage_80": 0.75,
    }  # fmt: skip


def test_tune_report_page_loads_nothing_and_escapes(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    given = [*by_learning_rate(stopped=3), Given((), "ERROR", error=f"ValueError: {evil}")]
    for one in given:
        one.second = [1 - value / 10 for value in one.values]
    page = render(analysed(tmp_path, *given, name=evil, objectives=TWO))
    assert evil not in page
    assert page.count("alert(&#39;x&#39;)") >= 2
    assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import', page)
    assert page.count("<svg") == 10
    assert "optim.learning_rate" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_tune_report_page_opens_without_a_complaint(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(analysed(tmp_path, *by_learning_rate(stopped=2))))
    browser.open(page)
    assert browser.complaints == []
    assert browser.evaluate("document.querySelectorAll('th[data-sort] button').length") > 5


def test_tune_report_axis_numbers_are_not_rounded_away(tmp_path: Path) -> None:
    page = render(analysed(tmp_path, Given([0.0112] * EPOCHS), Given([0.0146] * EPOCHS)))
    assert re.search(r">0\.01[1-4][05]?</text>", page)


def test_tune_report_export_is_a_training_config(tmp_path: Path) -> None:
    given = [
        Given(falling(0.3), parameters={"trial_index": 7}),
        Given(falling(0.2), parameters={LEARNING_RATE: 5e-3, "trial_index": 8}),
        Given([0.01]),
    ]
    out = tmp_path / "best.yaml"
    written = write_tune_report(str(write_tuning(tmp_path / "tune", given)), export=out)
    assert written.export == out
    assert yaml.safe_load(out.read_text()) == BASE | {
        "cross_run": {
            "report_steps": 7, "optim": {"learning_rate": 5e-3},
            "network": {"blocks": 3, "dropout": 0.0},
        },
        "output": "runs/tuned",
    }  # fmt: skip


def test_tune_report_export_is_read_by_train(tmp_path: Path) -> None:
    space = [{"key": "optim.learning_rate", "kind": "float", "low": 1e-4, "high": 1e-2},
             {"key": "model.width", "kind": "choice", "values": [32, 64]}]  # fmt: skip
    parameters = {"optim.learning_rate": 1e-3, "model.width": 64}
    base = {"store": "s", "output": "runs/mine", "model": "small"}
    analysis = analysed(
        tmp_path / "tune", Given(falling(0.1), parameters=parameters), space=space, base=base
    )
    export_best(analysis, tmp_path / "best.yaml")
    config = load_config(TrainConfig, tmp_path / "best.yaml")
    assert (config.optim.learning_rate, config.model.width) == (1e-3, 64)
    assert str(config.output) == "runs/mine"
    analysis.results.plan.base["oops"] = 1
    with pytest.raises(UserError, match="unknown key 'oops'"):
        export_best(analysis, tmp_path / "no.yaml")
    assert not (tmp_path / "no.yaml").exists()


def test_tune_report_refuses_files_in_place_of_folders(tmp_path: Path) -> None:
    folder = str(write_tuning(tmp_path / "tune", [Given(falling(0.1))]))
    file = tmp_path / "file"
    file.touch()
    for option in (["--output", str(file)], ["--export", str(file / "best.yaml")]):
        result = CliRunner().invoke(app, ["tune-report", folder, *option])
        assert result.exit_code == EXIT_USER_ERROR
        assert result.stderr.count("\n") == 1


def test_tune_report_says_what_became_of_the_defaults(tmp_path: Path) -> None:
    ends = {
        "no trial had the defaults": Given(falling(0.3)),
        "the defaults (trial 2, failed) reached no end": Given((), "ERROR", parameters=DEFAULTS),
        "(trial 2, stopped early) reached no end": Given([0.3], parameters=DEFAULTS),
        "with the defaults: the search found nothing": Given(falling(0), parameters=DEFAULTS),
    }
    for place, (said, second) in enumerate(ends.items()):
        analysis = analysed(tmp_path / str(place), Given(falling(0.2)), second)
        assert said in " ".join(findings(analysis))
        assert render(analysis)


def test_tune_report_export_follows_the_objective(tmp_path: Path) -> None:
    given = [Given(falling(0.1), second=falling(0.4)), Given(falling(0.2), second=falling(0.3))]
    folder = str(write_tuning(tmp_path / "tune", given, objectives=TWO))
    for objective, blocks in ((None, 2), ("calibration_error", 3)):
        out = tmp_path / f"{objective}.yaml"
        write_tune_report(folder, export=out, objective=objective)
        assert yaml.safe_load(out.read_text())["cross_run"]["network"]["blocks"] == blocks


def test_tune_report_lay_over_refuses_a_key_through_a_value() -> None:
    assert lay_over({"a": None}, {"a.b": 1}) == {"a": {"b": 1}}
    assert lay_over({"model": "paper"}, {"model.width": 64}) == {
        "model": {"preset": "paper", "width": 64}
    }
    with pytest.raises(UserError, match="expected a to be a section"):
        lay_over({"a": 3}, {"a.b": 1})


def test_tune_report_command_prints_findings_and_json(tmp_path: Path) -> None:
    folder = write_tuning(tmp_path / "tune", [Given(falling(0.1)), Given([float("nan")])])
    shown = CliRunner().invoke(app, ["tune-report", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "Trial 1 is best: validation pinball 0.1" in shown.output
    assert (folder / "report.html").exists()
    out = tmp_path / "out"
    asked = CliRunner().invoke(app, ["tune-report", str(folder), "-o", str(out), "--json"])
    found = json.loads(asked.output, parse_constant=pytest.fail)
    assert found["best"]["validation_pinball"]["trial"] == trial_id(1)
    assert found["counts"]["stopped"] == 1
    assert Path(found["report"]) == out / "report.html"
    assert (out / "report.html").exists()


@pytest.mark.parametrize("content", [None, b"", b'{"name": "x"', b'{"epochs": 3}', b"[]"])
def test_tune_report_command_refuses_what_is_no_experiment(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "tune.json").write_bytes(content)
    result = CliRunner().invoke(app, ["tune-report", str(tmp_path)])
    assert result.exit_code == EXIT_USER_ERROR
    assert result.stderr.count("\n") == 1
    assert re.search("expected the (folder|plan) of a tuning", result.stderr)


def test_tune_report_of_s3_equals_that_of_disk(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = write_tuning(tmp_path / "tune", [*by_learning_rate(2), Given((), "PENDING")])
    write_rerun(local, 11, falling(0.05))
    for path in local.rglob("*"):
        if path.is_file():
            s3.put(f"deep/tune/{path.relative_to(local).as_posix()}", path.read_bytes())
    before = len(s3.requests)
    written = write_tune_report(f"s3://{s3.bucket}/deep/tune")
    assert written.report == "tune-report/report.html"
    assert (tmp_path / "tune-report" / "trials.parquet").exists()
    assert summary(written.analysis) == summary(analyse(read_results(str(local))))
    assert not any(".pkl" in path for _, path in s3.requests[before:])
    with pytest.raises(UserError, match=r"found no tune\.json"):
        read_results(f"s3://{s3.bucket}/deep")


@pytest.mark.ray
@pytest.mark.slow
def test_tune_report_reads_what_ray_tune_writes(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from neuneu.ray_session import ray_session

    rate, last = LEARNING_RATE, EPOCHS

    def cheap(config: dict[str, Any]) -> None:
        for epoch in range(1, last + 1):
            if config[rate] > 0.0999:
                raise ValueError("rate too large\nsee above")
            value = 0.1 + abs(config[rate] - 0.01) + 0.1 / epoch
            tune.report({
                "epoch": epoch, "step": 10 * epoch, "validation_pinball": value,
                "validation_mae": value, "validation_coverage_80": 0.8, "calibration_error": 0.02,
            })  # fmt: skip

    write_tuning(tmp_path, [], trials=9)
    goal = {"metric": "validation_pinball", "mode": "min"}
    first = {LEARNING_RATE: 0.01, BLOCKS: 2, DROPOUT: 0.0}
    with ray_session(num_cpus=2):
        tune.Tuner(
            cheap,
            param_space={
                LEARNING_RATE: tune.loguniform(1e-4, 0.1), BLOCKS: tune.randint(1, 5),
                DROPOUT: tune.choice([0.0, 0.1, 0.3]),
            },
            tune_config=tune.TuneConfig(
                num_samples=9,
                reuse_actors=True,
                max_concurrent_trials=2,
                search_alg=OptunaSearch(
                    **goal, seed=0,
                    points_to_evaluate=[first, first | {LEARNING_RATE: 0.09999}],
                ),
                scheduler=ASHAScheduler(time_attr="epoch", max_t=EPOCHS, **goal),
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), name="experiment", verbose=0),
        ).fit()  # fmt: skip
    analysis = write_tune_report(str(tmp_path)).analysis
    assert analysis.counts["failed"] == 1
    assert analysis.counts["finished"] >= 1
    assert sum(analysis.counts.values()) == 9
    assert analysis.counts["finished"] + analysis.counts["stopped"] == 8
    assert analysis.best is not None
    assert analysis.best.trial.parameters[LEARNING_RATE] == 0.01
    assert analysis.best.values["validation_pinball"] == pytest.approx(0.1 + 0.1 / 9)
    (failed,) = (t for t in analysis.results.trials if t.status == "failed")
    assert failed.error == "ValueError: rate too large"
    assert failed.parameters[LEARNING_RATE] == 0.09999
    assert analysis.importance.shares
    assert analysis.results.problems == ()
    assert {d["key"] for d in SPACE} <= set(failed.parameters)
