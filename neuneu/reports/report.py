"""Reports: one self-contained HTML file from a folder of answers, of a backtest, or of both."""

from pathlib import Path
from typing import Any, Final

from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.files import write_text_atomic
from neuneu.core.storage import Folder, read_from

REPORT_FILE: Final = "report.html"
BACKTEST_REPORT: Final = "backtest.html"
"""The report of a backtest whose folder also holds answers."""


def rewrite_report(address: str, *, figures: bool = False) -> dict[str, Any]:
    """Writes the report of a folder of answers or of a backtest again, local or `s3://`.

    Args:
        address: the folder.
        figures: also draw the answers for papers.

    Returns:
        `report`, the address of the file, and `figures` on request.

    Raises:
        UserError: the folder holds neither.
    """
    require("a report", "jinja2", "matplotlib", extra="analysis")
    from neuneu.reports.folder import QUESTIONS

    folder = Folder(address)
    sources = [
        name for name in folder.files() if name.endswith((".json", ".yaml", ".svg", ".parquet"))
    ]
    answers = any(f"{question}.json" in sources for question in QUESTIONS)
    if not answers and "summary.json" not in sources:
        raise UserError(
            f"{folder}: expected answers or a backtest's summary.json; write them with "
            "`neuneu forecast -o` or `neuneu backtest -o`."
        )
    with read_from(folder, sources) as local:
        written = [write_report(local)]
        if answers and figures:
            from neuneu.reports.answers.plots import write_answer_figures

            written += write_answer_figures(local)
        names = [str(path.relative_to(local)) for path in written]
        if not folder.is_local:
            for name in names:
                folder.write(name, (local / name).read_bytes())
    found: dict[str, Any] = {"report": f"{folder}/{names[0]}"}
    return found | ({"figures": [f"{folder}/{name}" for name in names[1:]]} if figures else {})


def write_report(folder: Path, *, answers: bool = True) -> Path:
    """Writes `report.html`; with answers in the folder, a backtest's own goes to `backtest.html`.

    Args:
        folder: holds answers, the output of a backtest, or both.
        answers: False: of the backtest alone.

    Returns:
        The file written.

    Raises:
        UserError: a file that neuneu did not write, or neither answers nor a summary.
    """
    from neuneu.reports.answers.page import answers_page
    from neuneu.reports.backtest.page import backtest_page
    from neuneu.reports.folder import QUESTIONS, read_folder

    found = read_folder(folder, QUESTIONS if answers else ())
    pages = {}
    if found.summary is not None:
        name = BACKTEST_REPORT if found.answers else REPORT_FILE
        pages[name] = backtest_page(found.summary, found.figures, found.config)
    if found.answers:
        pages[REPORT_FILE] = answers_page(found, backtest_report=BACKTEST_REPORT)
    for name, page in pages.items():
        write_text_atomic(folder / name, page)
    return folder / REPORT_FILE
