"""What evidence adds to forecasts of accuracies: readings of a text, of the task, of its items.

    .venv/bin/python benchmarks/evidence/ladder.py ../shared runs/evidence
    .venv/bin/python benchmarks/evidence/tokens.py ../shared runs/evidence
    .venv/bin/python benchmarks/evidence/run.py ../shared runs/evidence --unseen FOLDER
    .venv/bin/python benchmarks/page.py evidence

FOLDER has a cross-run forecaster for each held-out family (`neuneu pretrain` writes them to
`unseen`): gemstones and olmo are read. Entries that the record has are kept, so that an interrupted
run resumes; delete it after a change. Three parts: our own ladder, whose choices were all kept,
each run held out in turn; Gemstones, of which the losses of the right answers are public, each size
held out; and continuous metrics of the tasks of Gemstones and OLMo. Answers of the published
network on the ladder are kept in `runs/evidence/answers` by data, settings and code.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the other modules here

import torch

from evidence.data import read_ladder
from evidence.gemstones import gemstones_entry, scatter_entry
from evidence.item_counts import counts_entry
from evidence.ladder_study import FRACTIONS, case_entry, describe
from evidence.readings import with_signals, with_text
from evidence.signals import PUBLIC, accuracy_entry, metric_entry
from evidence.window_study import SEEDS, STEPS, Windows
from neuneu.core.errors import UserError
from neuneu.core.files import write_text_atomic


class Record:
    """Entries of the study, written to a file whenever one is added."""

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self._path = path
        self.content: dict[str, Any] = {}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))

    def keep(self, part: str, name: str, make: Callable[[], Any]) -> None:
        """Make an entry unless there is one, and state its cost."""
        entries = self.content.setdefault(part, {})
        if name in entries:
            return
        started = time.process_time()
        entries[name] = make()
        seconds = time.process_time() - started
        self.content.setdefault("cpu_seconds", {})[f"{part}, {name}"] = round(seconds)
        self.write()
        print(f"{part}, {name}: {seconds:.0f} CPU seconds", flush=True)

    def write(self) -> None:
        """Write the file."""
        write_text_atomic(self._path, json.dumps(self.content, indent=1) + "\n")


def ladder_part(record: Record, work: Path, folder: Path | None) -> None:
    """Add the entries of our own ladder."""
    trajectories, spent = read_ladder(work)
    trajectories, words, text = with_text(list(map(with_signals, trajectories)), work)
    windows = Windows(trajectories, words, work / "answers", FRACTIONS)
    about = {"spent": spent, "text": text, "seeds": SEEDS, "steps": STEPS}
    record.keep("ladder", "about", lambda: describe(trajectories) | about)
    for alone in (False, True):
        for fraction in FRACTIONS:
            name = f"{fraction:g}, {'alone' if alone else 'related'}"
            make = partial(
                case_entry, trajectories, fraction, alone=alone, windows=windows, folder=folder
            )
            record.keep("cases", name, make)
    record.keep("counts", "study", partial(counts_entry, trajectories, folder=folder))


def public_part(record: Record, shared: Path, unseen: Path) -> None:
    """Add the entries of public families."""
    study = partial(gemstones_entry, shared, unseen / "gemstones")
    record.keep("gemstones", "study", study)
    for family in PUBLIC:
        make = partial(accuracy_entry, shared, unseen, family)
        record.keep("metrics", f"{family.name}, accuracy", make)
        for metric in family.metrics:
            make = partial(metric_entry, shared, unseen, family, metric)
            record.keep("metrics", f"{family.name}, {metric}", make)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with trajectories/ and families/")
    parser.add_argument("work", type=Path, help="folder that ladder.py wrote")
    parser.add_argument(
        "--unseen", type=Path, metavar="FOLDER",
        help="forecasters of held-out families, for the public ones",
    )  # fmt: skip
    parser.add_argument(
        "--forecaster", type=Path, metavar="FOLDER",
        help="a cross-run forecaster for the ladder; by default the one that is shipped",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("docs/results/evidence.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = Record(arguments.output)
    try:
        ladder_part(record, arguments.work, arguments.forecaster)
        record.keep("gemstones", "scatter", partial(scatter_entry, arguments.shared))
        if arguments.unseen is not None:
            public_part(record, arguments.shared, arguments.unseen)
    except UserError as error:
        raise SystemExit(str(error)) from error
    record.content["python"] = platform.python_version()
    record.write()


if __name__ == "__main__":
    main()
