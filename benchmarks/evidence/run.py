"""What the items of a task add to forecasts of its accuracy.

    nice -n 19 .venv/bin/python benchmarks/evidence/ladder.py ../shared runs/evidence
    .venv/bin/python benchmarks/evidence/run.py ../shared runs/evidence --unseen FOLDER
    .venv/bin/python benchmarks/page.py evidence

FOLDER is a cross-run forecaster that was not trained on Gemstones (`neuneu pretrain` writes one to
`unseen/gemstones`). Two parts: our own ladder, whose choices were all kept, each run held out in
turn; and Gemstones, of which the losses of the right answers are public, each size held out.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from evidence.data import read_ladder
from evidence.gemstones import gemstones_entry
from evidence.ladder_study import items_entry, ladder_entry
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with families/gemstones")
    parser.add_argument("work", type=Path, help="folder that ladder.py wrote")
    parser.add_argument("--unseen", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=Path("docs/results/evidence.json"))
    arguments = parser.parse_args()
    try:
        ladder, spent = read_ladder(arguments.work)
        record = {
            "ladder": ladder_entry(ladder) | {"spent": spent},
            "items": items_entry(ladder),
            "gemstones": gemstones_entry(arguments.shared, arguments.unseen),
            "python": platform.python_version(),
        }
    except UserError as error:
        raise SystemExit(str(error)) from error
    write_text_atomic(arguments.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
