"""The report: one file that loads nothing, escapes names, and says who won by how much."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forecasts import Shifted, trajectory

from neuneu.core.errors import UserError
from neuneu.data.splits import Anchored
from neuneu.data.trajectories import Trajectory
from neuneu.evaluation.backtest import run_backtest, write_backtest
from neuneu.evaluation.summary import RunMetadata, summarise
from neuneu.evaluation.table import read_evaluation
from neuneu.reports.backtest.figures import forecast_panels, leading_forecaster, write_figures
from neuneu.reports.backtest.page import caveats, headline, worst_tasks
from neuneu.reports.report import write_report

EVIL = "<script>alert('x')</script>"


def runs(n: int = 6) -> list[Trajectory]:
    generator = np.random.default_rng(2)
    return [
        trajectory(
            np.clip(0.4 + 0.02 * np.arange(12) + generator.normal(0, 0.01, 12), 0, 1).tolist(),
            run=f"{EVIL}{run}",
            task=f"task-{task}<b>",
            base_task=f"task-{task}<b>",
            group=f"g{task}",
            chance=0.25,
            params=1e6 * (run + 1),
        )
        for run in range(n)
        for task in range(3)
    ]


def scored(n: int = 6, *, trained_on: int = 0) -> tuple[Any, dict[str, Any], list[Trajectory]]:
    targets = runs(n)
    forecasters = [
        Shifted("near", shift=0.1, half_width=0.1),
        Shifted("far", levels=(0.5,)),
        Shifted("oracle", shift=0.11, levels=(0.5,), sees="oracle-loss"),
    ]
    table = run_backtest(forecasters, targets, [], Anchored())
    books = RunMetadata(
        trained_on={"near": frozenset(sorted({t.run_group for t in targets})[:trained_on])},
        tasks={t.task: (t.base_task, t.group) for t in targets},
    )
    return table, summarise(table, known=books), targets


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    table, summary, targets = scored()
    write_backtest(folder, table, summary)
    write_figures(folder, table, summary, targets)
    return write_report(folder).read_text()


def test_report_loads_nothing_from_outside(page: str) -> None:
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?:", without_namespaces)
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"@import|url\((?!#)", page)


def test_report_escapes_names(page: str) -> None:
    assert EVIL not in page
    assert "&lt;b&gt;" in page
    assert page.count("<script") == 1


def test_report_has_its_sections_and_both_layouts(page: str) -> None:
    for heading in ("Forecasters", "Error by horizon", "Interval coverage", "Data"):
        assert f"<h2>{heading}" in page
    assert page.count('class="wide"') == page.count('class="narrow"') >= 3
    assert "prefers-color-scheme: dark" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_report_shows_what_each_sees(page: str) -> None:
    assert re.search(r"oracle</th>\s*<td[^>]*><span[^>]*>oracle-loss", page)
    assert re.search(r"near</th>\s*<td[^>]*><span[^>]*>own", page)


def test_report_without_bands_or_figures_says_so(tmp_path: Path) -> None:
    table = run_backtest([Shifted("p", levels=(0.5,))], runs(2), [], Anchored())
    write_backtest(tmp_path, table, summarise(table))
    text = write_report(tmp_path).read_text()
    assert "No forecaster here has intervals" in text
    assert "80 % coverage" not in text


def test_report_without_a_summary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neuneu backtest"):
        write_report(tmp_path)


def test_headline_names_the_best_usable_forecaster_and_its_gain() -> None:
    _, summary, _ = scored()
    assert leading_forecaster(summary) == "near"
    text = " ".join(headline(summary | {"context_fraction": 0.2}))
    mae = {name: entry["overall"]["mae"]["value"] for name, entry in summary["forecasters"].items()}
    assert "first 20 % of each run, 18 trajectories of 6 runs" in text
    assert f"near has a mean absolute error of {100 * mae['near']:.2f} points" in text
    assert f"That is {100 * (mae['far'] - mae['near']):.2f} points less than far" in text
    assert "a clear lead" in text
    assert f"that no user has, reaches {100 * mae['oracle']:.2f} points" in text


def test_headline_few_runs_call_no_winner() -> None:
    _, summary, _ = scored(2)
    assert "too few runs to tell" in " ".join(headline(summary))
    assert any("rest on only 2 runs" in note for note in caveats(summary))


def test_caveats_name_seen_runs_and_unanswered_trajectories() -> None:
    _, summary, _ = scored(trained_on=2)
    assert any("trained on 2 of the runs" in note for note in caveats(summary))
    silent = run_backtest([Shifted("s", unknown=("task-0<b>",))], runs(), [], Anchored())
    assert any("could not forecast 6 of 18" in note for note in caveats(summarise(silent)))


def test_worst_tasks_are_ordered_by_the_leaders_error() -> None:
    _, summary, _ = scored()
    worst = [row["mae"]["near"]["value"] for row in worst_tasks(summary)]
    assert worst == sorted(worst, reverse=True)
    assert len(worst) == 3


def test_forecast_panels_split_context_from_targets() -> None:
    table, summary, targets = scored()
    panels = forecast_panels(read_evaluation(table), summary, targets)
    assert len({panel.title.split("\n")[0] for panel in panels}) == len(panels) == 3
    for panel in panels:
        assert len(panel.context_tokens) == 3
        assert len(panel.target_tokens) == 9
        assert set(panel.forecasts["near"]) == {0.1, 0.5, 0.9}


def test_write_figures_removes_those_of_an_earlier_backtest(tmp_path: Path) -> None:
    table, summary, targets = scored()
    stale = tmp_path / "figures" / "losses.svg"
    stale.parent.mkdir()
    stale.write_text("old")
    written = write_figures(tmp_path, table, summary, targets)
    assert not stale.exists()
    assert {path.stem for path in written} >= {"trajectories", "horizon", "coverage"}
    assert json.loads(json.dumps([str(path) for path in written]))
