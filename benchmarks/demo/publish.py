"""Write the results page of a demo or backtest from its folder.

.venv/bin/python benchmarks/demo/publish.py runs/english docs/results/english.md --title "..."
"""

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `page`

from page import render

from neuneu.core.files import write_text_atomic
from neuneu.reports.backtest.page import caveats, headline

FIGURES = {
    "trajectories": "Forecasts and outcomes",
    "horizon": "Error by horizon",
    "coverage": "Interval coverage",
    "losses": "Validation loss of the runs",
    "above_chance": "Accuracy above chance",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--command", default="", help="the command that made the folder")
    parser.add_argument("--note", default="", help="a paragraph for the page")
    arguments = parser.parse_args()
    summary = json.loads((arguments.folder / "summary.json").read_text(encoding="utf-8"))
    images = arguments.page.with_suffix("")
    images.mkdir(parents=True, exist_ok=True)
    figures = {}
    for name, title in FIGURES.items():
        source = arguments.folder / "figures" / f"{name}.png"
        if source.exists():
            shutil.copyfile(source, images / source.name)
            figures[title] = f"{images.name}/{source.name}"
    extraction = arguments.folder / "store" / "extraction.json"
    comparison = arguments.folder / "comparison.json"
    text = render(
        "demo",
        title=arguments.title,
        command=arguments.command,
        note=arguments.note,
        headline=" ".join(headline(summary)),
        caveats=caveats(summary),
        summary=summary,
        figures=figures,
        comparison=json.loads(comparison.read_text("utf-8")) if comparison.exists() else None,
        extractions=json.loads(extraction.read_text("utf-8")) if extraction.exists() else None,
        cpus=os.cpu_count(),
        machine=platform.machine(),
    )
    write_text_atomic(arguments.page, text)


if __name__ == "__main__":
    main()
