"""Writes the report of a folder again, whatever it holds."""

from pathlib import Path
from typing import Any

from neuneu.core.errors import UserError
from neuneu.core.extras import require
from neuneu.core.storage import Folder, read_from
from neuneu.reports.report import write_report


def rewrite_report(address: str, *, figures: bool = False) -> dict[str, Any]:
    """Writes the report of a folder of answers or of a backtest again, local or `s3://`.

    Args:
        address: of the folder.
        figures: also draw the answers for papers.

    Returns:
        `report`, the address of the file, and `figures` where they were asked for.

    Raises:
        UserError: the folder holds neither.
    """
    from neuneu.reports.answers.folder import QUESTIONS

    require("a report", "jinja2", "matplotlib", extra="analysis")
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
    with read_from(folder, sources) as place:
        written = [_write_either(place, answers=answers)]
        if answers and figures:
            from neuneu.reports.answers.plots import write_answer_figures

            written += write_answer_figures(place)
        names = [str(path.relative_to(place)) for path in written]
        if not folder.is_local:
            for name in names:
                folder.write(name, (place / name).read_bytes())
    found: dict[str, Any] = {"report": f"{folder}/{names[0]}"}
    return found | ({"figures": [f"{folder}/{name}" for name in names[1:]]} if figures else {})


def _write_either(place: Path, *, answers: bool) -> Path:
    if not answers:
        return write_report(place)
    from neuneu.reports.answers.report import write_answer_report

    return write_answer_report(place)
