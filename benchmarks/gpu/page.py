"""Writes docs/results/gpu.md from the record of benchmarks/gpu/check.py, or that there is none.

.venv/bin/python benchmarks/gpu/page.py docs/results/gpu.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts find their own folder only

from gpu.check import COLUMNS, cells
from neuneu.core.files import write_text_atomic

COMMANDS = (
    "```",
    ".venv/bin/python benchmarks/gpu/check.py --output docs/results/gpu.json",
    ".venv/bin/python benchmarks/gpu/page.py docs/results/gpu.json",
    "```",
)
PARTS = {
    "a": "The card",
    "b": "Scoring with transformers",
    "c": "Scoring with vLLM",
    "d": "Extraction on Ray",
    "e": "Training, and the tests that need a GPU",
}
ABOUT = {
    "a": "Medians of 20, random numbers; a copy counts the bytes read and those written.",
    "b": "Random weights in the shapes of DataDecide (llama) and Pythia (neox). 128 prompts of 256 "
    "to 1,023 tokens; the matrix rate is that of bfloat16, also for float32, at 2 FLOPs a "
    "parameter and token. The fastest of two to five passes.",
    "c": "Each row's engine is a process of its own; those of one family start together and "
    "measure one after the other, but `two at once` measure at the same time. The difference is "
    "from transformers in the same dtype. A mean above 0.1 nats (float32: 0.005) counts as failed.",
    "d": "Engines on quarters of the card, corpus and tasks, each checkpoint swapped in; then two "
    "checkpoints again by one engine alone.",
    "e": "Made-up curves of 66 tasks; the straightforward loop encodes the losses of every sample.",
}


def page(record: dict[str, Any] | None) -> str:
    """The page as markdown; nothing is typed by hand."""
    lines = ["# On a GPU", ""]
    if record is None or record["dry_run"]:
        lines += ["Not run: no record of a GPU exists yet. On a machine that has one:", ""]
        return "\n".join([*lines, *COMMANDS, ""])
    steps = record["steps"]
    made = [row["note"] for step in steps if step["part"] == "a" for row in step["rows"]
            if row["what"] in ("machine", "versions")]  # fmt: skip
    lines += [f"{record['date']}, in {record['seconds']:.0f} s: {'; '.join(reversed(made))}.", ""]
    lines += [*COMMANDS, ""]
    lines += [text for note in record.get("notes", []) for text in (note, "")]
    for part, title in PARTS.items():
        rows = [(step, row) for step in steps if step["part"] == part for row in step["rows"]
                if row["what"] not in ("machine", "versions")]  # fmt: skip
        if not rows:
            continue
        header = COLUMNS[1:]
        lines += [f"## {title}", "", ABOUT[part], "", f"| {' | '.join(header)} |",
                  "|" + "---|" * len(header)]  # fmt: skip
        for step, row in rows:
            found = cells(step, row)[1:]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in found)} |")
        lines.append("")
    troubles = [step for step in steps if step["errors"]]
    lines += ["## What failed or was not run", ""]
    if not troubles:
        lines += ["Nothing.", ""]
    for step in troubles:
        said = "; ".join(" ".join(text.split()) for text in step["errors"])
        lines.append(f"* {step['name']}, {step['status']}: {said}")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/gpu.md"))
    arguments = parser.parse_args()
    record = None
    if arguments.record.exists():
        record = json.loads(arguments.record.read_text(encoding="utf-8"))
    write_text_atomic(arguments.page, page(record))


if __name__ == "__main__":
    main()
