"""What all reports share, in a real browser: tables that sort and search, no foreign scripts."""

from pathlib import Path

import pytest
from browser import Browser

from neuneu.reports.pages import breakable, render_page

PAGE = """<!doctype html><html><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{content_policy}">
<style>{style}</style></head><body>
<div data-search="t" data-page="3" hidden><input type="search"><output></output>
<button type="button"></button></div>
<table id="t" class="sortable"><thead><tr><th data-sort class="text">run</th>
<th data-sort>now</th></tr></thead><tbody>{rows}</tbody></table>
<script>document.title = "ran"</script><img src="x" onerror="document.title = 'ran'">
<script>{script}</script></body></html>"""

ROWS = (("m-70m", "40", None), ("m-410m", "9 (x)", None), ("m-12b", "1.5B", "1.5e9"),
        ("m-1b", "–", None), ("m-2b", "1,200", None))  # fmt: skip


@pytest.fixture
def page(tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Browser:
    rows = "".join(
        f"<tr><th class='text'>{run}</th><td"
        + (f" data-value='{value}'" if value else "")
        + f">{text}</td></tr>"
        for run, text, value in ROWS
    )
    template = PAGE.replace("{rows}", rows)
    for name in ("content_policy", "style", "script"):
        template = template.replace(f"{{{name}}}", f"{{{{ {name} }}}}")
    folder = tmp_path / "templates"
    folder.mkdir()
    for shared in ("style.css", "tables.js"):
        text = (Path(render_page.__code__.co_filename).parent / "templates" / shared).read_text()
        (folder / shared).write_text(text)
    (folder / "page.html.j2").write_text(template)
    monkeypatch.setattr("neuneu.reports.pages._TEMPLATES", folder)
    path = tmp_path / "page.html"
    path.write_text(render_page("page.html.j2"))
    browser.open(path)
    return browser


def shown(page: Browser) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.cells[0].textContent)"
    )


def test_page_runs_its_own_script_and_no_other(page: Browser) -> None:
    assert page.evaluate("document.title") == ""
    refused = [text for text in page.complaints if "Content Security Policy" in text]
    assert len(refused) >= 2
    assert refused == page.complaints
    assert page.evaluate("typeof sortTable") == "function"
    # What the tests of reports count on: nothing that goes wrong in a page is lost.
    page.evaluate("setTimeout(() => { console.error('said'); throw Error('thrown'); })")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert any("said" in text for text in page.complaints)
    assert any("thrown" in text for text in page.complaints)


def test_table_sorts_by_numbers_names_and_given_values_unknown_last(page: Browser) -> None:
    page.evaluate("document.querySelector('[data-search] button').click()")
    page.point_at("thead th:nth-child(2) button", 0.5, 0.5, click=True)
    assert shown(page) == ["m-410m", "m-70m", "m-2b", "m-12b", "m-1b"]
    page.point_at("thead th:nth-child(2) button", 0.5, 0.5, click=True)
    assert shown(page) == ["m-12b", "m-2b", "m-70m", "m-410m", "m-1b"]
    # By keyboard: the heading of names, reached with Shift+Tab, is a button.
    page.evaluate("document.querySelector('thead button').focus()")
    page.press("Enter", code=13, text="\r")
    assert shown(page) == ["m-1b", "m-2b", "m-12b", "m-70m", "m-410m"]
    sorts = "[...document.querySelectorAll('th[data-sort]')].map(h => h.getAttribute('aria-sort'))"
    assert page.evaluate(sorts) == ["ascending", None]


def test_search_and_paging_show_what_was_left_out(page: Browser) -> None:
    assert shown(page) == ["m-70m", "m-410m", "m-12b"]
    assert page.evaluate("document.querySelector('output').textContent") == "3 of 5"
    page.evaluate("document.querySelector('input').focus()")
    page.type("M 0")
    assert shown(page) == ["m-70m", "m-410m", "m-2b"]
    assert page.evaluate("document.querySelector('output').textContent") == "3"
    assert page.evaluate("document.querySelector('[data-search] button').hidden")


def test_breakable_names_are_still_escaped() -> None:
    assert str(breakable("a_b<i>.c-1.4b")) == "a_<wbr>b&lt;i&gt;.<wbr>c-1.4b"
