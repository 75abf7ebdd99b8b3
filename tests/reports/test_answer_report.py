"""The report of answers: a page that loads nothing, escapes names, and works in a real browser."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from answer_folders import CLOSING, IMAGE, NAMES, SCRIPT, multiply
from browser import Browser
from forecasts import Shifted, trajectory
from typer.testing import CliRunner

from neuneu.cli.app import app
from neuneu.core import formatting
from neuneu.core.errors import UserError
from neuneu.core.formatting import format_count
from neuneu.data.splits import Anchored
from neuneu.evaluation.backtest import run_backtest, write_backtest
from neuneu.evaluation.summary import summarise
from neuneu.reports.answers.page import MAX_ROWS
from neuneu.reports.backtest.figures import write_figures
from neuneu.reports.folder import QUESTIONS
from neuneu.reports.report import write_report
from neuneu.reports.style import PALETTE


@pytest.fixture(scope="session")
def report(answered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(answered, tmp_path_factory.mktemp("report") / "answers"))
    return write_report(folder)


@pytest.fixture
def page(report: Path, browser: Browser) -> Browser:
    browser.open(report)
    return browser


def texts(page: Browser, selector: str) -> list[str]:
    return page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        ".filter(e => e.getClientRects().length).map(e => e.textContent.trim())"
    )


def test_report_loads_nothing_and_escapes_names(report: Path) -> None:
    text = report.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert CLOSING in json.loads(data[1])["tasks"]
    assert SCRIPT in json.loads(data[1])["runs"]
    for name in (SCRIPT, IMAGE, CLOSING):
        assert name not in text
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)


def test_page_opens_without_a_complaint_and_asks_for_nothing(page: Browser, report: Path) -> None:
    assert page.complaints == []
    assert page.requests == [report.resolve().as_uri()]
    assert set(NAMES.values()) == set(texts(page, "details.run h3"))
    for question in QUESTIONS:
        assert texts(page, f"#table-{question} tbody tr")
    assert page.evaluate("document.title").startswith("Choose ")


def test_figures_draw_curves_and_bands_inside_their_frame(page: Browser) -> None:
    for figure, bands in (("#task-figure", 3), ("#when-figure", 0)):
        found = page.evaluate(
            f"(() => {{ const s = document.querySelector('{figure} svg');"
            "const f = s.getBoundingClientRect(); const n = (q) => s.querySelectorAll(q).length;"
            "const inside = [...s.querySelectorAll('path')].every(p => {"
            "const b = p.getBoundingClientRect(); return b.left >= f.left - 1 && b.right <= f.right"
            " + 1 && b.top >= f.top - 1 && b.bottom <= f.bottom + 1; });"
            "return {curves: n('.curve'), outer: n('.outer'), inner: n('.inner'), inside,"
            "ahead: [...s.querySelectorAll('.ahead')].every(p => p.getTotalLength() > 50)}; })()"
        )
        assert found["curves"] >= 2
        assert found["outer"] == found["inner"] == bands
        assert found["inside"]
        assert found["ahead"]
    assert "NaN" not in page.evaluate("document.querySelector('main').innerHTML")


def test_readout_follows_mouse_and_keys_and_says_the_table_s_numbers(page: Browser) -> None:
    at_end = texts(page, "#task-figure .readout li")
    task = page.evaluate("data.tasks[Number(document.getElementById('task').value)]")
    rows = texts(page, "#table-forecast tbody tr")
    for line in at_end:
        name, numbers = re.fullmatch(r"(.*) (\S+ \(.*\))", line).groups()
        assert any(name in row and task in row and numbers in row for row in rows)
    assert texts(page, "#task-figure .readout p") == ["at 20K tokens, the end"]
    page.point_at("#task-figure .chart", 0.2, 0.5)
    assert all("observed" in line for line in texts(page, "#task-figure .readout li"))
    assert page.evaluate("document.querySelectorAll('#task-figure .cursor').length") == 1
    page.evaluate("document.querySelector('#task-figure .chart').focus()")
    page.press("Home", code=36)
    assert texts(page, "#task-figure .readout p") == ["at 1K tokens"]
    page.press("ArrowRight", code=39)
    assert texts(page, "#task-figure .readout p") == ["at 2K tokens"]


def test_lines_switch_off_and_the_axis_turns_logarithmic(page: Browser) -> None:
    page.point_at("#task-figure .legend button", 0.5, 0.5, click=True)
    assert page.evaluate("document.querySelectorAll('#task-figure .curve').length") == 2
    pressed = "document.querySelector('#task-figure .legend button').getAttribute('aria-pressed')"
    assert page.evaluate(pressed) == "false"
    middle = "document.querySelector('#task-figure circle:nth-of-type(2)').getAttribute('cx')"
    before = float(page.evaluate(middle))
    page.point_at("#log", 0.5, 0.5, click=True)
    assert float(page.evaluate(middle)) > before + 20
    page.evaluate(
        "(() => { const t = document.getElementById('task'); t.value = '3';"
        "t.dispatchEvent(new Event('change')); })()"
    )
    assert page.evaluate("document.querySelectorAll('#task-figure .curve').length") == 3
    assert page.complaints == []


def test_tables_sort_and_search(page: Browser) -> None:
    column = "#table-forecast tbody tr td:nth-child(6)"
    page.point_at("#table-forecast th:nth-child(6) button", 0.5, 0.5, click=True)
    values = [float(text.split()[0]) for text in texts(page, column)]
    # Numbers are shown to the digits that their interval allows.
    assert all(left <= right + 0.5 for left, right in itertools.pairwise(values))
    assert len(values) == 12
    page.evaluate("document.querySelector('[data-search=table-forecast] input').focus()")
    page.type("ALERT(1) t1")
    (row,) = texts(page, "#table-forecast tbody tr")
    assert row.startswith(SCRIPT)
    assert texts(page, "[data-search=table-forecast] output") == ["1"]


def test_ranking_compares_with_a_chosen_run(page: Browser, answered: Path) -> None:
    rows = json.loads((answered / "rank.json").read_text())["rows"]
    best = [formatting.percent(row["best"]) for row in rows]
    assert texts(page, ".ranking .odds b") == best
    choose = "(() => {{ const s = document.getElementById('rank-against'); s.value = '{}';"
    choose += "s.dispatchEvent(new Event('change')); }})()"
    page.evaluate(choose.format(1))
    other = rows[1]["run"]
    wanted = [formatting.percent(r["beats"][other]) if r["run"] != other else "–" for r in rows]
    assert texts(page, ".ranking .odds b") == wanted
    page.evaluate(choose.format(""))
    assert texts(page, ".ranking .odds b") == best


def test_a_run_opens_with_its_words_and_a_chart_a_task(page: Browser) -> None:
    link = f"#table-forecast tbody a[href='#run-{list(page.evaluate('data.runs')).index(SCRIPT)}']"
    page.point_at(link, 0.5, 0.5, click=True)
    page.evaluate("new Promise(done => setTimeout(done, 200))")
    assert texts(page, "details.run[open] h3") == [SCRIPT]
    words = " ".join(texts(page, "details.run[open] p"))
    assert "at 8 checkpoints up to 8K tokens" in words
    assert "No warnings apply" in words
    assert len(texts(page, "details.run[open] .panels h4")) == 4
    assert page.evaluate("document.querySelectorAll('details.run[open] svg .ahead').length") == 4
    assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_a_phone_and_its_lines_stand_out(
    report: Path, browser: Browser, dark: bool, tmp_path: Path
) -> None:
    browser.open(report, width=390, height=844, dark=dark)
    browser.evaluate("document.querySelector('details.run').open = true")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    # The names that stay in sight while one scrolls must leave room for the numbers.
    names = "[...document.querySelectorAll('th[scope=row]')].map(h => h.offsetWidth)"
    assert 0 < max(browser.evaluate(names)) < 200
    colors = browser.evaluate(
        "['--page', '--c0'].map(n => getComputedStyle(document.documentElement)"
        ".getPropertyValue(n))"
    )
    assert (luminance(colors[0]) < 0.1) == dark
    for number in range(6):
        color = browser.evaluate(
            f"getComputedStyle(document.documentElement).getPropertyValue('--c{number}')"
        )
        if not dark:
            assert color == PALETTE[number]
        lighter, darker = sorted((luminance(color), luminance(colors[0])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 3.0  # WCAG: graphical objects
    browser.evaluate("document.getElementById('task-figure').scrollIntoView()")
    browser.screenshot(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 10_000


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_numbers_of_the_page_are_those_of_python(page: Browser) -> None:
    values = [0.0, 0.004, 0.0099, 0.01, 0.125, 0.425, 0.12250, 0.35, 0.5, 0.995, 0.99, 0.9901, 1.0]
    values += [index / 997 for index in range(0, 998, 7)] + [
        index / 1000 for index in range(0, 999, 5)
    ]
    counts = [0.5, 1, 125, 999.4, 999.6, 1000, 1250, 1.125e6, 1.25e9, 1.35e9, 6.921e10, 9.996e11]
    counts += [3.3e12, 2.5e13, 12345678, 105, 1045, 99.5e9]
    said = page.evaluate(
        f"{{ const v = {values}, c = {counts}; ({{ wide: v.map(x => points(x, 0.2)),"
        "narrow: v.map(x => points(x, 0.02)), percent: v.map(percent),"
        "bits: v.map(x => score(x, 0.02, 'bits per byte')), seen: v.map(x => score(x, 0, '')),"
        "tokens: c.map(tokens), count: c.map(formatCount) }) }"
    )
    assert said["wide"] == [formatting.points(value, 0.2) for value in values]
    assert said["narrow"] == [formatting.points(value, 0.02) for value in values]
    assert said["bits"] == [formatting.score(value, 0.02, "bits per byte") for value in values]
    assert said["seen"] == [formatting.score(value, 0.0, "") for value in values]
    assert said["percent"] == [formatting.percent(value) for value in values]
    assert said["tokens"] == [formatting.tokens(value) for value in counts]
    assert said["count"] == [format_count(value) for value in counts]


def test_many_runs_stay_small_and_quick_and_what_is_left_out_is_said(
    folder: Path, browser: Browser
) -> None:
    multiply(folder, 300)
    path = write_report(folder)
    assert path.stat().st_size < 5_000_000
    browser.open(path)
    assert browser.complaints == []
    assert texts(browser, "[data-search=table-forecast] output") == ["25 of 1200"]
    assert len(texts(browser, "#table-forecast tbody tr")) == 25
    assert browser.evaluate("document.querySelectorAll('#task-figure .curve').length") == 4
    assert browser.evaluate("document.getElementById('add-run').length") == 1 + 296
    browser.evaluate("document.querySelector('[data-search=table-forecast] button').click()")
    assert len(texts(browser, "#table-forecast tbody tr")) == 1200


def test_more_rows_than_a_page_holds_are_counted(folder: Path) -> None:
    multiply(folder, 600)
    path = write_report(folder)
    text = path.read_text()
    assert f"forecast: {2400 - MAX_ROWS} of 2,400 rows are not in this page" in text
    assert "trajectories are drawn with at most 16 observed and 8 forecast points" in text
    assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_answer_alone_makes_a_page(question: str, folder: Path, browser: Browser) -> None:
    for other in QUESTIONS:
        if other != question:
            (folder / f"{other}.json").unlink()
    browser.open(write_report(folder))
    assert browser.complaints == []
    assert texts(browser, f"#table-{question} tbody tr")
    assert len(texts(browser, "h2")) == (3 if question == "next-eval" else 4)


def test_forecast_without_its_tables_says_so(folder: Path, browser: Browser) -> None:
    (folder / "forecasts.parquet").unlink()
    browser.open(write_report(folder))
    assert browser.complaints == []
    assert "The trajectories of the forecast are missing from the folder." in browser.evaluate(
        "document.body.textContent"
    )


def test_folder_of_answers_and_of_a_backtest_has_both(folder: Path, browser: Browser) -> None:
    targets = [
        trajectory((0.4 + 0.02 * np.arange(12)).tolist(), run=f"b{run}", task=f"t{task}")
        for run in range(2)
        for task in range(2)
    ]
    forecasters = [Shifted("near", shift=0.1, half_width=0.1), Shifted("far", levels=(0.5,))]
    table = run_backtest(forecasters, targets, [], Anchored())
    summary = summarise(table)
    write_backtest(folder, table, summary)
    write_figures(folder, table, summary, targets)
    browser.open(write_report(folder))
    assert browser.complaints == []
    text = browser.evaluate("document.body.textContent")
    assert "near has a mean absolute error of" in text
    assert "The trajectories of the forecast are missing from the folder." in text
    assert browser.evaluate("document.querySelectorAll('.plot .wide svg').length") == 2
    browser.open(folder / "backtest.html")
    assert browser.complaints == []
    assert "Forecasters" in texts(browser, "h2")
    browser.point_at("table.sortable th[data-sort] button", 0.5, 0.5, click=True)
    assert texts(browser, "tbody th")[:2] == ["far", "near"]
    for name in ("forecast", "rank", "stop", "when", "next-eval"):
        (folder / f"{name}.json").unlink()
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "<h2>Forecasters</h2>" in (folder / "report.html").read_text()


def test_command_writes_page_and_figures(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["report", str(folder), "--figures", "--json"])
    assert shown.exit_code == 0, shown.output
    written = json.loads(shown.stdout)
    assert Path(written["report"]) == folder / "report.html"
    names = ["forecast.svg", "forecast.png", "ranking.svg", "ranking.png"]
    assert [Path(path).name for path in written["figures"]] == names
    for path in written["figures"]:
        content = Path(path).read_bytes()
        assert content.startswith(b"<svg" if path.endswith("svg") else b"\x89PNG")
        assert b"<script" not in content
    assert "$\\frac$ a_b$x" in Path(written["figures"][2]).read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rank.json", "{", "expected what `neuneu rank -o` writes, found Invalid JSON"),
        ("rank.json", "[]", "found Input should be an object"),
        (
            "rank.json",
            '{"question": "rank"}',
            "found rows: Field required; notes: Field required; settings: Field required",
        ),
        (
            "stop.json",
            '{"question": "rank", "rows": [1]}',
            "found question: Input should be 'stop'; rows.0: Input should be an object; ",
        ),
        ("stop.json", '{"doubts": []}', "found the `doubts` of an older neuneu; run `neuneu stop"),
        ("forecasts.parquet", "x", "expected what `neuneu forecast -o` writes"),
    ],
)
def test_a_broken_file_is_one_line(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_row_without_its_fields_is_named(folder: Path) -> None:
    record = json.loads((folder / "when.json").read_text())
    record["rows"][2] |= {"never": "often", "run": 7}
    (folder / "when.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError,
        match=r"found rows\.2\.run: Input should be a valid string; rows\.2\.never: Input",
    ):
        write_report(folder)


def test_missing_packages_are_named_with_their_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuneu.core.extras.importlib.util.find_spec", lambda name: None)
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 2
    assert "needs jinja2, matplotlib: pip install 'neuneu[analysis]'" in shown.stderr
