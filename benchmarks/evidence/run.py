"""What the items of a task add to forecasts of its accuracy.

    .venv/bin/python benchmarks/evidence/ladder.py ../shared runs/evidence
    .venv/bin/python benchmarks/evidence/run.py ../shared runs/evidence --unseen FOLDER
    .venv/bin/python benchmarks/page.py evidence

FOLDER is a cross-run forecaster that was not trained on Gemstones (`neuneu pretrain` writes one to
`unseen/gemstones`). Entries that the record has are kept, so that an interrupted run resumes;
delete it after a change. Two parts: our own ladder, whose choices were all kept, each run held out
in turn; and Gemstones, of which the losses of the right answers are public, each size held out.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

from evidence.data import read_ladder
from evidence.gemstones import gemstones_entry, scatter_entry
from evidence.ladder_study import COUNTS, FRACTIONS, case_entry, count_entry, describe
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with families/gemstones")
    parser.add_argument("work", type=Path, help="folder that ladder.py wrote")
    parser.add_argument("--unseen", type=Path, metavar="FOLDER", help="for Gemstones")
    parser.add_argument("--output", type=Path, default=Path("docs/results/evidence.json"))
    arguments = parser.parse_args()
    output: Path = arguments.output
    record = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}

    def keep(part: str, name: str, make: Callable[[], Any]) -> None:
        """Make an entry unless the record has it, and write the record."""
        entries = record.setdefault(part, {})
        if name not in entries:
            entries[name] = make()
            write_text_atomic(output, json.dumps(record, indent=1) + "\n")

    try:
        ladder, spent = read_ladder(arguments.work)
        keep("ladder", "about", lambda: describe(ladder) | {"spent": spent})
        record["ladder"] |= {"python": platform.python_version()}
        for alone in (False, True):
            for fraction in FRACTIONS:
                name = f"{fraction:g}, {'alone' if alone else 'related'}"
                keep("cases", name, partial(case_entry, ladder, fraction, alone=alone))
        for count in COUNTS:
            keep("counts", str(count), partial(count_entry, ladder, count))
        keep("gemstones", "scatter", partial(scatter_entry, arguments.shared))
        if arguments.unseen is not None:
            study = partial(gemstones_entry, arguments.shared, arguments.unseen)
            keep("gemstones", "study", study)
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
