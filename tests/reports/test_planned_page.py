"""Reports on runs that have not started: terminal, figures and the page in a real browser."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from browser import Browser
from relatives import ENDS, Relatives, rows

from neuneu.decisions.predictor import Predictor
from neuneu.reports.answers.plots import write_answer_figures
from neuneu.reports.answers.terminal import show
from neuneu.reports.report import write_report

PLANS = [f"run=big-{recipe},params=8B,tokens=2T,recipe={recipe}" for recipe in ENDS]


def write_answers(folder: Path, *, running: bool) -> None:
    """Forecast, rank and when, about planned runs and possibly a running one."""
    table = [row for row in rows() if running or row["run"] != "running"]
    model = Predictor(Relatives())
    for answer in (
        model.forecast(table, plan=PLANS, explain=True),
        model.rank(table, plan=PLANS, explain=True),
        model.when(table, 0.5, plan=PLANS),
    ):
        answer.write(folder)
        show(answer)


@pytest.mark.parametrize("running", [False, True])
def test_reports_say_that_a_run_has_not_started(
    running: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    browser: Browser,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_answers(tmp_path, running=running)
    assert capsys.readouterr().out.count("not started") == 4 + 2 + 2
    assert pq.read_table(tmp_path / "observed.parquet").num_rows == (6 if running else 0)
    write_answer_figures(tmp_path)
    assert (tmp_path / "figures" / "forecast.svg").exists()
    assert (tmp_path / "figures" / "ranking.svg").exists()
    path = write_report(tmp_path)
    page = path.read_text()
    assert "It has not started; it is forecast on 2 tasks and metrics to 2T tokens." in page
    assert ("2 runs (4 trajectories), not started, forecast to 2T." in page) == (not running)
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    observed = {data["runs"][curve["r"]]: data["grids"][curve["x"]] for curve in data["curves"]}
    assert observed.pop("big-web") == observed.pop("big-books") == []
    assert list(observed) == (["running"] if running else [])
    assert all(len(data["grids"][curve["p"]]) == 20 for curve in data["curves"])
    browser.open(path)
    assert browser.complaints == []
    drawn = "document.querySelectorAll('#task-figure path.ahead').length"
    assert browser.evaluate(drawn) == len(data["runs"]) - sum(
        r.startswith(("web", "books")) for r in data["runs"]
    )
    assert browser.evaluate("document.getElementById('log').checked") is True
