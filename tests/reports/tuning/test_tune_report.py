"""The report of a tuning: page, tables, export and command."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from browser import Browser
from s3_server import S3Server
from tuned_search import (
    BASE,
    BLOCKS,
    DEFAULTS,
    DROPOUT,
    EPOCHS,
    LEARNING_RATE,
    SPACE,
    TWO_OBJECTIVES,
    Given,
    analysed,
    by_learning_rate,
    falling,
    trial_id,
    write_rerun,
    write_tuning,
)
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.cli.exit_codes import EXIT_USER_ERROR
from neuneu.core.config import load_config
from neuneu.core.errors import UserError
from neuneu.core.storage import Folder
from neuneu.reports.tuning.analysis import analyse
from neuneu.reports.tuning.phrasing import findings
from neuneu.reports.tuning.report import export_best, render, summary, write_tune_report
from neuneu.reports.tuning.study import labels
from neuneu.training.config import TrainConfig
from neuneu.training.tuning.experiment import read_experiment
from neuneu.training.tuning.space import lay_over


def test_tune_report_labels_leave_out_what_keys_share() -> None:
    assert labels(["a.b.c", "a.b.d.e"]) == {"a.b.c": "c", "a.b.d.e": "d.e"}
    assert labels(["a.b.c"]) == {"a.b.c": "c"}
    assert labels(["a.b", "a.b.c", "x"]) == {"a.b": "a.b", "a.b.c": "a.b.c", "x": "x"}
    assert labels([]) == {}


def test_tune_report_tables_hold_every_trial_and_report(tmp_path: Path) -> None:
    space = [*SPACE[:2], SPACE[2] | {"values": [0.1, [1, 2]]}]
    given = [
        Given([*falling(0.1, 8), 0.3], parameters={DROPOUT: [1, 2]}),
        Given(falling(0.2, 2), "failed", error="ValueError: no, \"never\""),
    ]  # fmt: skip
    written = write_tune_report(str(write_tuning(tmp_path / "tune", given, space=space)))
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
    given = [*by_learning_rate(stopped=3), Given((), "failed", error=f"ValueError: {evil}")]
    for one in given:
        one.second = [1 - value / 10 for value in one.values]
    page = render(analysed(tmp_path, *given, name=evil, objectives=TWO_OBJECTIVES))
    assert evil not in page
    assert page.count("alert(&#39;x&#39;)") >= 2
    assert not re.search(r'(src|href)="(?!#|data:image/png)|url\((?!#)|@import', page)
    assert page.count("<svg") == 14
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
    space = [{"key": "optim.learning_rate", "kind": "float", "low": 1e-4, "high": 1e-2,
              "default": 1e-3, "reason": ""},
             {"key": "model.width", "kind": "choice", "values": [32, 64], "default": 32,
              "reason": ""}]  # fmt: skip
    parameters = {"optim.learning_rate": 1e-3, "model.width": 64}
    base = {"store": "s", "output": "runs/mine", "model": "small"}
    analysis = analysed(
        tmp_path / "tune", Given(falling(0.1), parameters=parameters), space=space, base=base
    )
    export_best(analysis, tmp_path / "best.yaml")
    config = load_config(TrainConfig, tmp_path / "best.yaml")
    assert (config.optim.learning_rate, config.model.width) == (1e-3, 64)
    assert str(config.output) == "runs/mine"
    analysis.experiment.plan.base["oops"] = 1
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
        "the defaults (trial 2, failed) have no final value": Given(
            (), "failed", parameters=DEFAULTS
        ),
        "(trial 2, stopped early) have no final value": Given([0.3], parameters=DEFAULTS),
        "with the defaults: the search found nothing": Given(falling(0), parameters=DEFAULTS),
    }
    for place, (said, second) in enumerate(ends.items()):
        analysis = analysed(tmp_path / str(place), Given(falling(0.2)), second)
        assert said in " ".join(findings(analysis))
        assert render(analysis)


def test_tune_report_export_follows_the_objective(tmp_path: Path) -> None:
    given = [Given(falling(0.1), second=falling(0.4)), Given(falling(0.2), second=falling(0.3))]
    folder = str(write_tuning(tmp_path / "tune", given, objectives=TWO_OBJECTIVES))
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
    assert re.search("expected the (folder|plan) of a search", result.stderr)


def test_tune_report_of_s3_equals_that_of_disk(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = write_tuning(tmp_path / "tune", [*by_learning_rate(2), Given((), "not started")])
    write_rerun(local, 11, falling(0.05))
    for path in local.rglob("*"):
        if path.is_file():
            s3.put(f"deep/tune/{path.relative_to(local).as_posix()}", path.read_bytes())
    before = len(s3.requests)
    written = write_tune_report(f"s3://{s3.bucket}/deep/tune")
    assert written.report == "tune-report/report.html"
    assert (tmp_path / "tune-report" / "trials.parquet").exists()
    assert summary(written.analysis) == summary(analyse(read_experiment(str(local))))
    assert not any(".pkl" in path for _, path in s3.requests[before:])
    with pytest.raises(UserError, match=r"found no tune\.json"):
        read_experiment(f"s3://{s3.bucket}/deep")


@pytest.mark.ray
@pytest.mark.slow
def test_tune_report_reads_what_ray_tune_writes(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from neuneu.core.ray_session import ray_session
    from neuneu.training.tuning.recorder import TrialRecorder

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
            run_config=tune.RunConfig(
                storage_path=str(tmp_path), name="experiment", verbose=0,
                callbacks=[TrialRecorder(Folder(tmp_path), EPOCHS)],
            ),
        ).fit()  # fmt: skip
    analysis = write_tune_report(str(tmp_path)).analysis
    assert analysis.counts["failed"] == 1
    assert analysis.counts["finished"] >= 1
    assert sum(analysis.counts.values()) == 9
    assert analysis.counts["finished"] + analysis.counts["stopped"] == 8
    assert analysis.best is not None
    assert analysis.best.trial.parameters[LEARNING_RATE] == 0.01
    assert analysis.best.values["validation_pinball"] == pytest.approx(0.1 + 0.1 / 9)
    (failed,) = (t for t in analysis.experiment.trials if t.status == "failed")
    assert failed.error == "ValueError: rate too large"
    assert failed.parameters[LEARNING_RATE] == 0.09999
    assert analysis.importance.shares
    assert {d["key"] for d in SPACE} <= set(failed.parameters)
