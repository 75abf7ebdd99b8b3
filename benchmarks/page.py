"""Write a page of docs/results/ from its record and the template beside the study's script.

    .venv/bin/python benchmarks/page.py forecasting

reads docs/results/forecasting.json and benchmarks/forecasting/page.md.j2, and draws the figures of
`decisions` and `families`. All numbers come from the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

import jinja2
from decisions.figure import draw as draw_decisions
from families.figure import draw as draw_families
from gpu.check import COLUMNS, cells

from neuneu.core.files import write_text_atomic

STUDIES: Final = Path(__file__).parent
RESULTS: Final = STUDIES.parent / "docs" / "results"


def render(study: str, **content: Any) -> str:
    """Return the page of a study; see its template for what `content` has to hold."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STUDIES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": number, "estimate": estimate, "by_error": by_error}
    page = environment.get_template(f"{study}/page.md.j2").render(content)
    return page.rstrip() + "\n"


def number(value: float, digits: int = 0, *, scale: float = 1.0, sign: bool = False) -> str:
    """Return `scale` times a number with a separator of thousands."""
    return f"{scale * value:{'+' if sign else ''},.{digits}f}"


def estimate(entry: dict[str, Any] | None, *, interval: bool = False, sign: bool = False) -> str:
    """Return a fraction in percent, with its 95 % interval."""
    if entry is None or entry.get("value") is None:
        return "-"
    text = number(entry["value"], 2, scale=100, sign=sign)
    if interval and entry.get("low") is not None:
        text += f" ({100 * entry['low']:.2f} to {100 * entry['high']:.2f})"
    return text


def by_error(forecasters: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return forecasters by what they see, then by error; those without an error last."""

    def key(item: tuple[str, dict[str, Any]]) -> tuple[str, float]:
        mae = item[1]["overall"]["mae"]
        return item[1]["sees"], mae["value"] if mae else float("inf")

    return sorted(forecasters.items(), key=key)


def page_of(study: str, record: Any, page: Path) -> str:
    """Return the page of a study; its figures are in the folder beside the page."""
    folder = page.with_suffix("")
    figures = {path.name: f"{folder.name}/{path.name}" for path in folder.glob("*.png")}
    return render(study, record=record, figures=figures, columns=COLUMNS, cells=cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "study", choices=sorted(p.parent.name for p in STUDIES.glob("*/page.md.j2"))
    )
    parser.add_argument("--record", type=Path, help="default: docs/results/STUDY.json")
    parser.add_argument("--page", type=Path, help="default: beside the record")
    arguments = parser.parse_args()
    path = arguments.record or RESULTS / f"{arguments.study}.json"
    # The GPU page says so if there is no record.
    record: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    page = arguments.page or path.with_suffix(".md")
    if arguments.study == "decisions":
        draw_decisions(record["contexts"], page.with_suffix(""))
    if arguments.study == "families":
        draw_families(record, page.with_suffix(""))
    write_text_atomic(page, page_of(arguments.study, record, page))


if __name__ == "__main__":
    main()
